"""The models that a server serves: one scheduler and one engine thread for all of them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from crossrank.errors import (
    DeadlineError,
    EngineError,
    InputError,
    UnavailableError,
    UnknownModelError,
)
from crossrank.packing import build_pack
from crossrank.pairs import Cut, PairEncoder
from crossrank.reranker import Reranker
from crossrank.server.cache import ScoreCache
from crossrank.server.job import Job, LoadedModel
from crossrank.server.metrics import Metrics
from crossrank.server.scheduler import Scheduler
from crossrank.server.tokenise import Tokenisers
from crossrank.server.work import Answer, Work

__all__ = ["ModelInfo", "ModelSpec", "Options", "Registry", "State"]

_logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between tries to restart an engine: the first, then twice as long each time, and the most."""


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
            A request counts with an estimate from its characters until it is tokenised, so the queue
            may exceed the limit by what the estimates are wrong.
        tokenizer_threads: beside the engine's; None: one for every eight cores, 1 to 4.
        score_cache_bytes: 0: no cache.
        pack_seconds: a pack takes about so long, or longer where fewer tokens would not fill the
            engine.
        quantum: tokens of a request's turn; a request with no more in all goes before larger ones.
        warm_up: run a few packs before a model is called ready, which also measures its speed.
    """

    max_queue_tokens: int = 1_000_000
    tokenizer_threads: int | None = None
    score_cache_bytes: int = 0
    pack_seconds: float = 0.01
    quantum: int = 2048
    warm_up: bool = True


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


class _Served:
    """A served model through all its loadings."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.current: LoadedModel | None = None
        self.reloading = asyncio.Lock()

    @property
    def why(self) -> str:
        """Why it cannot score; "": it can."""
        if self.current is None:
            return f"{self.spec.name} is loading"
        return self.current.why

    @property
    def ready(self) -> bool:
        return self.current is not None and self.current.engine is not None

    @property
    def rate(self) -> float:
        return self.current.rate if self.current else 0.0

    def info(self) -> ModelInfo:
        spec, model = self.spec, self.current
        if model is None:
            return ModelInfo(spec.name, spec.source or spec.name, why=self.why)
        engine = model.reranker.engine
        checkpoint = model.reranker.checkpoint
        folder = checkpoint.folder if checkpoint else None
        labels = checkpoint.config.get("id2label") if checkpoint else None
        return ModelInfo(
            name=spec.name,
            source=spec.source or spec.name,
            # The hub's cache names a folder by its commit: models--NAME/snapshots/COMMIT.
            revision=folder.name if folder and folder.parent.name == "snapshots" else "",
            engine=engine.name,
            device=engine.device,
            precision=engine.precision,
            max_length=model.encoder.max_length,
            batch_tokens=model.most,
            state="ready" if self.ready else "failed",
            why=model.why,
            id2label={str(key): str(value) for key, value in (labels or {"0": "LABEL_0"}).items()},
            created=model.created,
        )


