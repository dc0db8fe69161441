"""What a small model before a large one saves, on a little data."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cascade import measure, passages, some, table, take_times
from crossrank import Reranker
from crossrank.data.collection import load_collection
from crossrank.engines.fake import FakeEngine
from crossrank.pairs import PairEncoder
from tests.checkpoints import write_xlm_roberta

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PairEncoder:
    folder = write_xlm_roberta(tmp_path_factory.mktemp("benchmark") / "tiny")
    return PairEncoder(folder / "tokenizer.json", max_length=64)


def test_times_are_taken_in_turns(encoder: PairEncoder) -> None:
    small, engine = FakeEngine(), FakeEngine()
    large = Reranker.from_parts(encoder, engine)
    both = Reranker.from_parts(encoder, engine, first=Reranker.from_parts(encoder, small), keep=20)
    alone, cascade = take_times(large, both, count=100, repeats=2)
    assert (len(alone), len(cascade)) == (2, 2)
    # Once more of each, to warm up: equal passages would be scored once.
    assert sum(len(pack) for pack in engine.packs) == 3 * (100 + 20)
    assert sum(len(pack) for pack in small.packs) == 3 * 100
    with pytest.raises(SystemExit, match="different passages"):
        passages(1000)


@pytest.mark.full  # ir-measures
def test_the_curve_of_a_collection(encoder: PairEncoder) -> None:
    small, large = (Reranker.from_parts(encoder, FakeEngine(lambda ids: float(ids.sum() % 97))) for _ in "ab")
    found = measure(some(load_collection(str(DATA / "cranfield")), 4), small, large, depth=12)
    # Both are the same, so that the first model's best ten are the other one's.
    assert found.least(0.99) == 10
    rows = table(found).splitlines()
    assert rows[0] == "| keep | same top 10 | nDCG@10 | MRR@10 | pairs | faster |"
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| 5", "| 10", "| 12"]
    # The contrary model has its best where the first one has its worst, so that it must read all.
    contrary = Reranker.from_parts(encoder, FakeEngine(lambda ids: -float(ids.sum() % 97)))
    found = measure(some(load_collection(str(DATA / "cranfield")), 4), small, contrary, depth=12)
    assert found.least(0.99) == 12
