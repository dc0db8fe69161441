"""Is a ranking better than another? Measures, their intervals, speed and memory.

Every system orders the same candidates: the first stage's, BM25's where there is none. Measures are
those of ir-measures (trec_eval's, where it has them); a query without results counts as 0.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank._extras import needs
from crossrank.data.collection import Collection
from crossrank.data.rows import Document, Row
from crossrank.data.trec import Qrels, Run
from crossrank.errors import CrossRankError, EngineError, InputError
from crossrank.text.keywords import KeywordIndex

__all__ = [
    "METRICS",
    "MIN_QUERIES",
    "Comparison",
    "Cost",
    "System",
    "candidates",
    "compare",
    "first_stage",
    "measure",
    "parse_metrics",
    "rerank",
]

METRICS = ("nDCG@10", "MRR@10", "MAP", "Recall@100", "P@10")
"""What is measured where nothing else is asked for."""

MIN_QUERIES = 10
"""Queries of the least set that an interval is told of."""

RESAMPLES = 10_000
"""Of the bootstrap."""

# Names that people use, and ir-measures' own.
_NAMES = {"mrr": "RR", "map": "AP", "recall": "R", "ndcg": "nDCG", "p": "P", "precision": "P"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to rerank.

    Attributes:
        engine, device, precision: what ran.
        pairs: how many.
        load_s: seconds to open the model.
        seconds: of the pairs, from text to logit.
        memory: largest resident memory of the process that did nothing else, in bytes; its Python,
            libraries and texts included.
    """

    engine: str
    device: str
    precision: str
    pairs: int
    load_s: float
    seconds: float
    memory: int

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.pairs / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class System:
    """An order of documents for each query, and how it measures.

    Attributes:
        name: for tables.
        run: for each query, documents with the numbers that they are ordered by, best first.
        scores: for each query, documents with scores from 0 to 1; None for a run from elsewhere.
        cost: None for a run from elsewhere.
        is_given: its numbers are a file's, whose equal numbers are ordered as trec_eval does it (by
            document id); else its order is the one of ``run``.
        measures: by metric, the value of each query, in the order of the collection's queries.
    """

    name: str
    run: Run
    scores: Run | None = None
    cost: Cost | None = None
    is_given: bool = False
    measures: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system's mean of a metric, less the baseline's.

    Attributes:
        difference: of the means.
        interval: 95 % of the paired bootstrap (percentiles over resampled queries); None of fewer than
            10 queries, of which no interval can be told: the bootstrap's would be far too narrow.
        wins, losses: queries on which the system is better, and worse.
    """

    difference: float
    interval: tuple[float, float] | None
    wins: int
    losses: int


def parse_metrics(names: Sequence[str]) -> dict[str, Any]:
    """ir-measures' measures by the names given: nDCG@10, MRR, MAP, Recall@100, P@5 ...

    Raises:
        InputError: there is no such measure.
        MissingLibraryError: ir-measures is not installed.
    """
    with needs("eval", "a measure"):
        import ir_measures
    found: dict[str, Any] = {}
    for name in names:
        base, at, cutoff = name.partition("@")
        if cutoff.isdecimal() and not 1 <= int(cutoff[:9]) <= 1_000_000:
            raise InputError(f"metric {name!r}: a measure is of the best 1 to 1,000,000 documents")
        try:
            measure = ir_measures.parse_measure(_NAMES.get(base.lower(), base) + at + cutoff)
            ir_measures.DefaultPipeline.evaluator([measure], {"q": {"d": 1}})
        except (
            AssertionError,
            ValueError,
            NameError,
            SyntaxError,
            KeyError,
            TypeError,
            RuntimeError,
        ) as error:
            raise InputError(
                f"metric {name!r} is unknown; for instance {', '.join(METRICS)}, or another of "
                "https://ir-measur.es"
            ) from error
        found[name] = measure
    return found


def measure(system: System, qrels: Qrels, queries: Sequence[str], metrics: Mapping[str, Any]) -> None:
    """Fill in the system's measures: float64 (queries,) each, 0 for a query without results."""
    import ir_measures

    run = system.run
    if not system.is_given:
        run = {query: {x: -float(i) for i, x in enumerate(found)} for query, found in run.items()}
    place = {query: i for i, query in enumerate(queries)}
    values = {name: np.zeros(len(queries)) for name in metrics}
    names: dict[str, list[str]] = {}  # one measure may be asked for by several: MRR@10, RR@10
    for name, metric in metrics.items():
        names.setdefault(str(metric), []).append(name)
    for found in ir_measures.iter_calc(list({str(m): m for m in metrics.values()}.values()), qrels, run):
        if found.query_id in place:
            for name in names[str(found.measure)]:
                values[name][place[found.query_id]] = found.value
    system.measures = values


