"""The models that a server serves: one scheduler for all of them, and the threads around it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from crossrank.cascade import KEEP, check_keep, choose, kept
from crossrank.errors import DeadlineError, EngineError, InputError, UnavailableError, UnknownModelError
from crossrank.packing import build_pack
from crossrank.pairs import PairEncoder
from crossrank.server.core.admission import Admission
from crossrank.server.core.cache import ScoreCache
from crossrank.server.core.job import Job
from crossrank.server.core.metrics import Metrics
from crossrank.server.core.model import Model, ModelInfo, ModelSpec, ServedModel
from crossrank.server.core.scheduler import Options, Scheduler
from crossrank.server.core.tokenise import Tokenisers
from crossrank.server.core.turns import TextThreads
from crossrank.server.core.work import Answer, Work

__all__ = ["Options", "Registry", "State"]

_logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between tries to restart an engine: the first, then twice as long each time, and the most. A driver
that resets a device takes seconds; half a minute's wait costs nobody much once it has failed six times."""

_WATCH_SECONDS = 1.0
"""Between two looks at whether engines and threads still answer; ``stuck_seconds`` is exact to this."""

_STUCK_RETRY = 10.0
"""Seconds after which a client may try again: the process has most likely been started anew by then."""

_SHORT = 50_000
"""Characters of a request that are measured on the event loop. It takes less than a millisecond."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class State:
    """What /health says."""

    ready: bool
    why: str = ""


class Registry:
    """Scores work with the models it serves. Its methods belong to one event loop.

    Args:
        models: at least one, each name once; the first answers requests that name none.
        clock: seconds, on the scale of the deadlines.
        first: the name of the model that reads all texts of a ranking before another one reads the best of
            them; None: there is none.
        keep: how many texts of a ranking, or which share of them, the other model reads.
        aliases: other names of served models, which requests may use; answers have the model's own name.

    Attributes:
        on_loaded: called on the event loop when models were loaded, for the first time or anew.
        on_stuck: called on the event loop, with what is wrong, when an engine or the threads for texts have
            not answered for so long that they never will. Nothing here can stop such a thread: only the
            end of the process does.
        texts: threads for all that takes time in proportion to somebody's texts.

    Raises:
        InputError: there is no model, a name is there twice, or ``first`` is not there.
    """

    def __init__(
        self,
        models: Sequence[ModelSpec],
        options: Options | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        first: str | None = None,
        keep: float = KEEP,
        aliases: Mapping[str, str] = {},
    ) -> None:
        names = [spec.name for spec in models]
        if not names or len(set(names)) < len(names):
            raise InputError(f"a server needs models with different names; these are {names}")
        if first is not None and first not in names:
            raise InputError(f"the first model {first} is not one of the server's, {', '.join(names)}")
        check_keep(keep)
        self.first, self.keep = first, keep
        self._aliases = dict(aliases)
        self._in_two = 0  # requests that two models read
        self.options = options = options or Options()
        self.metrics = Metrics()
        self.clock = clock
        self._served = {spec.name: ServedModel(spec) for spec in models}
        self._draining = False
        self.on_loaded: Callable[[], None] = lambda: None
        self.on_stuck: Callable[[str], None] = lambda _: None
        self._stuck = ""  # what is wrong, where nothing answers
        self._uptime = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._stopped = threading.Event()
        cache = ScoreCache(options.score_cache_bytes) if options.score_cache_bytes > 0 else None
        clocks = clock, lambda: self._uptime
        self.texts = TextThreads(options.tokenizer_threads or _text_threads(), *clocks)
        self._admission = Admission(options.max_queue_tokens, self.texts.of_client)
        self._scheduler = Scheduler(
            options, self._admission, self.metrics, self._engine_failed, cache, *clocks
        )
        self._tokenisers = Tokenisers(self._scheduler, cache, self.texts, clock)
        if cache is not None:
            self.metrics.watch_cache(cache)
        self.metrics.watch(crossrank_ready=("1: /health says yes", lambda: float(self.state.ready)))
        for served in self._served.values():
            self.metrics.watch_model(served)

    async def start(self) -> None:
        """Load every model and warm it up; the server is ready afterwards.

        Raises:
            CrossRankError: a model cannot be loaded.
        """
        self._scheduler.start()
        self._watching = asyncio.ensure_future(self._watch())
        for served in self._served.values():
            served.current = await asyncio.to_thread(self._load, served.spec)
        self.on_loaded()

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
        self._uptime += seconds
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
        """All served models, in their order, and then the aliases."""
        models = {name: served.info() for name, served in self._served.items()}
        others = [replace(models[name], name=alias, alias_of=name) for alias, name in self._aliases.items()]
        return [*models.values(), *others]

    def _find(self, name: str) -> ServedModel:
        """The model of this name or alias.

        Raises:
            UnknownModelError: there is none.
        """
        served = self._served.get(self._aliases.get(name, name))
        if served is None:
            raise UnknownModelError(name, [*self._served, *self._aliases])
        return served

    async def score(self, work: Work) -> Answer:
        """Score texts. Cancelling the task that waits takes its pairs out of the queue.

        Raises:
            UnknownModelError, UnavailableError, OverloadedError: refused, nothing was queued.
            InputError: the request alone is larger than the queue, or its window too narrow.
            TooLongError: ``cut.allowed`` is False and a pair does not fit.
            DeadlineError: ``deadline`` passed, or cannot be met by any means.
            EngineError: the engine failed on a pack with pairs of this request.
        """
        begun = self.clock()
        with self.metrics.request():
            model = self._model(work.model)
            if work.deadline is not None and work.deadline <= begun:
                raise DeadlineError("the request's time was over before it began")
            if not work.texts:
                answer = Answer(model.name, [], [], [])
            else:
                first = self._first_of(model, work)
                answer = await (self._score(model, work) if first is None else self._rank(first, model, work))
        self.metrics.answered(answer, self.clock() - begun)
        return answer

    def _first_of(self, model: Model, work: Work) -> Model | None:
        """The model that reads the texts before this one; None: there is none, or nothing to save."""
        if self.first in (None, model.name) or not work.ranking or len(work.queries) > 1:
            return None
        return self._model(self.first)

    async def _rank(self, first: Model, model: Model, work: Work) -> Answer:
        """What a model says of the texts that a first one puts first, and that one of the others."""
        self._in_two += 1
        try:
            # What does not fit the first model may well fit the other one.
            whole = replace(work, cut=replace(work.cut, allowed=True))
            thin = await self._score(first, whole, then=model)
            choosing = partial(choose, thin, work.texts, self.keep)
            chosen = choosing() if _is_short(work) else await self._aside(work, choosing)
            if not chosen:
                return thin.joined([], Answer(model.name, [], [], []))
            if model.retired and model.engine is None:
                raise UnavailableError(f"{model.name} was loaded anew; send the request again", 1.0)
            best = replace(work, texts=[work.texts[i] for i in chosen])
            return thin.joined(chosen, await self._score(model, best, chosen=chosen))
        finally:
            self._in_two -= 1

    async def _score(
        self, model: Model, work: Work, *, then: Model | None = None, chosen: Sequence[int] = ()
    ) -> Answer:
        """What a model says of texts. Equal ones are scored once.

        Args:
            model: the model.
            work: the texts.
            then: the model that will read the best of them: there must be room and time for it, too.
            chosen: where the texts are in the request that was accepted with them; (): they are the request.
        """

        def estimate(once: Work, *, sample: bool = False) -> tuple[list[int], int]:
            """About how many tokens each text has, and those that ``then`` will read."""
            estimates = model.estimate(once, model.sample(once) if sample else None)
            if then is None:
                return estimates, 0
            of_next = then.estimate(once, then.sample(once) if sample else None)
            return estimates, sum(of_next) * kept(len(of_next), self.keep) // len(of_next)

        def measure() -> tuple[tuple[Work, Sequence[int], Sequence[int]], tuple[list[int], int], int]:
            """The work with equal pairs once, the estimates, and the characters that are read."""
            found = work.distinct()
            characters = model.characters(found[0].queries, found[0].texts, work.cut)
            return found, estimate(found[0]), characters

        found = measure() if _is_short(work) else await self._aside(work, measure)
        (once, firsts, places), (estimates, later), unread = found
        rate = then.rate if then is not None else 0.0
        later_s = later / rate if rate else 0.0
        left = None if work.deadline is None else work.deadline - self.clock() - later_s
        if not chosen and self._admission.may_refuse(sum(estimates) + later, model.rate, left):
            # Texts of another kind than those so far may have fewer tokens: nobody is refused for their sake.
            estimates, later = await self._aside(work, partial(estimate, once, sample=True))
            later_s = later / rate if rate else 0.0
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = Job(
            once,
            model,
            future,
            estimates,
            unread,
            self.options.quantum,
            self.clock(),
            [chosen[i] for i in firsts] if chosen else firsts,
            places,
            later,
            later_s,
        )
        self._scheduler.submit(job, admitted=bool(chosen))
        return await self._end_of(job)

    async def _aside(self, work: Work, function: Callable[[], Result]) -> Result:
        """Call a function that takes time in proportion to a request's texts."""
        return await self.texts.run(work.client, work.deadline, function)

    async def _end_of(self, job: Job) -> Answer:
        """The answer to a job that the scheduler has."""
        alarm, deadline = None, job.work.deadline
        if deadline is not None:
            loop = asyncio.get_running_loop()
            alarm = loop.call_later(deadline - self.clock(), self._scheduler.expire, job)
        try:
            self.texts.submit(job.work.client, partial(self._tokenisers.slice, job))
            return await job.future
        except (asyncio.CancelledError, UnavailableError) as error:
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

    def _model(self, name: str | None) -> Model:
        """The loading that a new request goes to."""
        why, after = ("the server is stopping", 1.0) if self._draining else (self._stuck, _STUCK_RETRY)
        if not why:
            served = next(iter(self._served.values())) if name is None else self._find(name)
            model = served.current
            if model is not None and model.engine is not None:
                return model
            why, after = served.why, 1.0 if model is None else max(1.0, model.retry_after)
        self.metrics.refused.labels("unavailable").inc()
        raise UnavailableError(why, after)

    async def reload(self, name: str | None = None) -> None:
        """Load a model anew (None: all), and give it new requests once it is ready.

        Requests that were accepted before finish on the old one. Where the new one cannot be
        loaded, the old one stays.

        Raises:
            UnknownModelError: no such model.
            CrossRankError: it cannot be loaded.
        """
        for served in list(self._served.values()) if name is None else [self._find(name)]:
            async with served.reloading:
                new = await asyncio.to_thread(self._load, served.spec)
                old, served.current = served.current, new
                if old is not None:
                    old.retired = True
        self.on_loaded()

    async def drain(self, timeout: float) -> bool:
        """Take no new work and wait for the running; whether all of it ended in ``timeout`` seconds."""
        self._draining = True
        end = time.monotonic() + timeout
        while self._scheduler.jobs or self._in_two:
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

    def _load(self, spec: ModelSpec) -> Model:
        model = Model(spec.name, spec.load())
        self._scheduler.start(model.calls)
        if self.options.warm_up:
            _warm_up(model, self.clock)
        return model

    def _engine_failed(self, model: Model) -> None:
        threading.Thread(
            target=self._restart, args=(model,), name=f"crossrank-restart-{model.name}", daemon=True
        ).start()

    def _restart(self, model: Model) -> None:
        """Give a model a new engine, however long it takes; requests wait for one try, no longer."""
        spec, pause = self._served[model.name].spec, FIRST_PAUSE
        while not model.retired:
            try:
                fresh = self._load(spec)
                if fresh.identity != model.identity and model.loaded.checkpoint is not None:
                    message = f"the files of {model.name} have changed; send the request again"
                    self._scheduler.fail_all(model, UnavailableError(message, 1.0))
                    model.retired = True
                    self._served[model.name].current = fresh
                else:
                    model.attach(fresh.loaded)
            except Exception as error:
                _logger.exception("the engine of %s could not be restarted", model.name)
                model.why = f"the engine of {model.name} failed, and again on its restart: {error}"
                model.retry_after = pause
                self._scheduler.fail_all(model, UnavailableError(model.why, max(1.0, pause)))
                if self._stopped.wait(pause):
                    return
                pause = min(LONGEST_PAUSE, 2 * pause)
                continue
            self.metrics.engine_restarts.labels(model.name).inc()
            _logger.warning("the engine of %s is restarted", model.name)
            self._scheduler.resume(model)
            return
        message = f"{model.name} was loaded anew while its engine was restarting; send the request again"
        self._scheduler.fail_all(model, UnavailableError(message, 1.0))


def _is_short(work: Work) -> bool:
    """Whether work on the texts may run on the event loop."""
    # Texts that are no list may be made only when they are asked for.
    return isinstance(work.texts, list) and sum(map(len, [*work.queries, *work.texts])) < _SHORT


def _text_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 if cores == 1 else 1 + min(8, max(2, cores // 4))


def _warm_up(model: Model, clock: Callable[[], float]) -> None:
    """Run packs until caches and clocks are warm, and measure the speed.

    Raises:
        EngineError: the engine fails, or gives what is not a number.
    """
    engine = model.loaded.engine
    pair = model.encoder.encode("warm-up", ["one two three four five six seven eight " * 8])[0]
    # The first run computes the prefix, the others what is behind it.
    tokens = pair.tokens - (pair.prefix if model.shares_prefixes else 0)
    count = max(1, min(engine.fill_tokens, model.max_tokens) // tokens)
    for measured in (False, True, True):
        begun = clock()
        logits = engine.logits(build_pack([pair] * count))
        if not np.isfinite(logits).all():
            raise EngineError(
                f"{model.name} gives {logits[0]} for a plain pair of texts; its weights are damaged"
            )
        if measured:
            model.ran(count * tokens, clock() - begun)
