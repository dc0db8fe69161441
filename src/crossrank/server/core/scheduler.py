"""One queue of pairs over all requests, and the threads that run the engines.

Who changes what: the event loop submits jobs and drops them, tokeniser threads add their pairs, the
engine threads take packs and give logits; all under one lock, which nobody holds while
tokenising or while an engine runs. One model runs at a time. Where its engine takes more than one call
(``Engine.calls``), the next pack is there before the one at hand is done, and no core waits for Python.

A pack is small: as many tokens as keep the engine full (``Engine.fill_tokens``), or as it does in
``pack_seconds``, whichever is more. A request that comes while a pack runs waits for the rest of it,
so a pack is the measure of how quickly a server can answer. Where no small request has come for a while
there is nobody to answer quickly, and packs are longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank.engines import Engine
from crossrank.errors import (
    CrossRankError,
    DeadlineError,
    EngineError,
    InputError,
    NonFiniteLogitError,
    OutOfMemoryError,
    OverloadedError,
    UnavailableError,
)
from crossrank.pairs import EncodedPair
from crossrank.server.core.cache import CachedPair, ScoreCache
from crossrank.server.core.fair import FairQueue, Room
from crossrank.server.core.job import Job, LoadedModel, WaitingPair
from crossrank.server.core.metrics import Metrics
from crossrank.server.core.runner import run_pack

__all__ = ["Scheduler"]

_logger = logging.getLogger(__name__)

_KEPT_SHARE = 8
"""An eighth of the queue is kept for clients that have less than an eighth in it."""

_STUCK_FACTOR = 20
"""A pack that takes so many times as long as expected, and longer than ``stuck_seconds``, is stuck."""

_QUIET_SECONDS = 30.0
"""After so long without a small request packs are longer, by
_LONGER: so that the first that comes again is not much later than the others."""
_LONGER = 2.5

_LATER, _SOONER, _MOST_LATE = 1.05, 0.999, 4.0
"""How much longer than the queue alone says large requests wait: more after each that was late, and less
after each that was not."""


@dataclass(eq=False, slots=True)
class _Running:
    """A pack in an engine.

    Attributes:
        budget: tokens up to which it was filled.
        begun: since when, by ``time.monotonic()``.
        expected: seconds that it should take.
        watched: seconds that it took so far, counted by ``Scheduler.watch``.
    """

    model: LoadedModel
    engine: Engine
    pack: list[WaitingPair]
    tokens: int
    budget: int
    begun: float
    expected: float
    watched: float = 0.0


class Scheduler:
    """Runs jobs, fairly. ``start`` it once.

    Args:
        max_queue_tokens: of all jobs that wait or run.
        pack_seconds: how long a pack may take where it need not be longer to fill the engine.
        quantum: tokens of a request's turn; see ``FairQueue``.
        metrics: what is counted where.
        text_threads: how many tokenise.
        stuck_seconds: an engine that does not answer for longer is stuck; see ``stuck``.
        on_failure: called in the engine thread after a model's engine failed; the model has no
            engine then, and waits for ``resume``.
        cache: keeps what was scored; None: nothing is kept.
    """

    def __init__(
        self,
        *,
        max_queue_tokens: int,
        pack_seconds: float,
        quantum: int,
        metrics: Metrics,
        on_failure: Callable[[LoadedModel], None],
        text_threads: int = 1,
        stuck_seconds: float = 60.0,
        cache: ScoreCache | None = None,
    ) -> None:
        self.max_queue_tokens = max_queue_tokens
        self.pack_seconds = pack_seconds
        self.text_threads = text_threads
        self.stuck_seconds = stuck_seconds
        self._metrics = metrics
        self._cache = cache
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._queue: FairQueue[WaitingPair] = FairQueue(quantum)
        self._jobs: set[Job] = set()
        self._reserved = 0
        self._blocked: set[LoadedModel] = set()
        # What is queued now says nothing of what will come and share the turns: whether requests were
        # late of late does. 1: they wait as long as is expected.
        self._lateness = 1.0
        self._small_came = -math.inf  # when the last small request was accepted
        self._closing = False
        self._running: list[_Running] = []  # packs, all of one model
        self._last_end = -math.inf  # when a pack was done
        self._threads: list[threading.Thread] = []
        metrics.watch(
            te_queue_size=("Pairs that wait", lambda: self._queue.pairs),
            crossrank_queue_tokens=("Tokens of requests that wait or run", lambda: self._reserved),
            crossrank_queue_tokens_limit=("Most of them", lambda: self.max_queue_tokens),
            crossrank_queue_requests=("Requests that wait or run", lambda: len(self._jobs)),
        )

    def start(self, threads: int = 1) -> None:
        """Start engine threads, so that there are so many: as many as an engine takes ``calls`` at a time."""
        with self._changed:
            while len(self._threads) < threads and not self._closing:
                name = f"crossrank-engine-{len(self._threads)}"
                # Daemons: the process may end although an engine hangs.
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()

    # --- called on the event loop ---

    def is_too_much(self, model: LoadedModel, tokens: int, deadline: float | None) -> bool:
        """Whether a job of so many tokens might be refused though there were no others."""
        alone = tokens / model.rate if model.rate else 0.0
        late = deadline is not None and alone > deadline - time.monotonic()
        return late or tokens > self.max_queue_tokens

    def submit(self, job: Job) -> None:
        """Accept a job whole, or refuse it whole. Its pairs come by ``add``.

        Raises:
            InputError: it alone is larger than the queue.
            OverloadedError: there is no room, or no hope to meet its deadline.
            DeadlineError: its deadline is too near for its own pairs, whatever waits.
        """
        with self._changed:
            need = job.reserved
            if need > self.max_queue_tokens:
                self._metrics.refused("too_large")
                raise InputError(
                    f"the request has about {need} tokens, and this server queues at most "
                    f"{self.max_queue_tokens} at a time (max_queue_tokens); send fewer documents at once"
                )
            used: Counter[str] = Counter()
            for other in self._jobs:
                used[other.work.client] += other.reserved
            kept = self.max_queue_tokens // _KEPT_SHARE
            # Whoever has less in the queue than what is kept for others, is one of them. What is kept stays
            # theirs where the queue has become longer than it may be, as texts had more tokens than expected.
            is_small = used[job.work.client] + need <= kept
            fits = is_small and sum(tokens for tokens in used.values() if tokens <= kept) + need <= kept
            most = self.max_queue_tokens - (kept if not is_small and self._reserved else 0)
            if self._reserved + need > most and not fits:
                self._metrics.refused("queue")
                wait = self._seconds(self._jobs) * (self._reserved + need - most)
                raise OverloadedError(
                    f"{self._reserved} tokens are queued, and the request's {need} would exceed "
                    f"{most} of {self.max_queue_tokens} (max_queue_tokens); try again later",
                    _retry(wait / max(1, self._reserved)),
                )
            self._check_deadline(job)
            self._jobs.add(job)
            self._reserved += need
            if not job.large:
                self._small_came = time.monotonic()

    def drop(self, job: Job, error: BaseException) -> None:
        """End a job whose client went, or whose time is over: its pairs leave the queue."""
        with self._changed:
            self._end(job, error)

    def expire(self, job: Job) -> None:
        """A job's deadline is here."""
        left = job.remaining
        with self._changed:
            if job.large and not job.ended:
                self._lateness = min(_MOST_LATE, self._lateness * _LATER)
        self.drop(
            job,
            DeadlineError(f"the request's time is over; {left} of its {len(job.work.pairs)} pairs were left"),
        )

    # --- called by tokeniser threads ---

    def add(
        self,
        job: Job,
        first: int,
        pairs: Sequence[EncodedPair | CachedPair],
        seconds: float,
        characters: int,
    ) -> None:
        """The next pairs of a job are tokenised, or known.

        Args:
            first: the place of the first of them in the job.
            seconds: that it took.
            characters: that are read now.
        """
        waiting: list[WaitingPair] = []
        known: list[tuple[int, CachedPair]] = []
        for index, pair in enumerate(pairs, start=first):
            if isinstance(pair, EncodedPair):
                waiting.append(WaitingPair(job, index, pair))
            else:
                known.append((index, pair))
        with self._changed:
            if job.ended:
                return
            job.tokenization_s += seconds
            job.unread = max(0, job.unread - characters)
            job.next = first + len(pairs)
            for each in waiting:
                job.expect(each.index, each.tokens, each.pair.truncated)
            for index, pair in known:
                job.expect(index, pair.tokens, pair.truncated)
                job.take(index, pair.logit)
            job.cached += len(known)
            tokens = sum(each.tokens for each in waiting)
            self._reserve(job, tokens - sum(job.estimates[first : job.next]))
            if waiting:
                self._queue.add(job.flow, waiting)
                self._changed.notify()  # one thread: another would only be in its way
            if not job.remaining:
                self._end(job, None)

    # --- called by whoever looks after the models ---

    def resume(self, model: LoadedModel) -> None:
        """A model has an engine again."""
        with self._changed:
            self._blocked.discard(model)
            self._changed.notify_all()

    def fail_all(self, model: LoadedModel | None, error: CrossRankError) -> None:
        """End every job of a model, or all jobs."""
        with self._changed:
            for job in [job for job in self._jobs if model is None or job.model is model]:
                self._end(job, error)

    @property
    def jobs(self) -> int:
        """Jobs that wait or run."""
        return len(self._jobs)

    def watch(self, seconds: float) -> None:
        """So many seconds have passed in which this process ran: where it is paused, no engine is stuck."""
        with self._changed:
            for running in self._running:
                running.watched += seconds

    @property
    def stuck(self) -> float:
        """Seconds for which the engine has not answered, where that is beyond all expectation; else 0."""
        with self._changed:
            return max(
                (
                    running.watched
                    for running in self._running
                    if running.watched > max(self.stuck_seconds, _STUCK_FACTOR * running.expected)
                ),
                default=0.0,
            )

    def close(self, timeout: float = 10.0) -> bool:
        """Fail what is left and stop the threads, once the packs that they run are done.

        Returns:
            Whether all of them ended within ``timeout`` seconds.
        """
        self.fail_all(None, UnavailableError("the server is stopping", 1.0))
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # --- the engine threads ---

    def _run(self) -> None:
        while True:
            running = self._take()
            if running is None:
                return
            try:
                self._execute(running)
            except Exception:  # whatever it is, nobody may wait for ever
                _logger.exception("a pack was lost")
                error = EngineError("the pack was lost by an error of the server; see its log")
                self._fail_pack(running.pack, error)
            finally:
                self._done(running)

    def _take(self) -> _Running | None:
        """The next pack, as soon as there is one; None: the scheduler closes."""
        with self._changed:
            model = self._changed.wait_for(lambda: self._closing or self._next_model())
            if self._closing:
                return None
            assert isinstance(model, LoadedModel)
            engine = model.engine
            assert engine is not None  # models without one are blocked
            room = self._room(model)
            pack = self._queue.take(lambda _: room, self._blocked, model)
            tokens = sum(each.tokens for each in pack)
            expected = tokens / model.rate if model.rate else 0.0
            running = _Running(model, engine, pack, tokens, room.budget, time.monotonic(), expected)
            self._running.append(running)
            if self._next_model() is not None:
                self._changed.notify()
            return running

    def _done(self, running: _Running) -> None:
        """There is room for the next pack."""
        with self._changed:
            if running in self._running:
                self._running.remove(running)
                self._changed.notify()

    def _next_model(self) -> LoadedModel | None:
        """The model that a pack may be taken of now; None: nothing waits, or all must."""
        if self._running and len(self._running) >= self._running[0].model.calls:
            return None
        model = self._queue.next_group(self._blocked)
        assert model is None or isinstance(model, LoadedModel)
        # Two engines at a time would have more threads than there are cores.
        return None if self._running and model is not self._running[0].model else model

    def _room(self, model: LoadedModel) -> Room:
        """How large a pack is; smaller beside one that runs, as it has a part of the engine's threads."""
        quiet = time.monotonic() - self._small_came > _QUIET_SECONDS
        budget = model.budget(self.pack_seconds * (_LONGER if quiet else 1.0))
        if self._running:
            half = budget // (2 * model.calls)
            return Room(-(-budget // model.calls), model.most, enough=half)
        # What is there is done sooner as a whole than as a pack and a rest beside it.
        whole = self._queue.tokens
        return Room(whole if whole <= 2 * budget else budget, model.most, model.lanes)

    def _execute(self, running: _Running) -> None:
        model, pack = running.model, running.pack
        for part, outcome in run_pack(model, running.engine, pack, self._metrics):
            if isinstance(outcome, (InputError, OutOfMemoryError)):
                self._fail_pack(part, outcome)
                continue
            if isinstance(outcome, EngineError):
                self._fail_engine(running, outcome)
                return
            self._deliver(part, outcome)
        now = time.monotonic()
        self._done(running)
        # Before anybody has an answer, who may look at them.
        self._metrics.pack(model.name, len(pack), running.tokens, running.budget, now - running.begun)
        with self._changed:
            # Packs overlap: what each adds to the time that the engine was at work.
            seconds = now - max(running.begun, self._last_end)
            self._last_end = now
            model.ran(running.tokens, seconds)
            for job in {each.job for each in pack}:
                job.inference_s += seconds
                if not job.remaining:
                    self._end(job, None)

    def _deliver(self, part: list[WaitingPair], logits: npt.NDArray[np.float32]) -> None:
        with self._changed:
            for each, logit in zip(part, logits.tolist(), strict=True):
                job = each.job
                if job.ended:
                    continue
                self._reserve(job, -each.tokens)
                try:
                    job.take(each.index, logit)
                except NonFiniteLogitError as error:
                    self._end(job, error)
        if self._cache is not None:
            for each, logit in zip(part, logits.tolist(), strict=True):
                if math.isfinite(logit):
                    key = each.job.keys[each.index]
                    self._cache.keep(key, logit, each.tokens, each.pair.truncated)

    def _fail_pack(self, pack: list[WaitingPair], error: CrossRankError) -> None:
        with self._changed:
            for job in {each.job for each in pack}:
                if job.remaining:
                    self._end(job, error)

    def _fail_engine(self, running: _Running, error: EngineError) -> None:
        """The requests that it touched fail; the others wait for the next engine."""
        model = running.model
        with self._changed:
            first = model.engine is running.engine  # and not the pack that ran beside one that failed
            if first:
                model.detach(f"the engine of {model.name} failed and is being restarted: {error}")
                self._blocked.add(model)
            for job in {each.job for each in running.pack}:
                self._end(job, error)
        if first:
            _logger.error("the engine of %s failed: %s", model.name, error)
            self._metrics.engine_failed(model.name)
            self._on_failure(model)

    # --- under the lock ---

    def _check_deadline(self, job: Job) -> None:
        """Refuse what cannot be in time, before it takes tokens from those that can."""
        rate, deadline = job.model.rate, job.work.deadline
        if deadline is None or not rate:
            return
        left = deadline - time.monotonic()
        alone = max(job.reserved / rate, _reading(job))
        if alone > 2 * left:  # an estimate, so with a margin
            self._metrics.refused("deadline")
            raise DeadlineError(
                f"the request has about {job.reserved} tokens, {alone:.1f} s of work here, and "
                f"{left:.1f} s until its deadline; send fewer documents at once, or allow more time"
            )
        late = self._lateness if job.large else 1.0
        reading = sum(map(_reading, self._jobs)) / self.text_threads
        wait = max(self._seconds(self._jobs), reading)
        if late * (alone + wait) <= left:
            return
        earlier = [other for other in self._jobs if other.work.priority <= job.work.priority]
        ahead = max(
            self._ahead(job, alone, [(o, _before(job, o) / o.model.rate) for o in earlier if o.model.rate]),
            # All priorities are tokenised in the same turns.
            self._ahead(job, alone, [(other, _reading(other) / self.text_threads) for other in self._jobs]),
        )
        if ahead and late * (alone + ahead) > left:
            self._metrics.refused("deadline")
            raise OverloadedError(
                f"about {ahead:.1f} s of work are queued before the request, which has {alone:.1f} s of its "
                f"own, and its deadline is in {left:.1f} s; try again later",
                _retry(min(wait, late * (alone + ahead) - left)),
            )

    def _ahead(self, job: Job, alone: float, others: list[tuple[Job, float]]) -> float:
        """Seconds of others' work that is done before a job's: of another client no more than of its own."""
        by_client: dict[str, float] = {}
        for other, seconds in others:
            by_client[other.work.client] = by_client.get(other.work.client, 0.0) + seconds
        own = by_client.pop(job.work.client, 0.0)
        turns = max(own + alone, self._queue.quantum / job.model.rate)
        return own + sum(min(seconds, turns) for seconds in by_client.values())

    def _seconds(self, jobs: Iterable[Job]) -> float:
        """How long the engines need for what these jobs still have."""
        return sum(job.reserved / job.model.rate for job in jobs if job.model.rate)

    def _reserve(self, job: Job, change: int) -> None:
        job.reserved += change
        self._reserved += change

    def _end(self, job: Job, error: BaseException | None) -> None:
        """A job has its answer (None) or its error."""
        if job.ended:
            return
        job.ended = True
        if error is None and job.large:
            self._lateness = max(1.0, self._lateness * _SOONER)
        self._jobs.discard(job)
        self._queue.remove(job.flow)
        self._reserve(job, -job.reserved)
        self._metrics.ended(job.model.name, error, job.remaining)
        # A closed loop has nobody who waits.
        with contextlib.suppress(RuntimeError):
            job.future.get_loop().call_soon_threadsafe(_resolve, job, error)


def _resolve(job: Job, error: BaseException | None) -> None:
    if job.future.done():
        return
    if error is None:
        job.future.set_result(job.answer())
    elif isinstance(error, asyncio.CancelledError):
        job.future.cancel()
    else:
        job.future.set_exception(error)


def _before(job: Job, other: Job) -> int:
    """Tokens of another job that go before this one's last: see ``FairQueue``."""
    if other.flow.small:
        return other.reserved
    return 0 if job.flow.small else min(other.reserved, job.reserved)


def _reading(job: Job) -> float:
    """Seconds that one thread needs for the texts that a job still has."""
    rate = job.model.reading_rate
    return job.unread / rate if rate else 0.0


def _retry(seconds: float) -> float:
    """Seconds after which to try again: not at once, and not when nobody remembers."""
    return min(max(seconds, 1.0), 300.0)
