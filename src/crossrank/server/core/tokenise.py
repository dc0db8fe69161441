"""Texts of accepted requests to pairs, in the threads for texts.

Neither the event loop nor an engine thread ever tokenises. A request is tokenised slice by slice, and
after each it goes to the end of its client's line: a small request waits for slices, not for requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial

from crossrank.errors import CrossRankError, EngineError, TooLongError
from crossrank.pairs import EncodedPair
from crossrank.server.core.cache import CachedPair, ScoreCache, pair_keys
from crossrank.server.core.job import Job
from crossrank.server.core.scheduler import Scheduler
from crossrank.server.core.turns import TextThreads
from crossrank.server.core.work import Work

__all__ = ["SLICE_CHARACTERS", "SLICE_PAIRS", "Tokenisers"]

_logger = logging.getLogger(__name__)

SLICE_PAIRS, SLICE_CHARACTERS = 32, 16_384
"""A slice has so many pairs or characters, whichever comes first, and at least one pair. At a million
characters a second it takes up to 20 ms, which is how long another client's texts wait for it."""


class Tokenisers:
    """Tokenises jobs, as far as the cache does not know their pairs, and adds these to the scheduler."""

    def __init__(
        self,
        scheduler: Scheduler,
        cache: ScoreCache | None,
        threads: TextThreads,
        clock: Callable[[], float],
    ) -> None:
        # The tokenizers library would spread every slice over all cores, which are the engine's.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._scheduler = scheduler
        self._cache = cache
        self._threads = threads
        self._clock = clock

    def slice(self, job: Job) -> None:
        """Tokenise the next pairs of a job that the scheduler has accepted, and then those behind them."""
        if job.ended:
            return
        begun = self._clock()
        first, work = job.next, job.work
        try:
            queries, texts = work.part(first, _end_of_slice(work, first))
            pairs = self._pairs(job, queries, texts)
            if first and len(work.queries) == 1:
                queries = ()  # it was read with the first slice
            seconds, characters = self._clock() - begun, job.model.characters(queries, texts, work.cut)
            if not any(isinstance(found, CachedPair) for found in pairs):
                job.model.has_read(characters, seconds)
            self._scheduler.add(job, first, pairs, seconds, characters)
            if job.next < len(work.texts) and not job.ended:
                self._threads.submit(work.client, partial(self.slice, job))
        except CrossRankError as error:
            self._scheduler.drop(job, error)
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            _logger.exception("the tokenizer of %s failed", job.model.name)
            self._scheduler.drop(job, EngineError(f"the tokenizer failed: {type(error).__name__}: {error}"))

    def _pairs(
        self, job: Job, queries: Sequence[str], texts: Sequence[str]
    ) -> list[list[EncodedPair] | CachedPair]:
        """The ids of each text's pairs, or what the cache knows of it."""
        known = self._known(job, queries, texts)
        missing = [index for index, pair in enumerate(known) if pair is None]
        if not missing:
            return [pair for pair in known if pair is not None]
        texts = [texts[index] for index in missing]
        encoder = job.model.encoder
        try:
            if len(job.work.queries) > 1:
                queries = [queries[index] for index in missing]
                asked = encoder.queries(queries, instruction=job.instruction)
                encoded = encoder.join_windows(asked, texts, job.work.cut)
            else:
                job.query = job.query or encoder.query(queries[0], instruction=job.instruction)
                encoded = encoder.join_windows(job.query, texts, job.work.cut)
        except TooLongError as error:
            pair = job.firsts[job.next + missing[error.pair]]
            raise TooLongError(pair, error.tokens, error.limit, exact=error.exact) from None
        job.model.read(queries, texts, [pairs[0] for pairs in encoded], job.instruction)
        rest = iter(encoded)
        return [next(rest) if pair is None else pair for pair in known]

    def _known(self, job: Job, queries: Sequence[str], texts: Sequence[str]) -> list[CachedPair | None]:
        if self._cache is None:
            return [None] * len(texts)
        cut = job.work.cut
        settings = (
            f"{job.model.identity} {cut.side} {cut.document} {cut.query} {cut.pair} "
            f"{job.model.encoder.windows(cut)} {job.instruction!r}"
        )
        keys = pair_keys(settings, queries, texts)
        job.keys += keys
        found = self._cache.find(keys)
        # What may not be cut is encoded anew, which raises the error that it should.
        return [pair if pair and (cut.allowed or not _was_cut(pair)) else None for pair in found]


def _was_cut(pair: CachedPair) -> bool:
    return pair.truncated or pair.query_truncated or pair.window is not None


def _end_of_slice(work: Work, first: int) -> int:
    """Where the slice that begins with pair ``first`` ends. A query counts where it is tokenised: once a
    request if it is the only one, and once for equal ones side by side.
    """
    several = len(work.queries) > 1
    characters, query = 0, None if several or not first else work.queries[0]
    for index in range(first, min(first + SLICE_PAIRS, len(work.texts))):
        asked = work.queries[index if several else 0]
        if asked != query:
            characters, query = characters + len(asked), asked
        characters += len(work.texts[index])
        if characters > SLICE_CHARACTERS and index > first:
            return index
    return index + 1
