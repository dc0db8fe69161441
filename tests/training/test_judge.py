import random

import numpy as np
import pytest

from training import judge

GROUPS = [
    {
        "kind": "faq",
        "lang": "en",
        "query": f"q{i}",
        "right": [f"q{i} answered"],
        "wrong": [f"q{i} mentioned {k}" for k in range(5)],
    }
    for i in range(24)
]


def reads(query: str, texts: list[str]) -> np.ndarray:
    """A model that knows what answers a query."""
    return np.array([2.0 if text == f"{query} answered" else -1 + 0.01 * i for i, text in enumerate(texts)])


def knows_style(query: str, texts: list[str]) -> np.ndarray:
    """A model that knows what an answer sounds like, and never looks at the query."""
    return np.array([1.0 + 0.001 * i if "answered" in text else -1.0 for i, text in enumerate(texts)])


def mean(found: list[dict[str, float]], measure: str) -> float:
    return float(np.mean([row[measure] for row in found]))


def test_a_model_that_reads_the_query_is_told_from_one_that_knows_the_style() -> None:
    reader, stylist = judge.judge(reads, GROUPS), judge.judge(knows_style, GROUPS)
    assert mean(reader, "right first") == mean(reader, "pool") == 1.0
    assert mean(reader, "swap") == mean(reader, "junk") == mean(reader, "unrelated first") == 0.0
    assert mean(stylist, "swap") == 1.0
    assert mean(stylist, "pool") < 0.1
    assert mean(stylist, "unrelated first") > 0.8


def test_a_constant_never_wins() -> None:
    found = judge.judge(lambda _query, texts: np.zeros(len(texts)), GROUPS)
    assert mean(found, "right first") == mean(found, "pool") == mean(found, "swap") == 0.0
    assert mean(found, "junk") == 1.0


def test_noise_is_near_chance() -> None:
    rng = random.Random(0)
    found = judge.judge(lambda _query, texts: np.array([rng.random() for _ in texts]), GROUPS * 4)
    assert mean(found, "swap") == pytest.approx(1 / 6, abs=0.12)
    assert mean(found, "right first") == pytest.approx(1 / 16, abs=0.08)
