"""The curve of two models, from the scores of both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crossrank import Reranker
from crossrank.data.rows import Document, Row
from crossrank.engines.fake import FakeEngine
from crossrank.evaluation.cascade import curve
from crossrank.evaluation.measure import Cost, System, parse_metrics
from crossrank.pairs import PairEncoder
from tests.checkpoints import CORPUS, write_xlm_roberta


def row(name: str, *texts: str) -> Row:
    return Row(name, name, "q", tuple(Document(i, text) for i, text in enumerate(texts)))


def system(name: str, rows: list[Row], *logits: list[float], seconds: float = 1.0) -> System:
    run = {
        str(each.id): {str(i): logit for i, logit in enumerate(own)}
        for each, own in zip(rows, logits, strict=True)
    }
    pairs = sum(map(len, logits))
    return System(name, run, cost=Cost("fake", "cpu", "fp32", pairs, 0.0, seconds, 0))


def test_the_least_keep_is_the_worst_place_of_the_large_models_best() -> None:
    rows = [row("a", "one", "two", "three", "four"), row("b", "one", "one", "---", "two"), row("c")]
    first = system("first", rows, [4.0, 3.0, 2.0, 1.0], [3.0, 3.0, 9.0, 1.0], [], seconds=1.0)
    large = system("large", rows, [1.0, 2.0, 9.0, 0.0], [1.0, 1.0, 9.0, 5.0], [], seconds=6.0)
    found = curve(first, large, rows, top_n=2, agreement=0.5)
    # The large model's two best are the first one's second and third; and its second and first, as equal
    # texts count once, and a blank one comes last.
    assert list(found.needed) == [3, 2]
    assert (found.least(0.5), found.least(0.99), found.least(1.0)) == (2, 3, 3)
    assert [(point.keep, point.agreement, point.pairs) for point in found.points] == [
        (2, 0.5, 4),
        (4, 1.0, 6),
    ]
    assert [point.share for point in found.points] == [pytest.approx(4 / 6), 1.0]
    assert [point.seconds for point in found.points] == [pytest.approx(1 + 6 * 4 / 6), 7.0]


def test_nothing_to_rank() -> None:
    rows = [row("a"), row("b", "---")]
    empty = system("one", rows, [], [1.0])
    found = curve(empty, empty, rows, agreement=0.99)
    assert (list(found.needed), found.least(0.99)) == ([], 1)
    assert [(point.keep, point.pairs) for point in found.points] == [(1, 0)]


def test_the_curve_is_what_a_cascade_gives(tmp_path: Path) -> None:
    dice = random.Random(5)
    words = " ".join(CORPUS).split()
    rows = [
        row(
            str(n), *(" ".join(dice.choices(words, k=dice.randint(0, 9))) for _ in range(dice.randint(1, 14)))
        )
        for n in range(30)
    ]
    encoder = PairEncoder(write_xlm_roberta(tmp_path / "tiny") / "tokenizer.json")
    small = Reranker.from_parts(encoder, FakeEngine(lambda ids: float(ids.sum() % 7)))
    alone = Reranker.from_parts(encoder, FakeEngine(lambda ids: float(ids.sum() % 11)))
    qrels = {str(each.id): {"0": 1} for each in rows}

    def ranked(name: str, reranker: Reranker) -> System:
        rankings = [reranker.rank(each.query, [text for _, text in each.documents]) for each in rows]
        return System(
            name,
            {
                str(each.id): {str(hit.index): hit.logit for hit in ranking}
                for each, ranking in zip(rows, rankings, strict=True)
            },
        )

    metrics = parse_metrics(["MRR"])
    found = curve(ranked("s", small), ranked("l", alone), rows, keeps=[1, 4], qrels=qrels, metrics=metrics)
    for point in found.points:
        both = Reranker.from_parts(encoder, alone.engine, first=small, keep=point.keep)
        rankings = [both.rank(each.query, [text for _, text in each.documents]).indices for each in rows]
        expected = sum(1 / (1 + ranking.index(0)) for ranking in rankings) / len(rows)
        assert point.measures["MRR"] == pytest.approx(expected)
        best = [alone.rank(each.query, [text for _, text in each.documents]).indices[:10] for each in rows]
        same = sum(one[:10] == other for one, other in zip(rankings, best, strict=True))
        assert point.agreement * len(found.needed) <= same
