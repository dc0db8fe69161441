"""Test whether a model reads the query, by ranking the relevant documents of all queries for each query.

A model that has learnt what relevant documents look like, but not what answers a query, still does well on
candidates whose wrong documents look different. In the pool every document is relevant to some query, so
only the query can tell them apart.
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
"""Default number of queries in the pool. The cost is quadratic: 120 queries make 14,400 pairs."""


@dataclass(frozen=True, slots=True)
class PoolResult:
    """How a system ranks the pool.

    Attributes:
        name: the name of the system.
        first: share of queries that rank their own document first; a tie for first place does not count.
        low: lower end of the 95 % interval of ``first``, by bootstrap over the queries.
        high: upper end of that interval.
        document_share: share of the variance of the logits of wrong (query, document) pairs that the
            document alone explains, 0 to 1. It is near 0 for a model that reads the query, and 1 for a
            model that does not.
        query_share: the share that the query alone explains, 0 to 1; it does not affect any ranking.
    """

    name: str
    first: float
    low: float
    high: float
    document_share: float
    query_share: float


def pool_rows(collection: Collection, texts: Mapping[str, str], max_queries: int = MAX_QUERIES) -> list[Row]:
    """Make a row for each query, with the documents of all queries in the same order.

    Takes the first ``max_queries`` queries that have a document with a label above 0. If a document is
    relevant to several queries, or equals another document, only the first of these queries is taken.

    Raises:
        InputError: fewer than 10 queries have a document of their own.
    """
    chosen: dict[str, Document] = {}
    taken: set[str] = set()
    for query in collection.queries:
        labels = collection.qrels.get(query, {})
        relevant = [x for x in sorted(labels, key=lambda x: -labels[x]) if labels[x] > 0 and x in texts]
        # The document of one query must not answer another query of the pool.
        if any(texts[x] in taken for x in relevant):
            continue
        own = next((x for x in relevant if texts[x].strip()), None)
        if own is None:
            continue
        taken.update(texts[x] for x in relevant)
        chosen[query] = Document(own, texts[own])
        if len(chosen) == max_queries:
            break
    if len(chosen) < MIN_QUERIES:
        raise InputError(
            f"{collection.name}: {len(chosen)} queries have a relevant document of their own; "
            f"a pool needs at least {MIN_QUERIES}"
        )
    pooled = tuple(chosen.values())
    told = collection.instructions
    return [
        Row(query, query, collection.queries[query], pooled, instruction=told.get(query)) for query in chosen
    ]


def bm25_system(rows: Sequence[Row]) -> System:
    """Rank the pool by BM25, for comparison."""
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
    """Measure a system that has ranked the rows of ``pool_rows``."""
    order = [str(document.id) for document in rows[0].documents]
    logits = np.array([[system.run[str(row.id)][x] for x in order] for row in rows], np.float64)
    own = np.eye(len(rows), dtype=bool)
    rivals = np.where(own, -np.inf, logits).max(axis=1)
    first = (logits[own] > rivals).astype(np.float64)
    interval = compare(first, np.zeros(len(first))).interval
    assert interval is not None  # pool_rows returns enough queries for an interval
    return PoolResult(
        system.name,
        float(first.mean()),
        *interval,
        _share(logits, ~own, axis=0),
        _share(logits, ~own, axis=1),
    )


def _share(logits: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_], axis: int) -> float:
    """Share of the variance of the wrong pairs that is explained by their means along ``axis``."""
    mean = logits[wrong].mean()
    means = np.where(wrong, logits, 0).sum(axis=axis) / wrong.sum(axis=axis)
    between = np.expand_dims((means - mean) ** 2, axis) * wrong
    total = float(((logits - mean) ** 2)[wrong].sum())
    return float(between.sum() / total) if total else 0.0
