"""The models that a server serves: one scheduler for all of them, and the threads around it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, ParamSpec, TypeVar

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
from crossrank.server.core.cache import ScoreCache
from crossrank.server.core.job import Job, LoadedModel
from crossrank.server.core.metrics import Metrics
from crossrank.server.core.scheduler import Scheduler
from crossrank.server.core.tokenise import Tokenisers
from crossrank.server.core.turns import TextThreads
from crossrank.server.core.work import Answer, Work

__all__ = ["ModelInfo", "ModelSpec", "Options", "Registry", "State"]

_logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between tries to restart an engine: the first, then twice as long each time, and the most."""


_WATCH_SECONDS = 1.0
"""Between two looks at whether engines and threads still answer."""

_STUCK_RETRY = 10.0
"""Seconds after which a client may try again: the process has most likely been started anew by then."""

_SHORT = 50_000
"""Characters of a request that are measured on the event loop, in less than a millisecond."""

Result = TypeVar("Result")
P = ParamSpec("P")


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
        tokenizer_threads: for all work on texts, beside the engine's; None: 1 on one core, otherwise
            2, or one for every four cores, at most 8.
        score_cache_bytes: 0: no cache.
        pack_seconds: a pack takes about so long, or longer where fewer tokens would not fill the
            engine.
        quantum: tokens of a request's turn; a request with no more in all goes before larger ones.
        stuck_seconds: where an engine does not answer for longer, and for 20 times as long as expected, or
            no text is done in that time, requests are refused and ``Registry.on_stuck`` is called.
        warm_up: run a few packs before a model is called ready, which also measures its speed.
    """

    max_queue_tokens: int = 1_000_000
    tokenizer_threads: int | None = None
    score_cache_bytes: int = 0
    pack_seconds: float = 0.01
    quantum: int = 2048
    stuck_seconds: float = 60.0
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
        on_stuck: called on the event loop, with what is wrong, when an engine or the threads for texts have
            not answered for so long that they never will. Nothing here can stop such a thread: only the
            end of the process does.
        texts: threads for all that takes time in proportion to somebody's texts.

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
        self.on_stuck: Callable[[str], None] = lambda _: None
        self._stuck = ""  # what is wrong, where nothing answers
        self._watching: asyncio.Task[None] | None = None
        self._stopped = threading.Event()
        cache = ScoreCache(options.score_cache_bytes) if options.score_cache_bytes > 0 else None
        self.texts = TextThreads(options.tokenizer_threads or _text_threads())
        self._scheduler = Scheduler(
            max_queue_tokens=options.max_queue_tokens,
            pack_seconds=options.pack_seconds,
            quantum=options.quantum,
            metrics=self.metrics,
            cache=cache,
            stuck_seconds=options.stuck_seconds,
            text_threads=self.texts.threads,
            on_failure=self._engine_failed,
        )
        self._tokenisers = Tokenisers(self._scheduler, cache, self.texts)
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
        self._watching = asyncio.ensure_future(self._watch())
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
        return State(False, self._stuck) if self._stuck else State(True)

    def watch(self, seconds: float) -> None:
        """So many seconds have passed in which this process ran; fails all requests where nothing answers."""
        self._scheduler.watch(seconds)
        self.texts.watch(seconds)
        engine, texts = self._scheduler.stuck, self.texts.stuck
        before, self._stuck = self._stuck, ""
        if engine:
            self._stuck = f"the engine has not answered for {engine:.0f} s"
        elif texts > self.options.stuck_seconds:
            self._stuck = f"texts have not been read for {texts:.0f} s"
        if not self._stuck:
            return
        self._scheduler.fail_all(None, UnavailableError(self._stuck, _STUCK_RETRY))
        if not before:
            _logger.error("%s", self._stuck)
            self.on_stuck(self._stuck)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            # Not what a clock says: while the process was stopped, the engine was, too.
            self.watch(_WATCH_SECONDS)

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
        if _is_short(work):
            estimates, unread = _measure(model, work)
        else:
            estimates, unread = await self._aside(work, _measure, model, work)
        if self._scheduler.is_too_much(model, sum(estimates), work.deadline):
            # Texts of another kind than those so far may have fewer tokens: nobody is refused for their sake.
            ratio = await self._aside(work, model.look, work)
            estimates = await self._aside(work, model.estimate, work, ratio)
        future: asyncio.Future[Answer] = loop.create_future()
        job = Job(work, model, future, _cut(work), estimates, unread, self.options.quantum)
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

    async def _aside(
        self, work: Work, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        return await self.texts.run(work.client, work.deadline, function, *args, **kwargs)

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
        if self._stuck:
            self.metrics.refused("unavailable")
            raise UnavailableError(self._stuck, _STUCK_RETRY)
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

    async def close(self, timeout: float = 10.0) -> bool:
        """Stop the threads, after the pack at hand; what still waits gets UnavailableError.

        Returns:
            Whether all of them ended within ``timeout`` seconds.
        """
        self._draining = True
        self._stopped.set()
        if self._watching is not None:
            self._watching.cancel()
        return await asyncio.to_thread(self._stop, timeout)

    def _stop(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        ended = self._scheduler.close(timeout)
        return self.texts.close(max(0.0, end - time.monotonic())) and ended

    # --- in threads of their own ---

    def _load(self, spec: ModelSpec) -> LoadedModel:
        model = LoadedModel(spec.name, spec.load())
        self._scheduler.start(model.calls)
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


def _text_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if cores == 1 else min(8, max(2, cores // 4))


def _is_short(work: Work) -> bool:
    # Pairs that are no list may be made only when they are asked for.
    return isinstance(work.pairs, list) and sum(len(q) + len(text) for q, text in work.pairs) < _SHORT


def _measure(model: LoadedModel, work: Work) -> tuple[list[int], int]:
    """About how many tokens each pair has, and how many characters are read."""
    return model.estimate(work), model.characters(work.pairs)


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
