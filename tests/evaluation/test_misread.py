"""Pairs that are read wrongly, of models with and without segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossrank import Reranker
from crossrank.evaluation.diagnose import RIGHT
from crossrank.evaluation.misread import Misreader
from tests.checkpoints import write_bert, write_xlm_roberta

QUERY, DOCUMENTS = "capital of France", ["Paris is the capital", "tea and a pot of it", ""]


@pytest.fixture(params=[write_bert, write_xlm_roberta])
def reranker(request: pytest.FixtureRequest, tmp_path: Path) -> Reranker:
    return Reranker(request.param(tmp_path / "model"), device="cpu", precision="fp32")


def test_the_right_reading_is_the_librarys(reranker: Reranker) -> None:
    expected = reranker.logits([(QUERY, document) for document in DOCUMENTS])
    assert Misreader(reranker).right(QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-5)


def test_every_wrong_reading_has_other_logits(reranker: Reranker) -> None:
    misreader = Misreader(reranker)
    right = misreader.right(QUERY, DOCUMENTS)
    found = misreader.misread(QUERY, DOCUMENTS)
    segments = reranker.encoder.encode("a", ["b"])[0].segment_ids is not None
    assert ("segment ids are missing" in found) == segments
    assert len(found) == 5 + segments
    for how, logits in found.items():
        assert len(logits) == len(DOCUMENTS), how
        assert not np.allclose(logits, right, atol=1e-6), how


def test_windows_cut_as_the_encoder_does(reranker: Reranker) -> None:
    misreader = Misreader(reranker)
    long = ["pot of tea " * 200]
    limit = reranker.max_length
    whole = reranker.logits([(QUERY, long[0])])
    assert misreader.tokens(QUERY, long[0]) > limit
    assert misreader.cut(QUERY, long, [limit])[RIGHT, limit] == pytest.approx(whole, abs=1e-5)
    wrong = misreader.miscut(QUERY, long, [limit])
    assert len(wrong) == 3
    for (how, window), logits in wrong.items():
        assert window == limit
        assert np.isfinite(logits).all(), how
        assert logits[0] != pytest.approx(whole[0], abs=1e-6), how
