"""What a server counts, for Prometheus.

``te_*`` are the names of text-embeddings-inference, where they mean the same: its dashboards work.
They are counters without Prometheus' ``_total``, as there. ``crossrank_*`` is the rest. All
times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from crossrank.errors import CrossRankError, DeadlineError, EngineError, OverloadedError, UnavailableError

if TYPE_CHECKING:
    from crossrank.server.core.cache import ScoreCache
    from crossrank.server.core.model import ServedModel
    from crossrank.server.core.work import Answer

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_ERRORS = ("validation", "overloaded", "inference")
_OUTCOMES = ("answered", "cancelled", "deadline", "failed")
_REASONS = ("concurrency", "deadline", "queue", "too_large", "unavailable")
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class _PlainCounter(Gauge):
    """A counter whose name has no ``_total``, which prometheus_client would add."""

    _type = "unknown"


class _CacheCollector(Collector):
    """A score cache counts by itself; this reads it."""

    def __init__(self, cache: ScoreCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        cache = self._cache
        for name, description, value in (
            ("hits", "Pairs that the score cache answered", cache.hits),
            ("misses", "Pairs that the score cache did not know", cache.misses),
            ("evicted", "Pairs that made room for others", cache.evicted),
        ):
            yield CounterMetricFamily(f"crossrank_cache_{name}", description, value)


class Metrics:
    """Counters of one server.

    Attributes:
        registry: what ``prometheus_client.generate_latest`` writes out; more may be added to it.
        refused: requests that were not accepted, by the reason, one of _REASONS.
        engine_failures: packs that failed, and with them the requests that they touched, by the model.
        engine_restarts: engines that were loaded anew after a failure, by the model.
        out_of_memory: packs that did not fit into memory and were halved, by the model.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._by_model: list[Counter] = []

        def plain(name: str, description: str, label: str, *values: str) -> _PlainCounter:
            made = _PlainCounter(name, description, [label], registry=registry)
            for value in values:
                made.labels(value)
            return made

        def histogram(name: str, description: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name, description, labels, registry=registry, buckets=buckets)

        def counter(name: str, description: str, *labels: str) -> Counter:
            made = Counter(name, description, labels, registry=registry)
            if labels == ("model",):
                self._by_model.append(made)
            return made

        self._requests = plain("te_request_count", "Requests", "method", "batch")
        self._successes = plain("te_request_success", "Requests answered", "method", "batch")
        self._failures = plain("te_request_failure", "Requests failed", "err", *_ERRORS)
        self._duration = histogram("te_request_duration", "From a request to its answer", _SECONDS)
        self._tokenization = histogram(
            "te_request_tokenization_duration", "Tokenising of a request", _SECONDS
        )
        self._queue = histogram("te_request_queue_duration", "Waiting of a request", _SECONDS)
        self._inference = histogram("te_request_inference_duration", "Packs with a request's pairs", _SECONDS)
        self._length = histogram("te_request_input_length", "Tokens of a pair as scored", _TOKENS)
        self._pack_size = histogram("te_batch_next_size", "Pairs of a pack", _COUNTS)
        self._pack_tokens = histogram("te_batch_next_tokens", "Tokens of a pack", _TOKENS)
        self._pack_fill = histogram("crossrank_pack_fill", "Tokens of a pack / its budget", _SHARES)
        self._pack_duration = histogram("crossrank_pack_duration", "Time of a pack", _SECONDS, "model")
        self._model_requests = counter(
            "crossrank_requests", "Accepted requests by how they ended", "model", "outcome"
        )
        self._model_pairs = counter("crossrank_pairs", "Pairs that the engine scored", "model")
        self._model_tokens = counter("crossrank_tokens", "Tokens that the engine read", "model")
        self._truncated = counter(
            "crossrank_truncated_pairs", "Pairs answered whose document was cut", "model"
        )
        self.refused = counter("crossrank_refused", "Requests refused before they were queued", "reason")
        for reason in _REASONS:
            self.refused.labels(reason)
        self._cancelled = counter("crossrank_cancelled", "Requests whose client went away")
        self._cancelled_pairs = counter("crossrank_cancelled_pairs", "Pairs of theirs that were not scored")
        self._deadline = counter("crossrank_deadline", "Requests whose time was over")
        self.engine_failures = counter("crossrank_engine_failures", "Packs that failed", "model")
        self.engine_restarts = counter("crossrank_engine_restarts", "Engines restarted", "model")
        self._model_ready = Gauge("crossrank_model_ready", "1: it scores", ["model"], registry=registry)
        self._model_rate = Gauge(
            "crossrank_tokens_per_second", "Of the last packs", ["model"], registry=registry
        )
        self.out_of_memory = counter("crossrank_out_of_memory", "Packs halved for lack of memory", "model")

    def watch(self, **gauges: tuple[str, Callable[[], float]]) -> None:
        """Add gauges that are read when they are asked for: name=(description, function)."""
        for name, (description, function) in gauges.items():
            Gauge(name, description, registry=self.registry).set_function(function)

    def watch_model(self, served: ServedModel) -> None:
        """Show whether a model is ready (1 or 0), its measured tokens per second, and counters at 0.

        A counter that began with its first event would hide that event from Prometheus' ``increase``.
        """
        for counter in self._by_model:
            counter.labels(served.spec.name)
        for outcome in _OUTCOMES:
            self._model_requests.labels(served.spec.name, outcome)
        self._model_ready.labels(served.spec.name).set_function(lambda: float(served.ready))
        self._model_rate.labels(served.spec.name).set_function(lambda: served.rate)

    def watch_cache(self, cache: ScoreCache) -> None:
        """Show what a score cache counts."""
        self.registry.register(_CacheCollector(cache))
        self.watch(
            crossrank_cache_bytes=("Memory of the score cache", lambda: cache.size),
            crossrank_cache_limit_bytes=("Most memory that the score cache may take", lambda: cache.limit),
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a call of ``Registry.score``, whatever its end."""
        self._requests.labels("batch").inc()
        try:
            yield
        except CrossRankError as error:
            self._failures.labels(_kind(error)).inc()
            raise

    def answered(self, answer: Answer, seconds: float) -> None:
        """A request has its answer."""
        self._successes.labels("batch").inc()
        self._duration.observe(seconds)
        self._tokenization.observe(answer.tokenization_s)
        self._queue.observe(answer.queue_s)
        self._inference.observe(answer.inference_s)
        for tokens in answer.tokens:
            self._length.observe(tokens)
        truncated = sum(answer.truncated)
        if truncated:
            self._truncated.labels(answer.model).inc(truncated)

    def pack(self, model: str, pairs: int, tokens: int, budget: int, seconds: float) -> None:
        """The engine ran a pack."""
        self._pack_size.observe(pairs)
        self._pack_tokens.observe(tokens)
        self._pack_fill.observe(min(1.0, tokens / budget))
        self._pack_duration.labels(model).observe(seconds)
        self._model_pairs.labels(model).inc(pairs)
        self._model_tokens.labels(model).inc(tokens)

    def ended(self, model: str, error: BaseException | None, pairs: int) -> None:
        """An accepted request came to its end with ``pairs`` of its pairs not scored.

        ``error``: None for an answer, CancelledError where the client went.
        """
        outcome = "answered"
        if isinstance(error, DeadlineError):
            outcome = "deadline"
            self._deadline.inc()
        elif isinstance(error, CrossRankError):
            outcome = "failed"
        elif error is not None:
            outcome = "cancelled"
            self._cancelled.inc()
            self._cancelled_pairs.inc(pairs)
        self._model_requests.labels(model, outcome).inc()


def _kind(error: CrossRankError) -> str:
    """TEI's word for an error."""
    if isinstance(error, OverloadedError):
        return "overloaded"
    if isinstance(error, (DeadlineError, EngineError, UnavailableError)):
        return "inference"
    return "validation"
