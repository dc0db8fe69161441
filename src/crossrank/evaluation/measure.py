"""Measure rankings and compare them: metrics with confidence intervals, speed and memory.

Every system ranks the same candidates: those of the first stage, or of BM25 if there is none. Metrics are
computed by ir-measures (by trec_eval where it has them); a query without results counts as 0.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank._extras import needs
from crossrank._system import peak_memory
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
    "bootstrap",
    "candidates",
    "compare",
    "first_stage",
    "measure",
    "parse_metrics",
    "rerank",
]

METRICS = ("nDCG@10", "MRR@10", "MAP", "Recall@100", "P@10")
"""The default metrics."""

MIN_QUERIES = 10
"""Minimum number of queries for a confidence interval."""

RESAMPLES = 10_000
"""Number of bootstrap resamples."""

# Common names of metrics, in lower case, and the names that ir-measures has for them.
_NAMES = {"mrr": "RR", "map": "AP", "recall": "R", "ndcg": "nDCG", "p": "P", "precision": "P"}


@dataclass(frozen=True, slots=True)
class Cost:
    """The time and memory that reranking took.

    Attributes:
        engine: the engine's name.
        device: the device that it ran on.
        precision: the precision that it computed in.
        pairs: the number of pairs.
        load_s: seconds to load the model.
        seconds: seconds to score all pairs, from text to logit.
        memory: peak resident memory of the process in bytes, including Python, its libraries and the
            texts. The process does nothing else.
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
        """Pairs per second."""
        return self.pairs / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class System:
    """A ranking of documents for each query, and its metrics.

    Attributes:
        name: the name shown in tables.
        run: for each query, the documents with the values that they are sorted by, best first.
        scores: for each query, the documents with scores from 0 to 1; None for a run that was given.
        cost: the time and memory that it took; None for a run that was given.
        is_given: True if the values of ``run`` come from a file. Equal values are then ordered by
            document id, as trec_eval does; otherwise the order of ``run`` is kept.
        measures: for each metric, float64 (queries,) in the order of the collection's queries.
    """

    name: str
    run: Run
    scores: Run | None = None
    cost: Cost | None = None
    is_given: bool = False
    measures: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system compared with the baseline on one metric.

    Attributes:
        difference: the system's mean minus the baseline's.
        interval: the 95 % interval of the difference by paired bootstrap (percentiles over resampled
            queries). None for fewer than 10 queries, where the bootstrap's interval is far too narrow.
        wins: the number of queries on which the system is better.
        losses: the number of queries on which it is worse.
    """

    difference: float
    interval: tuple[float, float] | None
    wins: int
    losses: int


def parse_metrics(names: Sequence[str]) -> dict[str, Any]:
    """Parse names of metrics such as nDCG@10, MRR, MAP, Recall@100 or P@5.

    Returns:
        A measure of ir-measures for each name.

    Raises:
        InputError: a metric is unknown, or its cutoff is out of range.
        MissingLibraryError: ir-measures is not installed.
    """
    with needs("eval", "a measure"):
        import ir_measures
    found: dict[str, Any] = {}
    for name in names:
        base, at, cutoff = name.partition("@")
        if cutoff.isdecimal() and not 1 <= int(cutoff[:9]) <= 1_000_000:
            raise InputError(f"metric {name!r}: the cutoff after @ must be from 1 to 1,000,000")
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
                f"metric {name!r} is unknown; use one such as {', '.join(METRICS)}, or another one of "
                "https://ir-measur.es"
            ) from error
        found[name] = measure
    return found


def measure(system: System, qrels: Qrels, queries: Sequence[str], metrics: Mapping[str, Any]) -> None:
    """Compute the system's ``measures``; a query without results gets 0."""
    import ir_measures

    run = system.run
    if not system.is_given:
        run = {query: {x: -float(i) for i, x in enumerate(found)} for query, found in run.items()}
    place = {query: i for i, query in enumerate(queries)}
    values = {name: np.zeros(len(queries)) for name in metrics}
    names: dict[str, list[str]] = {}  # several names may mean the same metric: MRR@10, RR@10
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
    """Compare two systems by a paired bootstrap over queries: both are resampled together.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).

    Args:
        system: float64 (queries,), a metric of the system for each query.
        baseline: float64 (queries,), the same of the baseline, for the same queries in the same order.
        seed: the seed of the resampling; the same seed gives the same interval.
    """
    differences = system - baseline
    tolerance = 1e-12
    return Comparison(
        float(differences.mean()),
        bootstrap([differences], seed) if len(differences) >= MIN_QUERIES else None,
        int((differences > tolerance).sum()),
        int((differences < -tolerance).sum()),
    )


