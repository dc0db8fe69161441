"""A small model of another family: a folder holds what was trained, and layers learn by themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossrank import Reranker
from crossrank.packing import build_pack
from training.small_family import CONFIGS, States, lead, start, write

PAIRS = [
    ("capital of France", "Paris is the seat of government."),
    ("怎么保养电池", "电量保持在两成到八成之间。"),
]


def small(family: str) -> dict[str, Any]:
    """A configuration with the family's form and few weights."""
    config = {"model_type": family, "id2label": {"0": "LABEL_0"}, **CONFIGS[family]}
    sizes = {"hidden_size": 32, "dim": 32, "num_attention_heads": 4, "n_heads": 4}
    sizes |= {"intermediate_size": 48, "hidden_dim": 64}
    return config | {name: size for name, size in sizes.items() if name in config}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_folder_holds_what_was_trained(family: str, tmp_path: Path) -> None:
    config = small(family)
    model, sources = start(config, {})
    write(model, sources, config, tmp_path)
    with Reranker(tmp_path, precision="fp32", device="cpu", threads=1) as reranker:
        found = reranker.logits(PAIRS)
        encoded = reranker.encoder.encode([query for query, _ in PAIRS], [text for _, text in PAIRS])
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].token_ids))
    with torch.no_grad():
        wanted = model(build_pack([encoded[i] for i in order])).numpy()
    assert found[order] == pytest.approx(wanted, abs=1e-4)
    assert len(np.unique(found)) == len(PAIRS)


@pytest.mark.parametrize("family", ["new", "modernbert"])
def test_a_led_layer_starts_from_the_teachers_states(family: str) -> None:
    """Where norms come first, they have the size that the model's own states have there."""
    (teacher, _), (model, _) = start(small("distilbert"), {}), start(small(family), {})
    taught, learnt = States(teacher, [1, 3]), States(model, [0, 1])
    given: list[torch.Tensor] = []
    model.layer[1].register_forward_hook(lambda _, arguments, __: given.append(arguments[0]))
    with Reranker(threads=1) as mini:
        pack = build_pack(mini.encoder.encode([PAIRS[0][0]], [PAIRS[0][1]]))
    handles = lead(model, taught)
    with torch.no_grad():
        teacher(pack)
        for number in range(2, 6):  # six layers of the model would need twelve of the teacher
            taught.last[2 * number - 1] = taught.last[1]
        model(pack)
        size = learnt.last[0].std() if family == "modernbert" else 1.0
        torch.testing.assert_close(given[-1], size * taught.last[1])
        for handle in handles:
            handle.remove()
        model(pack)
    assert torch.equal(given[-1], learnt.last[0])
