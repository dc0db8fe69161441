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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank import errors
from crossrank.engines import Engine
from crossrank.packing import build_pack
from crossrank.pairs import EncodedPair
from crossrank.server.core.admission import Admission
from crossrank.server.core.cache import CachedPair, ScoreCache
from crossrank.server.core.fair import FairQueue, Room
from crossrank.server.core.job import Job, WaitingPair
from crossrank.server.core.metrics import Metrics
from crossrank.server.core.model import Model

__all__ = ["Options", "Scheduler"]

_logger = logging.getLogger(__name__)

STUCK_FACTOR = 20
"""A pack is stuck that takes this many times as long as expected, and longer than ``stuck_seconds``.
Swapping, or another process on most of the cores, makes a pack several times as slow, but not twenty."""

QUIET_SECONDS, LONGER = 30.0, 2.5
"""Seconds without a small request after which packs take ``LONGER`` times as long: the engine's threads wait
less for each other. The first small request after that waits for one pack of 25 ms instead of 10."""


@dataclass(frozen=True, slots=True)
class Options:
    """Numbers of the scheduler.

    Attributes:
        max_queue_tokens: of all requests that wait or run; what would exceed it is refused.
            A request counts with an estimate from its characters until it is tokenised, so the queue
            may exceed the limit by what the estimates are wrong.
        tokenizer_threads: for all work on texts, beside the engine's; one client has at most all but one.
            None: 2 on one core, otherwise 3, or one for every four cores and one more, at most 9.
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


@dataclass(eq=False, slots=True)
class _Running:
    """A pack in an engine.

    Attributes:
        budget: tokens up to which it was filled.
        begun, begun_up: since when, by the clock and in seconds of uptime.
        expected: seconds that it should take.
    """

    model: Model
    engine: Engine
    pack: list[WaitingPair]
    tokens: int
    budget: int
    begun: float
    begun_up: float
    expected: float


class Scheduler:
    """Runs jobs, fairly. ``start`` it once.

    Args:
        on_failure: called in the engine thread after a model's engine failed; the model has no
            engine then, and waits for ``resume``.
        cache: keeps what was scored; None: nothing is kept.
        clock: seconds, on the scale of the deadlines.
        uptime: seconds in which this process ran: where it is paused, no engine is stuck.
    """

    def __init__(
        self,
        options: Options,
        admission: Admission,
        metrics: Metrics,
        on_failure: Callable[[Model], None],
        cache: ScoreCache | None,
        clock: Callable[[], float],
        uptime: Callable[[], float],
    ) -> None:
        self._options = options
        self._uptime = uptime
        self._admission = admission
        self._clock = clock
        self._metrics = metrics
        self._cache = cache
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._queue: FairQueue[WaitingPair, Model] = FairQueue(options.quantum)
        self._jobs: set[Job] = set()
        self._reserved = 0
        self._blocked: set[Model] = set()
        self._small_came = -math.inf  # when the last small request was accepted
        self._closing = False
        self._running: list[_Running] = []  # packs, all of one model
        self._last_end = -math.inf  # when a pack was done
        self._threads: list[threading.Thread] = []
        metrics.watch(
            te_queue_size=("Pairs that wait", lambda: self._queue.pairs),
            crossrank_queue_tokens=("Tokens of requests that wait or run", lambda: self._reserved),
            crossrank_queue_tokens_limit=("Most of them", lambda: self._admission.max_tokens),
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

    def submit(self, job: Job, *, admitted: bool = False) -> None:
        """Accept a job whole, or refuse it whole. Its pairs come by ``add``.

        Args:
            admitted: it is the rest of a request that was accepted with it (``Job.later``).

        Raises:
            InputError: it alone is larger than the queue.
            OverloadedError: there is no room, or no hope to meet its deadline.
            DeadlineError: its deadline is too near for its own pairs, whatever waits.
        """
        with self._changed:
            now = self._clock()
            refusal = None if admitted else self._admission.refusal(job, self._jobs, now)
            if refusal is not None:
                self._metrics.refused.labels(refusal.reason).inc()
                raise refusal.error
            self._jobs.add(job)
            self._reserved += job.reserved
            if not job.large:
                self._small_came = now

    def drop(self, job: Job, error: BaseException) -> None:
        """End a job whose client went, or whose time is over: its pairs leave the queue."""
        with self._changed:
            self._end(job, error)

    def expire(self, job: Job) -> None:
        """A job's deadline is here."""
        left = job.remaining
        with self._changed:
            if not job.ended:
                self._admission.ended(job, in_time=False)
        message = f"the request's time is over; {left} of its {len(job.work.texts)} pairs were left"
        self.drop(job, errors.DeadlineError(message))

    # --- called by tokeniser threads ---

    def add(
        self,
        job: Job,
        first: int,
        found: Sequence[Sequence[EncodedPair] | CachedPair],
        seconds: float,
        characters: int,
    ) -> None:
        """The next texts of a job are tokenised, or known.

        Args:
            first: the place of the first of them in the job.
            found: the pairs of each, or what is known of it.
            seconds: that it took.
            characters: that are read now.
        """
        with self._changed:
            if job.ended:
                return
            job.tokenization_s += seconds
            job.unread = max(0, job.unread - characters)
            job.next = first + len(found)
            waiting: list[WaitingPair] = []
            for index, each in enumerate(found, start=first):
                if isinstance(each, CachedPair):
                    job.know(index, each)
                    job.cached += 1
                else:
                    waiting += job.expect(index, each)
            tokens = sum(pair.tokens for pair in waiting)
            self._reserve(job, tokens - sum(job.estimates[first : job.next]))
            if waiting:
                self._queue.add(job.flow, waiting)
                self._changed.notify()  # one thread: another would only be in its way
            if not job.remaining:
                self._end(job, None)

    # --- called by whoever looks after the models ---

    def resume(self, model: Model) -> None:
        """A model has an engine again."""
        with self._changed:
            self._blocked.discard(model)
            self._changed.notify_all()

    def fail_all(self, model: Model | None, error: errors.CrossRankError) -> None:
        """End every job of a model, or all jobs."""
        with self._changed:
            for job in [job for job in self._jobs if model is None or job.model is model]:
                self._end(job, error)

    @property
    def jobs(self) -> int:
        """Jobs that wait or run."""
        return len(self._jobs)

    @property
    def stuck(self) -> float:
        """Seconds for which the engine has not answered, where that is beyond all expectation; else 0."""
        least, now = self._options.stuck_seconds, self._uptime()
        with self._changed:
            waited = [
                (now - each.begun_up, max(least, STUCK_FACTOR * each.expected)) for each in self._running
            ]
        return max((seconds for seconds, bearable in waited if seconds > bearable), default=0.0)

    def close(self, timeout: float = 10.0) -> bool:
        """Fail what is left and stop the threads, once the packs that they run are done.

        Returns:
            Whether all of them ended within ``timeout`` seconds.
        """
        self.fail_all(None, errors.UnavailableError("the server is stopping", 1.0))
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
        while running := self._take():
            self._execute(running)

    def _take(self) -> _Running | None:
        """The next pack, as soon as there is one; None: the scheduler closes."""
        with self._changed:
            while (model := self._next_model()) is None and not self._closing:
                self._changed.wait()
            if model is None or self._closing:
                return None
            assert model.engine is not None  # models without one are blocked
            room = self._room(model)
            pack = self._queue.take(model, room)
            tokens = sum(each.tokens for each in pack)
            expected = tokens / model.rate if model.rate else 0.0
            begun = self._clock(), self._uptime()
            running = _Running(model, model.engine, pack, tokens, room.budget, *begun, expected)
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

    def _next_model(self) -> Model | None:
        """The model that a pack may be taken of now; None: nothing waits, or all must."""
        if self._running and len(self._running) >= self._running[0].model.calls:
            return None
        model = self._queue.next_group(self._blocked)
        # Two engines at a time would have more threads than there are cores.
        return None if self._running and model is not self._running[0].model else model

    def _room(self, model: Model) -> Room:
        """How large a pack is; smaller beside one that runs, as it has a part of the engine's threads."""
        quiet = self._clock() - self._small_came > QUIET_SECONDS
        budget = model.budget(self._options.pack_seconds * (LONGER if quiet else 1.0))
        if self._running:
            half = budget // (2 * model.calls)
            return Room(-(-budget // model.calls), model.max_tokens, enough=half)
        # What is there is done sooner as a whole than as a pack and a rest beside it.
        whole = self._queue.tokens
        return Room(whole if whole <= 2 * budget else budget, model.max_tokens, model.lanes)

    def _execute(self, running: _Running) -> None:
        model, pack = running.model, running.pack
        try:
            self._run_pack(running, pack)
            now = self._clock()
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
        except errors.EngineError as error:
            self._fail_engine(running, error)
        except Exception:  # whatever it is, nobody may wait for ever
            _logger.exception("a pack was lost")
            lost = errors.EngineError("the pack was lost by an error of the server; see its log")
            self._fail_pack(pack, lost)
        finally:
            self._done(running)

    def _run_pack(self, running: _Running, pack: list[WaitingPair]) -> None:
        """Give logits or an error to each pair of a pack, or of a part of one.

        Where memory does not suffice, its halves are run, and later packs are no larger; a pair that does
        not fit alone fails. Where the engine refuses what is in it, each request's pairs are run by
        themselves, and then each pair, so that nobody fails for another's texts.

        Raises:
            EngineError: the engine may be broken.
        """
        model = running.model
        try:
            logits = running.engine.logits(build_pack([each.pair for each in pack]))
        except (errors.OutOfMemoryError, MemoryError) as error:
            if len(pack) == 1:
                message = f"a pair of {pack[0].pair.tokens} tokens does not fit into memory: {error}"
                self._fail_pack(pack, errors.OutOfMemoryError(message))
                return
            tokens = sum(each.tokens for each in pack)
            model.max_tokens = max(1, min(model.max_tokens, tokens // 2))
            self._metrics.out_of_memory.labels(model.name).inc()
            what = "%s: a pack of %d tokens does not fit into memory; from now on at most %d"
            _logger.warning(what, model.name, tokens, model.max_tokens)
            middle = (len(pack) + 1) // 2
            parts = [pack[:middle], pack[middle:]]
        except errors.InputError as error:
            if len(pack) == 1:
                self._fail_pack(pack, _of_pair(pack[0], error))
                return
            parts = _by_request(pack)
        except errors.EngineError:
            raise
        except Exception as error:  # an engine is anybody's code
            raise errors.EngineError(f"{type(error).__name__}: {error}") from error
        else:
            if np.shape(logits) != (len(pack),):
                shape = np.shape(logits)
                raise errors.EngineError(f"the engine gave logits of shape {shape} for {len(pack)} pairs")
            self._deliver(pack, np.asarray(logits, np.float32))
            return
        # Outside of the handler, or the parts would run while the error holds its memory.
        for part in parts:
            if not all(each.job.ended for each in part):
                self._run_pack(running, part)

    def _deliver(self, part: list[WaitingPair], logits: npt.NDArray[np.float32]) -> None:
        done: list[tuple[WaitingPair, CachedPair]] = []
        with self._changed:
            for each, logit in zip(part, logits.tolist(), strict=True):
                job = each.job
                if not job.ended:
                    self._reserve(job, -each.tokens)
                try:
                    known = job.take(each.index, each.window, logit)
                except errors.NonFiniteLogitError as error:
                    self._end(job, error)
                else:
                    if known is not None:
                        done.append((each, known))
        if self._cache is not None:
            for each, known in done:  # of jobs that have ended, too
                self._cache.keep(each.job.keys[each.index], *known)

    def _fail_pack(self, pack: list[WaitingPair], error: errors.CrossRankError) -> None:
        with self._changed:
            for job in {each.job for each in pack}:
                if job.remaining:
                    self._end(job, error)

    def _fail_engine(self, running: _Running, error: errors.EngineError) -> None:
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
            self._metrics.engine_failures.labels(model.name).inc()
            self._on_failure(model)

    # --- under the lock ---

    def _reserve(self, job: Job, change: int) -> None:
        job.reserved += change
        self._reserved += change

    def _end(self, job: Job, error: BaseException | None) -> None:
        """A job has its answer (None) or its error."""
        if job.ended:
            return
        job.ended = True
        if error is None:
            self._admission.ended(job, in_time=True)
        self._jobs.discard(job)
        self._queue.remove(job.flow)
        self._reserve(job, -job.reserved)
        self._metrics.ended(job.model.name, error, job.remaining)
        # A closed loop has nobody who waits.
        with contextlib.suppress(RuntimeError):
            job.future.get_loop().call_soon_threadsafe(_resolve, job, error, self._clock)


def _resolve(job: Job, error: BaseException | None, clock: Callable[[], float]) -> None:
    if job.future.done():
        return
    if error is None:
        job.future.set_result(job.answer(clock()))
    elif isinstance(error, asyncio.CancelledError):
        job.future.cancel()
    else:
        job.future.set_exception(error)


def _by_request(pack: list[WaitingPair]) -> list[list[WaitingPair]]:
    """The pairs of each request; of a single request, each pair."""
    parts: dict[Job, list[WaitingPair]] = {}
    for each in pack:
        parts.setdefault(each.job, []).append(each)
    return list(parts.values()) if len(parts) > 1 else [[each] for each in pack]


def _of_pair(pair: WaitingPair, error: errors.InputError) -> errors.InputError:
    """What the engine says of the only pair of its pack, said of that pair of its request."""
    message = str(error)
    what = message.removeprefix("pair 0 ") if message.startswith("pair 0 ") else f"is refused: {message}"
    return errors.InputError(f"pair {pair.job.firsts[pair.index]} {what}")
