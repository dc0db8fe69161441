"""Texts of accepted requests to pairs, in the threads for texts.

Neither the event loop nor an engine thread ever tokenises. A request is tokenised slice by slice, and
after each it goes to the end of its client's line: a small request waits for slices, not for requests.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from crossrank.errors import CrossRankError, EngineError, TooLongError, UnavailableError
from crossrank.pairs import EncodedPair
from crossrank.server.core.cache import CachedPair, ScoreCache, pair_keys
from crossrank.server.core.job import Job
from crossrank.server.core.scheduler import Scheduler
from crossrank.server.core.turns import TextThreads

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
        threads: where the work is done.
    """

    def __init__(self, scheduler: Scheduler, cache: ScoreCache | None, threads: TextThreads) -> None:
        # The tokenizers library would spread every slice over all cores, which are the engine's.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._scheduler = scheduler
        self._cache = cache
        self._threads = threads

    def begin(self, job: Job) -> None:
        """Tokenise a job that the scheduler has accepted."""
        try:
            self._threads.submit(job.work.client, lambda: self._slice(job))
        except UnavailableError as error:
            self._scheduler.drop(job, error)

    def _slice(self, job: Job) -> None:
        if job.ended:
            return
        begun = time.monotonic()
        try:
            first, pairs = job.next, _next_pairs(job.work.pairs, job.next)
            encoded = self._encode(job, first, pairs)
        except CrossRankError as error:
            self._scheduler.drop(job, error)
            return
        except BaseException as error:  # a panic of the tokenizers library is no Exception
            _logger.exception("the tokenizer of %s failed", job.model.name)
            self._scheduler.drop(job, EngineError(f"the tokenizer failed: {type(error).__name__}: {error}"))
            return
        seconds, characters = time.monotonic() - begun, job.model.characters(pairs)
        if all(isinstance(pair, EncodedPair) for pair in encoded):
            job.model.has_read(characters, seconds)
        self._scheduler.add(job, first, encoded, seconds, characters)
        if job.next < len(job.work.pairs) and not job.ended:
            self.begin(job)

    def _encode(
        self, job: Job, first: int, pairs: Sequence[tuple[str, str]]
    ) -> list[EncodedPair | CachedPair]:
        """Each pair's ids, or what the cache knows of it."""
        known = self._known(job, pairs)
        missing = [i for i, pair in enumerate(known) if pair is None]
        texts = [pairs[i] for i in missing]
        encoder, queries = job.model.encoder, [query for query, _ in texts]
        try:
            new = [query for query in dict.fromkeys(queries) if query not in job.queries]
            job.queries.update(zip(new, encoder.queries(new), strict=True))
            asked = [job.queries[query] for query in queries]
            encoded = encoder.join(asked, [text for _, text in texts], job.cut)
        except TooLongError as error:
            pair = first + missing[error.pair]
            raise TooLongError(pair, error.tokens, error.limit, exact=error.exact) from None
        # Of many queries, each is most likely read once.
        job.queries = {query: job.queries[query] for query in queries[-1:]}
        job.model.read(texts, encoded)
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
    """The slice that begins with pair ``first``; a query that several of its pairs have counts once."""
    found: list[tuple[str, str]] = []
    characters = 0
    for index in range(first, min(first + SLICE_PAIRS, len(pairs))):
        pair = query, document = pairs[index]
        characters += len(document)
        if not found or query != found[-1][0]:
            characters += len(query)
        if characters > SLICE_CHARACTERS and found:
            break
        found.append(pair)
    return found
