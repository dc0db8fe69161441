"""What two models would rank, one after the other, for every ``keep``: from the scores of both, so that each
model reads the candidates once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossrank.cascade import choose, joined
from crossrank.data.rows import Row
from crossrank.data.trec import Qrels, Run
from crossrank.evaluation.measure import System, measure
from crossrank.ranking import Scored, is_blank

__all__ = ["TOP_N", "Curve", "Point", "curve"]

TOP_N = 10
"""Results whose agreement with the large model's alone is measured, by default."""

_KEEPS = (5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)


@dataclass(frozen=True, slots=True)
class Point:
    """What one ``keep`` gives and costs.

    Attributes:
        keep: texts of a query that the large model reads.
        agreement: share of the queries whose top n the large model has read, so that it is that of the large
            model alone.
        pairs: that the large model reads, of all queries.
        share: of the pairs that it reads alone.
        seconds: of both models for all queries, computed from what each took alone; None: not known.
        measures: the mean of each metric.
    """

    keep: int
    agreement: float
    pairs: int
    share: float
    seconds: float | None
    measures: Mapping[str, float]

    def as_object(self) -> dict[str, Any]:
        """The point, for ``--json``."""
        found: dict[str, Any] = {"keep": self.keep, "agreement": self.agreement, "pairs": self.pairs}
        return found | {"share": self.share, "seconds": self.seconds, "metrics": dict(self.measures)}


@dataclass(frozen=True, slots=True)
class Curve:
    """What two models give and cost together, for each ``keep``.

    Attributes:
        first: the small model, alone.
        large: the large model, alone.
        rows: the candidates.
        top_n: results that ``Point.agreement`` is about.
        needed: for each query that has documents, the smallest ``keep`` with which the large model reads its
            own top n.
        points: with ``keep`` rising.
    """

    first: System
    large: System
    rows: Sequence[Row]
    top_n: int
    needed: Sequence[int]
    points: list[Point] = field(default_factory=list)

    def least(self, agreement: float) -> int:
        """The smallest ``keep`` with at least this agreement; 1 where no query has documents."""
        needed = sorted(self.needed)
        return needed[math.ceil(agreement * len(needed)) - 1] if needed else 1

    def as_object(self) -> dict[str, Any]:
        """The curve, for ``--json``."""
        return {
            "first": self.first.name,
            "model": self.large.name,
            "top_n": self.top_n,
            "points": [point.as_object() for point in self.points],
        }


def curve(
    first: System,
    large: System,
    rows: Sequence[Row],
    *,
    keeps: Sequence[int] = (),
    top_n: int = TOP_N,
    agreement: float | None = None,
    qrels: Qrels | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Curve:
    """The curve of two models that have ranked the same rows.

    Args:
        first: the small model.
        large: the large model.
        rows: what both ranked.
        keeps: what to compute; (): a few usual numbers.
        top_n: results that the agreement is about.
        agreement: also compute the smallest ``keep`` that has it.
        qrels: judgments of the rows' documents.
        metrics: as ``measure`` takes them, of these judgments.
    """
    most = max((len(_texts(row)) for row in rows), default=0)
    needed = [_needed(first, large, row, top_n) for row in rows if _texts(row)]
    found = Curve(first, large, rows, top_n, needed)
    wanted = set(keeps or [keep for keep in _KEEPS if keep < most] + [most])
    if agreement is not None:
        wanted.add(found.least(agreement))
    alone = sum(len(_texts(row)) for row in rows)
    for keep in sorted(keep for keep in wanted if keep):
        pairs = sum(min(keep, len(_texts(row))) for row in rows)
        seconds = None
        if first.cost and large.cost and alone:
            seconds = first.cost.seconds + large.cost.seconds * pairs / alone
        measures: dict[str, float] = {}
        if qrels is not None and metrics:
            both = System(f"keep {keep}", _run(first, large, rows, keep))
            measure(both, qrels, [str(row.id) for row in rows], metrics)
            measures = {name: float(values.mean()) for name, values in both.measures.items()}
        agreeing = sum(each <= keep for each in needed) / max(1, len(needed))
        found.points.append(Point(keep, agreeing, pairs, pairs / max(1, alone), seconds, measures))
    return found


def _texts(row: Row) -> set[str]:
    """The texts that a large model may read."""
    return {document.text for document in row.documents if not is_blank(document.text)}


def _scored(system: System, row: Row) -> Scored:
    logits = system.run[str(row.id)]
    return Scored([logits[str(document.id)] for document in row.documents])


def _needed(first: System, large: System, row: Row, top_n: int) -> int:
    """The smallest ``keep`` with which the large model reads its own top n of a row."""
    texts = [document.text for document in row.documents]
    blank = [is_blank(text) for text in texts]
    thin = _scored(first, row).order(blank)
    place = {text: i for i, text in enumerate(dict.fromkeys(texts[i] for i in thin), start=1)}
    top = _scored(large, row).order(blank)[:top_n]
    return max((place[texts[i]] for i in top if not blank[i]), default=1)


def _run(first: System, large: System, rows: Sequence[Row], keep: int) -> Run:
    """What the two rank together."""
    run: Run = {}
    for row in rows:
        texts = [document.text for document in row.documents]
        thin, whole = _scored(first, row), _scored(large, row)
        chosen = choose(thin, texts, keep)
        scored = joined(thin, chosen, Scored(whole.logits[chosen]), (first.name, large.name))
        order = scored.order([is_blank(text) for text in texts])
        run[str(row.id)] = {str(row.documents[i].id): -float(n) for n, i in enumerate(order)}
    return run
