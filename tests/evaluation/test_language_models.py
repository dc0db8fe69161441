"""Servers of language models: right ones, and those that do not ask the model what it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from crossrank import Reranker
from crossrank.evaluation.diagnose import RIGHT
from crossrank.evaluation.misread import Misreader
from crossrank.evaluation.server import Reference, local_reference
from crossrank.pairs import EncodedPair
from tests.decoders import write_decoder
from tests.evaluation.test_server import errors, examine, of
from tests.evaluation.wrong_servers import Wrong

QUERY, DOCUMENTS = "capital of France", ["Paris is the capital", "tea and a pot of it", ""]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    folder = tmp_path_factory.mktemp("decoder") / "Qwen3-Reranker-0.6B"
    write_decoder(folder, "qwen3", tie_word_embeddings=True)
    return Reranker(folder, device="cpu", precision="fp32", threads=2)


@pytest.fixture(scope="module")
def of_decoder(decoder: Reranker) -> Reference:
    whole = local_reference(decoder)
    return dataclasses.replace(whole, cases=whole.cases[:2])


def test_a_prompts_wrong_readings(decoder: Reranker) -> None:
    misreader = Misreader(decoder)
    right = misreader.right(QUERY, DOCUMENTS)
    assert right == pytest.approx(decoder.logits([(QUERY, text) for text in DOCUMENTS]), abs=1e-5)
    found = misreader.misread(QUERY, DOCUMENTS)
    assert len(found) == 7
    for how, logits in found.items():
        assert not np.allclose(logits, right, atol=1e-4), how
    # Nothing of the prompt is left: its tokens are those of the two texts alone.
    bare = decoder.encoder.ids([QUERY, DOCUMENTS[0]])
    pair = EncodedPair(np.concatenate(bare), None, truncated=False)
    wanted = decoder.model.logits([pair])
    without = found["the template is missing, and query and document run into one another"]
    assert without[0] == pytest.approx(wanted[0], abs=1e-5)
    long, window = ["pot of tea " * 600], misreader.min_window + 20
    cut = misreader.cut(QUERY, long, [window])[RIGHT, window]
    for (how, _), logits in misreader.miscut(QUERY, long, [window]).items():
        assert logits[0] != pytest.approx(cut[0], abs=1e-4), how


def test_a_right_server_of_a_language_model_passes(decoder: Reranker, of_decoder: Reference) -> None:
    report = examine(Wrong(decoder), of_decoder)
    assert errors(report) == {}
    assert of(report, "Scores").found.startswith("sigmoids of the logits;")
    assert of(report, "Truncation").found.endswith(f"is cut at its end at {decoder.max_length} tokens")


def _bare(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    """As servers read them that know nothing of a prompt."""
    asked, *documents = reranker.encoder.ids([query, *texts])
    return [
        EncodedPair(np.concatenate((asked, ids))[: reranker.max_length], None, False) for ids in documents
    ]


def _swapped(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    return [reranker.encoder.encode(text, [query])[0] for text in texts]


def _without_instruction(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    return reranker.encoder.encode(query, texts, instruction="")


def _without_end(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    after = len(reranker.encoder.query("").template.after)
    pairs = reranker.encoder.encode(query, texts)
    return [EncodedPair(pair.token_ids[:-after], None, pair.truncated) for pair in pairs]


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (_bare, "the template is missing, and query and document run into one another"),
        (_without_instruction, "the instruction is missing"),
        (_without_end, "what the template has behind the document is missing"),
        (_swapped, "the document stands where the query should"),
    ],
)
def test_a_language_model_that_is_asked_wrongly_is_named(
    decoder: Reranker, of_decoder: Reference, read: Any, words: str
) -> None:
    report = examine(Wrong(decoder, read=read), of_decoder)
    assert not report.right
    assert errors(report)["Scores"].startswith(words)
