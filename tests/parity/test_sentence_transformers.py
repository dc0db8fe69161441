"""``truncation="longest_first"`` gives the token ids and logits of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import PreTrainedModel

from crossrank import Reranker
from tests.checkpoints import write_bert, write_xlm_roberta
from tests.parity import PAIRS, WINDOWS, encode


@pytest.fixture(scope="module", params=[write_xlm_roberta, write_bert], ids=["xlm-roberta", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = request.param(tmp_path_factory.mktemp("checkpoint"))
    return written


def _load(folder: Path, window: int) -> CrossEncoder:
    return CrossEncoder(str(folder), device="cpu", max_length=window, local_files_only=True)


def _inputs(reference: CrossEncoder) -> list[dict[str, list[int]]]:
    """What the model itself is called with, one pair at a time, so that rows are in order."""
    seen: list[dict[str, list[int]]] = []

    model = next(part for part in reference.modules() if isinstance(part, PreTrainedModel))
    forward = model.forward

    def record(**inputs: Any) -> Any:
        seen.append({key: value[0].tolist() for key, value in inputs.items() if torch.is_tensor(value)})
        return forward(**inputs)

    # Not a hook: sentence-transformers calls forward itself.
    with patch.object(model, "forward", record):
        for pair in PAIRS:
            reference.predict([pair])
    return seen


@pytest.mark.parametrize("window", WINDOWS)
def test_token_ids_are_equal(folder: Path, window: int) -> None:
    theirs = _inputs(_load(folder, window))
    ours = encode(folder, window, "longest_first")
    assert len(theirs) == len(PAIRS)
    for their, our in zip(theirs, ours, strict=True):
        assert their["input_ids"] == our.token_ids.tolist()
        assert all(their["attention_mask"])
        if our.segment_ids is not None:
            assert their["token_type_ids"] == our.segment_ids.tolist()


@pytest.mark.parametrize("window", WINDOWS)
def test_logits_and_scores_are_equal(folder: Path, window: int) -> None:
    reference = _load(folder, window)
    pairs = list(PAIRS)
    ours = Reranker(folder, device="cpu", precision="fp32", max_length=window, truncation="longest_first")
    logits = reference.predict(pairs, activation_fn=torch.nn.Identity())
    assert np.ptp(logits) > 1
    np.testing.assert_allclose(ours.logits(pairs), logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.score(pairs), reference.predict(pairs), rtol=0, atol=1e-5)


def test_the_default_cuts_otherwise(folder: Path) -> None:
    """Else the tests above would not show that the option is needed."""
    theirs = [their["input_ids"] for their in _inputs(_load(folder, 64))]
    assert theirs != [our.token_ids.tolist() for our in encode(folder, 64)]