def bootstrap(sets: Sequence[npt.NDArray[np.float64]], seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean by bootstrap (percentiles of the means of resampled queries).

    Args:
        sets: one value for each query of a set. The mean is over sets, of the mean over a set's queries.
        seed: the seed of the resampling; the same seed gives the same interval.
    """
    generator = np.random.default_rng(seed)
    means = np.zeros(RESAMPLES)
    for values in sets:
        for start in range(0, RESAMPLES, 100):  # 100 at a time, to save memory
            drawn = generator.integers(len(values), size=(100, len(values)))
            means[start : start + 100] += values[drawn].mean(axis=1)
    low, high = np.percentile(means / len(sets), [2.5, 97.5])
    return float(low), float(high)


def first_stage(collection: Collection, texts: Mapping[str, str], depth: int) -> System:
    """The first ``depth`` results of the collection's own first stage, or of BM25 over all its documents."""
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
    """The candidates to rerank: for each query the best ``depth`` documents of a run.

    Raises:
        InputError: the run names a document that is not in the collection.
    """
    rows = []
    for query, text in collection.queries.items():
        chosen = list(run.get(query, {}))[:depth]
        missing = next((x for x in chosen if x not in texts), None)
        if missing is not None:
            raise InputError(f"the first stage names document {missing}, which is not in {collection.name}")
        documents = tuple(Document(x, texts[x]) for x in chosen)
        rows.append(Row(query, query, text, documents, instruction=collection.instructions.get(query)))
    return rows


def rerank(
    name: str,
    arguments: Mapping[str, Any],
    rows: Sequence[Row],
    progress: Callable[[int], object] = lambda _pairs: None,
) -> System:
    """Rerank all candidates in a separate process, so that the model's memory can be measured.

    Args:
        name: the name of the system.
        arguments: the arguments of ``Reranker``.
        rows: the candidates.
        progress: is called with the number of pairs that are done.

    Raises:
        CrossRankError: an error of the model's process.
        EngineError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run_model, args=(there, dict(arguments), list(rows)), daemon=True)
    _start_deaf(process)
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
            "-9 usually means that the system ran out of memory"
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


def _start_deaf(process: BaseProcess) -> None:
    """Start a process that ignores Ctrl-C, which every process of the terminal gets. It is killed instead."""
    if sys.platform == "win32":
        process.start()  # it ignores Ctrl-C once it has begun
    else:
        # The first spawn starts the resource tracker, which unblocks SIGINT: it must be running before.
        resource_tracker.ensure_running()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _run_model(pipe: Connection, arguments: dict[str, Any], rows: list[Row]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from crossrank.reranker import Reranker

    try:
        began = time.perf_counter()
        reranker = Reranker(**arguments)
        loaded = time.perf_counter()
        found, pairs = [], 0
        # Models with and without instructions are compared on the same rows.
        taken = reranker.encoder.taken
        requests = (
            (row.query, [document.text for document in row.documents], taken(row.instruction)) for row in rows
        )
        for ranking in reranker.rank_many(requests):
            found.append([(hit.index, hit.logit, hit.score) for hit in ranking])
            pairs += len(ranking)
            pipe.send(("progress", pairs))
        seconds = time.perf_counter() - loaded
        engine, memory = reranker.engine, peak_memory()
        cost = Cost(engine.name, engine.device, engine.precision, pairs, loaded - began, seconds, memory)
        pipe.send(("done", (cost, found)))
    except CrossRankError as error:
        pipe.send(("error", error))
