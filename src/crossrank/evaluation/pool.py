"""Does a model read the query? Each query against the right texts of all queries.

A model that has learnt what right texts look like, and not what answers a query, still does well among
hard wrong texts that look different. Here every candidate is a right text, of one query or another, so
that nothing but the query tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank.data.collection import Collection
from crossrank.data.rows import Document, Row
from crossrank.data.trec import Run
from crossrank.errors import InputError
from crossrank.evaluation.measure import MIN_QUERIES, System, compare
from crossrank.text.keywords import KeywordIndex

__all__ = ["MAX_QUERIES", "PoolResult", "bm25_system", "measure_pool", "pool_rows"]

MAX_QUERIES = 120
"""Queries in the pool by default. Cost grows with the square: 120 queries are 14,400 pairs."""


@dataclass(frozen=True, slots=True)
class PoolResult:
    """How a system ranks the pool.

    Attributes:
        name: of the system.
        first: share of queries whose own text comes first; a tie for the first place does not count.
        low, high: its 95 % interval, by bootstrap over the queries.
        document_share: share of the variance of the scores of wrong (query, text) pairs that the text
            alone explains, 0 to 1. Near 0 for a model that reads the query; a model that does not has 1.
        query_share: the same of the query alone; it changes no order.
    """

    name: str
    first: float
    low: float
    high: float
    document_share: float
    query_share: float


def pool_rows(collection: Collection, texts: Mapping[str, str], max_queries: int = MAX_QUERIES) -> list[Row]:
    """One row for each query: its own text and those of all others, in the same order everywhere.

    The first ``max_queries`` queries are taken that have a document labelled above 0; a document that is
    right for several of them, or equal to another, is taken for none but the first.

    Raises:
        InputError: fewer than 10 queries have a text of their own.
    """
    chosen: dict[str, Document] = {}
    taken: set[str] = set()
    for query in collection.queries:
        labels = collection.qrels.get(query, {})
        right = [x for x in sorted(labels, key=lambda x: -labels[x]) if labels[x] > 0 and x in texts]
        # Another query's text must not answer this one, nor this one's another.
        if any(texts[x] in taken for x in right):
            continue
        own = next((x for x in right if texts[x].strip()), None)
        if own is None:
            continue
        taken.update(texts[x] for x in right)
        chosen[query] = Document(own, texts[own])
        if len(chosen) == max_queries:
            break
    if len(chosen) < MIN_QUERIES:
        raise InputError(
            f"{collection.name}: {len(chosen)} queries have a relevant document of their own; "
            f"a pool takes at least {MIN_QUERIES}"
        )
    pooled = tuple(chosen.values())
    return [Row(query, query, collection.queries[query], pooled) for query in chosen]


def bm25_system(rows: Sequence[Row]) -> System:
    """BM25 over the pool, to compare with."""
    documents = rows[0].documents
    index = KeywordIndex([document.text for document in documents])
    run: Run = {}
    for row in rows:
        scores = index.scores(row.query).tolist()
        run[str(row.id)] = {
            str(document.id): score for document, score in zip(documents, scores, strict=True)
        }
    return System("BM25", run)


def measure_pool(system: System, rows: Sequence[Row]) -> PoolResult:
    """What a system's logits of the rows of ``pool_rows`` say."""
    order = [str(document.id) for document in rows[0].documents]
    logits = np.array([[system.run[str(row.id)][x] for x in order] for row in rows], np.float64)
    own = np.eye(len(rows), dtype=bool)
    rivals = np.where(own, -np.inf, logits).max(axis=1)
    first = (logits[own] > rivals).astype(np.float64)
    interval = compare(first, np.zeros(len(first))).interval
    assert interval is not None  # of as many queries as pool_rows gives
    return PoolResult(
        system.name,
        float(first.mean()),
        *interval,
        _share(logits, ~own, axis=0),
        _share(logits, ~own, axis=1),
    )


def _share(logits: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_], axis: int) -> float:
    """Share of the wrong pairs' variance that lies between the means along an axis."""
    mean = logits[wrong].mean()
    means = np.where(wrong, logits, 0).sum(axis=axis) / wrong.sum(axis=axis)
    between = np.expand_dims((means - mean) ** 2, axis) * wrong
    total = float(((logits - mean) ** 2)[wrong].sum())
    return float(between.sum() / total) if total else 0.0
