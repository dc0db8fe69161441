"""The torch engine gives the logits of a plain transformers script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from crossrank import Reranker
from crossrank.pairs import PairEncoder
from tests.checkpoints import write_bert, write_xlm_roberta
from tests.parity import PAIRS, WINDOWS, encode


@pytest.fixture(scope="module", params=[write_xlm_roberta, write_bert], ids=["xlm-roberta", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = request.param(tmp_path_factory.mktemp("checkpoint"), layers=3)
    return written


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


def _plain(
    folder: Path, pairs: Sequence[tuple[str, str]], window: int, *, segments: bool = True
) -> npt.NDArray[np.float32]:
    """Logits as the model card's script computes them, padded into one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    inputs = tokenizer(list(pairs), padding=True, truncation=True, max_length=window, return_tensors="pt")
    if not segments:
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = model(**inputs).logits[:, 0].numpy()
    return logits


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("batch_tokens", [1, 700, None])
def test_fp32_logits_are_equal(folder: Path, window: int, batch_tokens: int | None) -> None:
    ours = Reranker(
        folder,
        device="cpu",
        precision="fp32",
        max_length=window,
        batch_tokens=batch_tokens,
        truncation="longest_first",
    )
    np.testing.assert_allclose(ours.logits(PAIRS), _plain(folder, PAIRS, window), rtol=0, atol=1e-4)


def test_bf16_logits_are_near(folder: Path) -> None:
    ours = Reranker(folder, device="cpu", precision="bf16", truncation="longest_first")
    difference = np.abs(ours.logits(PAIRS) - _plain(folder, PAIRS, 512))
    assert 0 < difference.mean() < 0.1
    assert difference.max() < 0.5


def test_segment_ids_reach_the_model(bert: Path) -> None:
    ours = Reranker(bert, device="cpu", precision="fp32", truncation="longest_first").logits(PAIRS)
    without = _plain(bert, PAIRS, 512, segments=False)
    assert np.abs(ours - without).min() > 1e-3


@pytest.mark.parametrize("window", WINDOWS)
def test_ids_are_those_of_the_tokenizers_pair_encoding(folder: Path, window: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    theirs = tokenizer(list(PAIRS), truncation=True, max_length=window)
    for i, our in enumerate(encode(folder, window, "longest_first")):
        assert theirs["input_ids"][i] == our.token_ids.tolist()
        if our.segment_ids is not None:
            assert theirs["token_type_ids"][i] == our.segment_ids.tolist()


@pytest.mark.parametrize("window", range(6, 20))
def test_every_length_is_cut_as_the_tokenizer_cuts_it(folder: Path, window: int) -> None:
    pairs = [("中 " * query, "国 " * document) for query in range(20) for document in range(20)]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = PairEncoder(folder / "tokenizer.json", max_length=window, truncation="longest_first")
    theirs = tokenizer(pairs, truncation="longest_first", max_length=window)["input_ids"]
    assert theirs == [
        pair.token_ids.tolist()
        for pair in ours.encode([query for query, _ in pairs], [text for _, text in pairs])
    ]