def compare(
    system: npt.NDArray[np.float64], baseline: npt.NDArray[np.float64], *, seed: int = 0
) -> Comparison:
    """Paired bootstrap over queries: both systems are resampled together.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).

    Args:
        system, baseline: float64 (queries,), the same queries in the same order.
        seed: of the resampling; the same seed gives the same interval.
    """
    differences = system - baseline
    close = 1e-12
    return Comparison(
        float(differences.mean()),
        _interval(differences, seed) if len(differences) >= MIN_QUERIES else None,
        int((differences > close).sum()),
        int((differences < -close).sum()),
    )


def _interval(differences: npt.NDArray[np.float64], seed: int) -> tuple[float, float]:
    generator, count = np.random.default_rng(seed), len(differences)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 100):  # a hundred at a time: memory stays small
        means[start : start + 100] = differences[generator.integers(count, size=(100, count))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def first_stage(collection: Collection, texts: Mapping[str, str], depth: int) -> System:
    """The collection's own first stage, or BM25 over all its documents, to a depth."""
    if collection.first_stage is not None:
        run = collection.first_stage
        return System(
            "first stage",
            {q: dict(list(run.get(q, {}).items())[:depth]) for q in collection.queries},
            is_given=True,
        )
    index, ids = KeywordIndex(list(texts.values())), list(texts)
    found: Run = {}
    for query, text in collection.queries.items():
        scores = index.scores(text)
        best = np.argsort(-scores, kind="stable")[:depth]
        found[query] = {ids[i]: float(scores[i]) for i in best if scores[i] > 0}
    return System("BM25", found)


def candidates(collection: Collection, texts: Mapping[str, str], run: Run, depth: int) -> list[Row]:
    """What there is to rerank: for each query the best ``depth`` documents of a run.

    Raises:
        InputError: the run names a document that the collection has not.
    """
    rows = []
    for query, text in collection.queries.items():
        chosen = list(run.get(query, {}))[:depth]
        missing = next((x for x in chosen if x not in texts), None)
        if missing is not None:
            raise InputError(f"the first stage names document {missing}, which {collection.name} has not")
        rows.append(Row(query, query, text, tuple(Document(x, texts[x]) for x in chosen)))
    return rows


def rerank(
    name: str,
    arguments: Mapping[str, Any],
    rows: Sequence[Row],
    progress: Callable[[int], object] = lambda _pairs: None,
) -> System:
    """Rerank all candidates in a process of its own, so that its memory can be told.

    Args:
        name: of the system.
        arguments: of ``Reranker``.
        rows: the candidates.
        progress: is told how many pairs are done.

    Raises:
        CrossRankError: what the model's process raised.
        EngineError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, dict(arguments), list(rows)), daemon=True)
    # Ctrl-C goes to every process of the terminal. The model's has nothing to say of it: it is ended here.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    there.close()
    try:
        while True:
            kind, value = here.recv()
            if kind == "progress":
                progress(value)
            else:
                break
    except EOFError as error:
        process.join()
        raise EngineError(
            f"{name}: the process that ran the model ended with exit code {process.exitcode}; "
            "-9 is mostly the system's lack of memory"
        ) from error
    except BaseException:
        process.kill()
        raise
    finally:
        here.close()
        process.join()
    if kind == "error":
        raise value
    cost, found = value
    run: Run = {str(row.id): {} for row in rows}
    scores: Run = {str(row.id): {} for row in rows}
    for row, hits in zip(rows, found, strict=True):
        for index, logit, score in hits:
            query, document = str(row.id), str(row.documents[index].id)
            run[query][document], scores[query][document] = logit, score
    return System(name, run, scores, cost)


def _peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux getrusage's figure begins with that of the process that started this one.
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _work(pipe: Connection, arguments: dict[str, Any], rows: list[Row]) -> None:
    from crossrank.reranker import Reranker

    try:
        began = time.perf_counter()
        reranker = Reranker(**arguments)
        loaded = time.perf_counter()
        found, pairs = [], 0
        requests = ((row.query, [document.text for document in row.documents]) for row in rows)
        for ranking in reranker.rank_many(requests):
            found.append([(hit.index, hit.logit, hit.score) for hit in ranking])
            pairs += len(ranking)
            pipe.send(("progress", pairs))
        seconds = time.perf_counter() - loaded
        engine, memory = reranker.engine, _peak_memory()
        cost = Cost(engine.name, engine.device, engine.precision, pairs, loaded - began, seconds, memory)
        pipe.send(("done", (cost, found)))
    except CrossRankError as error:
        pipe.send(("error", error))