class Registry:
    """Scores work with the models it serves. Its methods belong to one event loop.

    Args:
        models: at least one, each name once; the first answers requests that name none.
        options: see ``Options``.
        metrics: what is counted where; None: metrics of its own.

    Attributes:
        options, metrics: the same.

    Raises:
        InputError: there is no model, or a name is there twice.
    """

    def __init__(
        self, models: Sequence[ModelSpec], options: Options | None = None, metrics: Metrics | None = None
    ) -> None:
        names = [spec.name for spec in models]
        if not names or len(set(names)) < len(names):
            raise InputError(f"a server needs models with different names; these are {names}")
        self.options = options = options or Options()
        self.metrics = metrics or Metrics()
        self._served = {spec.name: _Served(spec) for spec in models}
        self._draining = False
        self._stopped = threading.Event()
        cache = ScoreCache(options.score_cache_bytes) if options.score_cache_bytes > 0 else None
        self._scheduler = Scheduler(
            max_queue_tokens=options.max_queue_tokens,
            pack_seconds=options.pack_seconds,
            quantum=options.quantum,
            metrics=self.metrics,
            cache=cache,
            on_failure=self._engine_failed,
        )
        threads = options.tokenizer_threads or min(4, max(1, (os.cpu_count() or 1) // 8))
        self._tokenisers = Tokenisers(self._scheduler, cache, threads)
        if cache is not None:
            self.metrics.watch_cache(cache)
        self.metrics.watch(crossrank_ready=("1: /health says yes", lambda: float(self.state.ready)))
        for name, served in self._served.items():
            self.metrics.watch_model(
                name, partial(getattr, served, "ready"), partial(getattr, served, "rate")
            )

    async def start(self) -> None:
        """Load every model and warm it up; the server is ready afterwards.

        Raises:
            CrossRankError: a model cannot be loaded.
        """
        self._scheduler.start()
        for served in self._served.values():
            served.current = await asyncio.to_thread(self._load, served.spec)

    @property
    def state(self) -> State:
        """Whether all models are ready, or why not."""
        if self._draining:
            return State(False, "the server is stopping")
        for served in self._served.values():
            if not served.ready:
                return State(False, served.why)
        stuck = self._scheduler.stuck
        if stuck:
            return State(False, f"the engine has not answered for {stuck:.0f} s")
        return State(True)

    def models(self) -> list[ModelInfo]:
        """All served models, in their order."""
        return [served.info() for served in self._served.values()]

    async def score(self, work: Work) -> Answer:
        """Score pairs. Cancelling the task that waits takes its pairs out of the queue.

        Raises:
            UnknownModelError, UnavailableError, OverloadedError: refused, nothing was queued.
            InputError: the request alone is larger than the queue, or its window too narrow.
            TooLongError: ``truncate`` is False and a pair does not fit.
            DeadlineError: ``deadline`` passed, or cannot be met by any means.
            EngineError: the engine failed on a pack with pairs of this request.
        """
        begun = time.monotonic()
        with self.metrics.request():
            answer = await self._score(work)
        self.metrics.answered(answer, time.monotonic() - begun)
        return answer

    async def _score(self, work: Work) -> Answer:
        model = self._model(work.model)
        if work.deadline is not None and work.deadline <= time.monotonic():
            raise DeadlineError("the request's time was over before it began")
        if not work.pairs:
            return Answer(model.name, np.zeros(0, np.float32), [], [])
        loop = asyncio.get_running_loop()
        estimates = model.estimate(work)
        if self._scheduler.is_too_much(model, sum(estimates), work.deadline):
            # Texts of another kind than those so far may have fewer tokens: nobody is refused for their sake.
            estimates = model.estimate(work, await asyncio.to_thread(model.look, work))
        job = Job(work, model, loop.create_future(), _cut(work), estimates, self.options.quantum)
        self._scheduler.submit(job)
        self._tokenisers.begin(job)
        alarm = None
        if work.deadline is not None:
            alarm = loop.call_later(work.deadline - time.monotonic(), self._scheduler.expire, job)
        try:
            return await job.future
        except asyncio.CancelledError as error:
            self._scheduler.drop(job, error)
            raise
        finally:
            if alarm is not None:
                alarm.cancel()

    def encoder(self, name: str | None) -> PairEncoder:
        """What makes pairs of texts for a model; None: the first.

        Raises:
            UnknownModelError, UnavailableError: as ``score``.
        """
        return self._model(name).encoder

    def _model(self, name: str | None) -> LoadedModel:
        """The loading that a new request goes to."""
        if self._draining:
            self.metrics.refused("unavailable")
            raise UnavailableError("the server is stopping", 1.0)
        served = next(iter(self._served.values())) if name is None else self._served.get(name)
        if served is None:
            raise UnknownModelError(str(name), list(self._served))
        model = served.current
        if model is None or model.engine is None:
            self.metrics.refused("unavailable")
            raise UnavailableError(served.why, 1.0 if model is None else max(1.0, model.retry_after))
        return model

    async def reload(self, name: str | None = None) -> None:
        """Load a model anew (None: all), and give it new requests once it is ready.

        Requests that were accepted before finish on the old one. Where the new one cannot be
        loaded, the old one stays.

        Raises:
            UnknownModelError: no such model.
            CrossRankError: it cannot be loaded.
        """
        if name is not None and name not in self._served:
            raise UnknownModelError(name, list(self._served))
        for served in [self._served[name]] if name else list(self._served.values()):
            async with served.reloading:
                new = await asyncio.to_thread(self._load, served.spec)
                old, served.current = served.current, new
                if old is not None:
                    old.retired = True

    async def drain(self, timeout: float) -> bool:
        """Take no new work and wait for the running; whether all of it ended in ``timeout`` seconds."""
        self._draining = True
        end = time.monotonic() + timeout
        while self._scheduler.jobs:
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        """Stop the threads, after the pack at hand; what still waits gets UnavailableError."""
        self._draining = True
        self._stopped.set()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._scheduler.close()
        self._tokenisers.close()

    # --- in threads of their own ---

    def _load(self, spec: ModelSpec) -> LoadedModel:
        model = LoadedModel(spec.name, spec.load())
        if self.options.warm_up:
            _warm_up(model)
        return model

    def _engine_failed(self, model: LoadedModel) -> None:
        threading.Thread(
            target=self._restart, args=(model,), name=f"crossrank-restart-{model.name}", daemon=True
        ).start()

    def _restart(self, model: LoadedModel) -> None:
        """Give a model a new engine, however long it takes; requests wait for one try, no longer."""
        spec, pause = self._served[model.name].spec, FIRST_PAUSE
        while not model.retired:
            try:
                fresh = self._load(spec)
                if fresh.identity != model.identity and model.reranker.checkpoint is not None:
                    message = f"the files of {model.name} have changed; send the request again"
                    self._scheduler.fail_all(model, UnavailableError(message, 1.0))
                    model.retired = True
                    self._served[model.name].current = fresh
                else:
                    model.attach(fresh.reranker)
            except Exception as error:
                _logger.exception("the engine of %s could not be restarted", model.name)
                model.why = f"the engine of {model.name} failed, and again on its restart: {error}"
                model.retry_after = pause
                self._scheduler.fail_all(model, UnavailableError(model.why, max(1.0, pause)))
                if self._stopped.wait(pause):
                    return
                pause = min(LONGEST_PAUSE, 2 * pause)
                continue
            self.metrics.engine_restarted(model.name)
            _logger.warning("the engine of %s is restarted", model.name)
            self._scheduler.resume(model)
            return
        message = f"{model.name} was loaded anew while its engine was restarting; send the request again"
        self._scheduler.fail_all(model, UnavailableError(message, 1.0))


def _cut(work: Work) -> Cut:
    return Cut(
        side=work.truncation_side,
        document=work.max_tokens_per_document,
        query=work.max_tokens_per_query,
        pair=work.max_tokens_per_pair,
        allowed=work.truncate,
    )


def _warm_up(model: LoadedModel) -> None:
    """Run packs until caches and clocks are warm, and measure the speed.

    Raises:
        EngineError: the engine fails, or gives what is not a number.
    """
    engine = model.reranker.engine
    pair = model.encoder.encode("warm-up", ["one two three four five six seven eight " * 8])[0]
    count = max(1, min(engine.fill_tokens, model.most) // len(pair.token_ids))
    for measured in (False, True, True):
        begun = time.monotonic()
        logits = engine.logits(build_pack([pair] * count))
        if not np.isfinite(logits).all():
            raise EngineError(
                f"{model.name} gives {logits[0]} for a plain pair of texts; its weights are damaged"
            )
        if measured:
            model.ran(count * len(pair.token_ids), time.monotonic() - begun)
