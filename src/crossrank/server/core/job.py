"""One request on its way: what is known of its pairs, and who waits for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crossrank.errors import NonFiniteLogitError
from crossrank.pairs import EncodedPair, EncodedQuery
from crossrank.server.core.cache import CachedPair
from crossrank.server.core.fair import Flow
from crossrank.server.core.model import Model
from crossrank.server.core.work import Answer, Work

__all__ = ["Job", "WaitingPair"]


@dataclass(slots=True, eq=False)
class WaitingPair:
    """A pair in the queue: whose it is, its place there, its ids, and the tokens that are computed for it."""

    job: Job
    index: int
    pair: EncodedPair
    tokens: int


@dataclass(slots=True, eq=False)
class Job:
    """A request and what becomes of it. What changes is changed under the scheduler's lock.

    Attributes:
        work, model, future: what is asked, who answers, and who waits. The work has equal pairs once.
        estimates: tokens of each pair, before it is tokenised.
        unread: characters that are not tokenised.
        quantum: a request with no more tokens is small; see ``Flow``.
        begun: when it came.
        firsts: for each pair, its first place in the request, by which errors name it; (): the same.
        places: for each text of the request, where its pair is; (): the same.
        reserved: tokens that it still takes of the queue: real ones, and estimates for pairs that
            are not tokenised.
        next: the first pair that is not tokenised.
        query: its query, once it is tokenised; None until then, and where it has several.
        queued: queries with a pair that was queued.
        remaining: pairs without a logit.
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
    flow: Flow[WaitingPair, Model] = field(init=False)
    logits: npt.NDArray[np.float32] = field(init=False)
    truncated: list[bool] = field(init=False)
    query_truncated: list[bool] = field(init=False)
    tokens: list[int] = field(init=False)
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
        self.logits = np.full(count, np.nan, np.float32)
        self.truncated = [False] * count
        self.query_truncated = [False] * count
        self.tokens = [0] * count
        self.reserved = sum(self.estimates)
        self.large = self.reserved > self.quantum
        self.flow = Flow(self.model, self.work.priority, small=not self.large, client=self.work.client)
        self.remaining = count

    @property
    def engine_s(self) -> float:
        """Seconds that its tokens take the engine; 0: the speed is not known."""
        return _time(self.reserved, self.model.rate)

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

    def expect(self, index: int, pair: EncodedPair | CachedPair) -> None:
        """A pair is tokenised."""
        self.tokens[index] = pair.tokens
        self.truncated[index] = pair.truncated
        self.query_truncated[index] = pair.query_truncated

    def take(self, index: int, logit: float) -> None:
        """A pair has its logit.

        Raises:
            NonFiniteLogitError: it is NaN or infinite.
        """
        if not math.isfinite(logit):
            raise NonFiniteLogitError(self.firsts[index], logit)
        self.logits[index] = logit
        self.remaining -= 1

    def answer(self, now: float) -> Answer:
        """What the waiting task gets."""
        return Answer(
            model=self.model.name,
            logits=self.logits[np.asarray(self.places, np.intp)],
            truncated=[self.truncated[place] for place in self.places],
            tokens=[self.tokens[place] for place in self.places],
            query_truncated=[self.query_truncated[place] for place in self.places],
            cached=self.cached,
            instruction_ignored=self.work.instruction is not None and self.instruction is None,
            tokenization_s=self.tokenization_s,
            queue_s=max(0.0, now - self.begun - self.tokenization_s - self.inference_s),
            inference_s=self.inference_s,
        )


def _time(amount: int, rate: float) -> float:
    return amount / rate if rate else 0.0
