from pathlib import Path

import numpy as np
import pytest

from crossrank.data.collection import Collection
from crossrank.data.rows import Row
from crossrank.errors import InputError
from crossrank.evaluation.measure import System
from crossrank.evaluation.pool import bm25_system, measure_pool, pool_rows

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    "apple",
    "bridge",
    "candle",
    "desert",
    "engine",
    "forest",
    "guitar",
    "harbour",
    "island",
    "jungle",
    "kettle",
]


def collection(count: int = 11) -> tuple[Collection, dict[str, str]]:
    texts = {f"d{i}": f"all about the {word}" for i, word in enumerate(WORDS)}
    queries = {f"q{i}": f"what is a {WORDS[i]}" for i in range(count)}
    qrels = {f"q{i}": {f"d{i}": 1, f"d{(i + 1) % 11}": 0} for i in range(count)}
    return Collection("words", queries, qrels, lambda: iter(())), texts


def system(logits: np.ndarray, rows: list[Row]) -> System:
    documents = [str(document.id) for document in rows[0].documents]
    run = {
        str(row.id): dict(zip(documents, own, strict=True))
        for row, own in zip(rows, logits.tolist(), strict=True)
    }
    return System("s", run)


def test_every_query_meets_the_right_texts_of_all() -> None:
    rows = pool_rows(*collection())
    assert [row.query for row in rows][:2] == ["what is a apple", "what is a bridge"]
    assert all(row.documents == rows[0].documents for row in rows)
    assert [document.id for document in rows[0].documents] == [f"d{i}" for i in range(11)]
    assert len(pool_rows(*collection(), max_queries=10)) == 10


def test_a_text_that_is_right_for_two_queries_is_in_the_pool_once() -> None:
    found, texts = collection()
    found.qrels["q1"] = {"d0": 1}
    assert [row.id for row in pool_rows(found, texts)] == ["q0", *(f"q{i}" for i in range(2, 11))]


def test_too_few_queries_are_an_error_that_counts_them() -> None:
    with pytest.raises(InputError, match=r"words: 9 queries .* at least 10"):
        pool_rows(*collection(9))


def test_a_reader_of_queries_and_one_of_texts_are_told_apart() -> None:
    rows = pool_rows(*collection())
    reader = measure_pool(system(np.eye(11) * 9 + np.random.default_rng(0).normal(size=(11, 11)), rows), rows)
    assert reader.first == 1.0
    assert reader.document_share < 0.3
    blind = measure_pool(system(np.tile(np.arange(11.0), (11, 1)), rows), rows)
    assert blind.first == pytest.approx(1 / 11)
    assert blind.document_share == pytest.approx(1.0)
    assert blind.query_share < 0.2
    constant = measure_pool(system(np.zeros((11, 11)), rows), rows)
    assert constant.first == 0.0  # a tie is no first place
    assert constant.document_share == 0.0
    assert measure_pool(bm25_system(rows), rows).first == 1.0
