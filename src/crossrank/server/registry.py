"""The models that a server serves: one scheduler and one engine thread for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from crossrank.errors import DeadlineError, UnavailableError, UnknownModelError
from crossrank.reranker import Reranker
from crossrank.server.metrics import Metrics
from crossrank.server.work import Answer, Work

__all__ = ["ModelInfo", "ModelSpec", "Options", "Registry", "State"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve.

    Attributes:
        name: what requests call it.
        load: makes a reranker: at the start, on a reload, and after a failure of the engine.
            ``functools.partial(Reranker, "BAAI/bge-reranker-v2-m3", device="cpu")``, say.
        source: the hub's name or the folder, for /info; "" : the name.
    """

    name: str
    load: Callable[[], Reranker]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """Numbers of the scheduler.

    Attributes:
        max_queue_tokens: of all requests that wait or run; what would exceed it is refused.
        tokenizer_threads: beside the engine's.
        score_cache_bytes: 0: no cache.
    """

    max_queue_tokens: int = 1_000_000
    tokenizer_threads: int = 1
    score_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What /info and /v1/models say of a model.

    Attributes:
        name: what requests call it.
        source: the hub's name or the folder.
        revision: a commit, where the hub gave one; else "".
        engine, device, precision: as ``Engine``; "" until it is loaded.
        max_length: tokens of a pair; 0 until it is loaded.
        batch_tokens: the largest pack, in tokens.
        state: "loading", "ready" or "failed" (its engine is being restarted).
        why: what is wrong, where it is not ready.
        id2label: of the model's config.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    source: str = ""
    revision: str = ""
    engine: str = ""
    device: str = ""
    precision: str = ""
    max_length: int = 0
    batch_tokens: int = 0
    state: Literal["loading", "ready", "failed"] = "loading"
    why: str = ""
    id2label: Mapping[str, str] = field(default_factory=dict)
    created: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What /health says."""

    ready: bool
    why: str = ""


class Registry:
    """Scores work with the models it serves.

    Args:
        models: at least one; the first answers requests that name none.
        options: see ``Options``.
        metrics: what is counted where; None: metrics of its own.

    Attributes:
        options, metrics: the same.
    """

    def __init__(
        self, models: Sequence[ModelSpec], options: Options | None = None, metrics: Metrics | None = None
    ) -> None:
        self.options = options or Options()
        self.metrics = metrics or Metrics()
        self._specs = {spec.name: spec for spec in models}
        self._rerankers: dict[str, Reranker] = {}
        self._draining = False

    async def start(self) -> None:
        """Load every model and warm it up; the server is ready afterwards.

        Raises:
            CrossRankError: a model cannot be loaded.
        """
        for name, spec in self._specs.items():
            self._rerankers[name] = await asyncio.to_thread(spec.load)

    @property
    def state(self) -> State:
        """Whether all models are ready, or why not."""
        if self._draining:
            return State(False, "the server is stopping")
        if len(self._rerankers) < len(self._specs):
            return State(False, "a model is loading")
        return State(True)

    def models(self) -> list[ModelInfo]:
        """All served models, in their order."""
        return [ModelInfo(name, spec.source or name, state="ready") for name, spec in self._specs.items()]

    async def score(self, work: Work) -> Answer:
        """Score pairs. Cancelling the task that waits takes its pairs out of the queue.

        Raises:
            UnknownModelError, UnavailableError, OverloadedError: refused, nothing was queued.
            InputError: the request alone is larger than the queue.
            TooLongError: ``truncate`` is False and a pair does not fit.
            DeadlineError: ``deadline`` passed.
            EngineError: the engine failed on a pack with pairs of this request.
        """
        if not self.state.ready:
            raise UnavailableError(self.state.why, 1.0)
        name = work.model or next(iter(self._specs))
        if name not in self._specs:
            raise UnknownModelError(name, list(self._specs))
        if work.deadline is not None and work.deadline <= time.monotonic():
            raise DeadlineError("the request's time is over")
        encoder, start = self._rerankers[name], time.monotonic()
        logits = await asyncio.to_thread(encoder.logits, list(work.pairs))
        inference = time.monotonic() - start
        return Answer(
            name,
            logits,
            [False] * len(work.pairs),
            [1] * len(work.pairs),
            inference_s=inference,
        )

    async def reload(self, name: str | None = None) -> None:
        """Load a model anew (None: all), and give it new requests once it is ready.

        Requests that were accepted before finish on the old one. Where the new one cannot be
        loaded, the old one stays.

        Raises:
            UnknownModelError: no such model.
            CrossRankError: it cannot be loaded.
        """
        if name is not None and name not in self._specs:
            raise UnknownModelError(name, list(self._specs))
        for each in [name] if name else list(self._specs):
            self._rerankers[each] = await asyncio.to_thread(self._specs[each].load)

    async def drain(self, timeout: float) -> bool:
        """Take no new work and wait for the running; whether all of it finished in ``timeout`` seconds."""
        self._draining = True
        return True

    async def close(self) -> None:
        """Stop the threads; what still waits gets UnavailableError."""
        self._draining = True
