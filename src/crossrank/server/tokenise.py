"""Texts of accepted requests to pairs, in a few threads of their own.

Neither the event loop nor the engine thread ever tokenises. A request is tokenised slice by slice, and
after each it goes to the end of the line: a small request waits for slices, not for requests.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from crossrank.errors import CrossRankError, EngineError, TooLongError, UnavailableError
from crossrank.pairs import EncodedPair
from crossrank.server.cache import CachedPair, ScoreCache, pair_keys
from crossrank.server.job import Job
from crossrank.server.scheduler import Scheduler

__all__ = ["SLICE_CHARACTERS", "SLICE_PAIRS", "Tokenisers"]

_logger = logging.getLogger(__name__)

SLICE_PAIRS = 32
SLICE_CHARACTERS = 16_384
"""A slice has so many pairs or characters, whichever comes first, and at least one pair: some ms."""


class Tokenisers:
    """Tokenises jobs and adds their pairs to the scheduler.

    Args:
        scheduler: where pairs go.
        cache: what is asked first; None: nothing.
        threads: how many jobs are tokenised at a time.
    """

    def __init__(self, scheduler: Scheduler, cache: ScoreCache | None, threads: int) -> None:
        # The tokenizers library would spread every slice over all cores, which are the engine's.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._scheduler = scheduler
        self._cache = cache
        self._pool = ThreadPoolExecutor(threads, "crossrank-tokeniser")

    def begin(self, job: Job) -> None:
        """Tokenise a job that the scheduler has accepted."""
        try:
            self._pool.submit(self._slice, job)
        except RuntimeError:  # the pool is shut down
            self._scheduler.drop(job, UnavailableError("the server is stopping", 1.0))

    def close(self) -> None:
        """Finish the slices at hand and stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _slice(self, job: Job) -> None:
        if job.ended:
            return
        begun = time.monotonic()
        first, pairs = job.next, _next_pairs(job.work.pairs, job.next)
        try:
            encoded = self._encode(job, first, pairs)
        except CrossRankError as error:
            self._scheduler.drop(job, error)
            return
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            _logger.exception("the tokenizer of %s failed", job.model.name)
            self._scheduler.drop(job, EngineError(f"the tokenizer failed: {type(error).__name__}: {error}"))
            return
        self._scheduler.add(job, first, encoded, time.monotonic() - begun)
        if job.next < len(job.work.pairs) and not job.ended:
            self.begin(job)

    def _encode(
        self, job: Job, first: int, pairs: Sequence[tuple[str, str]]
    ) -> list[EncodedPair | CachedPair]:
        """Each pair's ids, or what the cache knows of it."""
        known = self._known(job, pairs)
        missing = [i for i, pair in enumerate(known) if pair is None]
        try:
            encoded = job.model.encoder.encode_pairs([pairs[i] for i in missing], job.cut)
        except TooLongError as error:
            raise TooLongError(first + missing[error.pair], error.tokens, error.limit) from None
        job.model.read([pairs[i] for i in missing], encoded)
        rest = iter(encoded)
        return [next(rest) if pair is None else pair for pair in known]

    def _known(self, job: Job, pairs: Sequence[tuple[str, str]]) -> list[CachedPair | None]:
        if self._cache is None:
            return [None] * len(pairs)
        cut = job.cut
        settings = f"{job.model.identity} {cut.side} {cut.document} {cut.query} {cut.pair}"
        keys = pair_keys(settings, pairs)
        job.keys += keys
        found = self._cache.find(keys)
        # What may not be cut is encoded anew, which raises the error that it should.
        return [None if pair and pair.truncated and not cut.allowed else pair for pair in found]


def _next_pairs(pairs: Sequence[tuple[str, str]], first: int) -> Sequence[tuple[str, str]]:
    """The slice that begins with pair ``first``."""
    characters, last = 0, first
    while last < len(pairs) and last - first < SLICE_PAIRS:
        characters += len(pairs[last][0]) + len(pairs[last][1])
        if characters > SLICE_CHARACTERS and last > first:
            break
        last += 1
    return pairs[first:last]
