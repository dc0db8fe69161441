"""One request on its way: what is known of its pairs, and who waits for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from crossrank.errors import NonFiniteLogitError
from crossrank.pairs import EncodedPair, EncodedQuery
from crossrank.ranking import best_pairs
from crossrank.server.core.cache import CachedPair
from crossrank.server.core.fair import Flow
from crossrank.server.core.model import Model
from crossrank.server.core.work import Answer, Work

__all__ = ["Job", "WaitingPair"]


@dataclass(slots=True, eq=False)
class WaitingPair:
    """A pair in the queue.

    Attributes:
        job: whose it is.
        index: the place of its text there.
        window: its own place among the pairs of its text.
        pair: its ids.
        tokens: that are computed for it.
    """

    job: Job
    index: int
    window: int
    pair: EncodedPair
    tokens: int


@dataclass(slots=True, eq=False)
class _Queued:
    """A text in the queue: its pairs, their logits as far as these are known, and how many are not."""

    pairs: Sequence[EncodedPair]
    logits: list[float]
    left: int


@dataclass(slots=True, eq=False)
class Job:
    """A request and what becomes of it. What changes is changed under the scheduler's lock.

    Attributes:
        work, model, future: what is asked, who answers, and who waits. The work has equal pairs once.
        estimates: tokens of each text's pairs, before it is tokenised.
        unread: characters that are not tokenised.
        quantum: a request with no more tokens is small; see ``Flow``.
        begun: when it came.
        firsts: for each text, its first place in the request, by which errors name it; (): the same.
        places: for each text of the request, where it is in the work; (): the same.
        later, later_s: tokens that another model will read of the request after this one, for which there
            must be room, too, and seconds that it will take.
        found: for each text, what is known of it; None: not all of its pairs have a logit.
        waiting: the texts with a pair in the queue.
        reserved: tokens that it still takes of the queue: real ones, and estimates for pairs that
            are not tokenised.
        next: the first text that is not tokenised.
        query: its query, once it is tokenised; None until then, and where it has several.
        queued: queries with a pair that was queued.
        remaining: texts without a logit.
        ended: an answer or an error is on its way; what still comes for it is dropped.
    """

    work: Work
    model: Model
    future: asyncio.Future[Answer]
    estimates: list[int]
    unread: int
    quantum: int
    begun: float
    firsts: Sequence[int] = ()
    places: Sequence[int] = ()
    later: int = 0
    later_s: float = 0.0
    flow: Flow[WaitingPair, Model] = field(init=False)
    found: list[CachedPair | None] = field(init=False)
    waiting: dict[int, _Queued] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    reserved: int = field(init=False)
    large: bool = field(init=False)
    remaining: int = field(init=False)
    next: int = 0
    query: EncodedQuery | None = None
    queued: set[str] = field(default_factory=set)
    cached: int = 0
    ended: bool = False
    tokenization_s: float = 0.0
    inference_s: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.work.texts)
        if not self.places:
            self.firsts = self.places = range(count)
        self.found = [None] * count
        self.reserved = sum(self.estimates) + self.later
        self.large = sum(self.estimates) > self.quantum
        self.flow = Flow(self.model, self.work.priority, small=not self.large, client=self.work.client)
        self.remaining = count

    @property
    def engine_s(self) -> float:
        """Seconds that its tokens take the engines; 0: the speed is not known."""
        return _time(self.reserved - self.later, self.model.rate) + self.later_s

    @property
    def reading_s(self) -> float:
        """Seconds that one thread needs for the texts that it still has; 0: the speed is not known."""
        return _time(self.unread, self.model.reading_rate)

    @property
    def quantum_s(self) -> float:
        """Seconds that a turn in the engine takes; 0: the speed is not known."""
        return _time(self.quantum, self.model.rate)

    @property
    def instruction(self) -> str | None:
        """What the model is told; None: its default, or nothing where it takes no instruction."""
        return self.model.told(self.work)

    def cost(self, index: int, pair: EncodedPair) -> int:
        """Tokens that are computed for a pair. A prefix that the engine shares counts for the first one."""
        if not pair.prefix or not self.model.shares_prefixes:
            return pair.tokens
        queries = self.work.queries
        query = queries[index if len(queries) > 1 else 0]
        if query in self.queued:
            return max(1, pair.tokens - pair.prefix)
        self.queued.add(query)
        return pair.tokens

    def expect(self, index: int, pairs: Sequence[EncodedPair]) -> list[WaitingPair]:
        """A text is tokenised: its pairs, for the queue."""
        self.waiting[index] = _Queued(pairs, [math.nan] * len(pairs), len(pairs))
        return [
            WaitingPair(self, index, window, pair, self.cost(index, pair))
            for window, pair in enumerate(pairs)
        ]

    def know(self, index: int, known: CachedPair) -> None:
        """A text has its logit."""
        self.found[index] = known
        self.remaining -= 1

    def take(self, index: int, window: int, logit: float) -> CachedPair | None:
        """A pair has its logit.

        Returns:
            What is known of its text, if it was the last of the text's pairs.

        Raises:
            NonFiniteLogitError: it is NaN or infinite.
        """
        if not math.isfinite(logit):
            raise NonFiniteLogitError(self.firsts[index], logit)
        queued = self.waiting[index]
        queued.logits[window] = logit
        queued.left -= 1
        if queued.left:
            return None
        del self.waiting[index]
        pairs, logits, best = queued.pairs, queued.logits, 0
        if len(pairs) > 1:
            (best,) = best_pairs(np.array(logits, np.float32), [range(len(pairs))])
        tokens, pair = sum(each.tokens for each in pairs), pairs[best]
        known = CachedPair(logits[best], tokens, pair.truncated, pair.query_truncated, pair.window)
        self.know(index, known)
        return known

    def answer(self, now: float) -> Answer:
        """What the waiting task gets."""
        known = [found for found in self.found if found is not None]
        found = [known[place] for place in self.places]
        return Answer(
            model=self.model.name,
            logits=[each.logit for each in found],
            truncated=[each.truncated for each in found],
            tokens=[each.tokens for each in found],
            query_truncated=[each.query_truncated for each in found],
            windows=[each.window for each in found],
            cached=self.cached,
            instruction_ignored=self.work.instruction is not None and self.instruction is None,
            tokenization_s=self.tokenization_s,
            queue_s=max(0.0, now - self.begun - self.tokenization_s - self.inference_s),
            inference_s=self.inference_s,
        )


def _time(amount: int, rate: float) -> float:
    return amount / rate if rate else 0.0
