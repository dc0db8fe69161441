"""Random models of several families: the torch engine's logits are those of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from crossrank.engines._plain import PlainModel
from crossrank.engines.torch import TorchEngine
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import Pack

SIZE: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
CONFIGS: dict[str, Any] = {
    "modernbert": transformers.ModernBertConfig(
        **SIZE, intermediate_size=48, local_attention=8, classifier_pooling="mean", pad_token_id=0
    ),
    "electra": transformers.ElectraConfig(**SIZE, intermediate_size=48, embedding_size=16),
    "distilbert": transformers.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=48),
    "camembert": transformers.CamembertConfig(**SIZE, intermediate_size=48, pad_token_id=1),
}


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", CONFIGS)
def test_logits_are_those_of_transformers(family: str, labels: int, tmp_path: Path) -> None:
    config = CONFIGS[family]
    config.num_labels = labels
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    engine = TorchEngine(Checkpoint(tmp_path))
    assert isinstance(engine._model, PlainModel)
    pairs = [torch.randint(3, 50, (length,)) for length in (30, 7, 30, 12)]
    with torch.inference_mode():
        rows = [model(pair[None]).logits[0] for pair in pairs]
    expected = [float(row[0] if labels == 1 else row[1] - row[0]) for row in rows]
    tokens = torch.cat(pairs).numpy().astype(np.int32)
    offsets = np.cumsum([0, *(len(pair) for pair in pairs)]).astype(np.int32)
    np.testing.assert_allclose(engine.logits(Pack(tokens, offsets)), expected, rtol=0, atol=1e-3)
