"""Whether a request may wait: there must be room in the queue, and time before its deadline.

Nothing here has a clock, a lock or a counter of metrics: ``Admission`` is told what waits and what time it
is, and its answer depends on that alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import NamedTuple

from crossrank.errors import CrossRankError, DeadlineError, InputError, OverloadedError
from crossrank.server.core.job import Job

__all__ = ["Admission", "Refusal"]

KEPT_SHARE = 8
"""An eighth of the queue is kept for clients that have less than an eighth in it. With the default of a
million tokens, that is room for sixty small requests however much the others send."""

MARGIN = 2.0
"""A request is refused for its own size only where it would take this many times as long as it may. The
speed is measured on other texts, and to try again would not help."""

LATER, SOONER = 1.05, 0.999
"""What each large request that was late, or in time, does to ``Admission.lateness``. The two are in balance
where 2 % of them are late: 0.02 * ln 1.05 = 0.98 * 0.001."""

MAX_LATENESS = 4.0
"""The most. A server that had one bad minute comes back from here to 1 after 1,400 requests in time."""

MIN_RETRY, MAX_RETRY = 1.0, 300.0
"""Seconds in ``Retry-After``: never at once, and never so late that nobody remembers."""


class Refusal(NamedTuple):
    """Why a request may not wait.

    Attributes:
        reason: "too_large", "queue" or "deadline", as the metrics count it.
        error: what its client gets.
    """

    reason: str
    error: CrossRankError


class Admission:
    """Accepts a request whole, or refuses it whole.

    Attributes:
        max_tokens: of all requests that wait or run.
        lateness: how much longer than expected large requests wait. What is queued now says nothing of what
            will come and share the turns; recent misses of deadlines do.
    """

    def __init__(self, max_tokens: int, text_threads: int = 1) -> None:
        self.max_tokens = max_tokens
        self.lateness = 1.0
        self._text_threads = text_threads

    def may_refuse(self, tokens: int, rate: float, left: float | None) -> bool:
        """Whether a request of so many tokens might be refused though there were no others.

        Args:
            rate: tokens per second; 0: not known.
            left: seconds until its deadline; None: it has none.
        """
        return tokens > self.max_tokens or (bool(rate) and left is not None and tokens / rate > left)

    def ended(self, request: Job, *, in_time: bool) -> None:
        """An accepted request has its answer, or its deadline has passed."""
        if request.large:
            factor = SOONER if in_time else LATER
            self.lateness = min(MAX_LATENESS, max(1.0, self.lateness * factor))

    def refusal(self, new: Job, waiting: Collection[Job], now: float) -> Refusal | None:
        """Why a request is refused at the time ``now``; None: it joins those that are ``waiting``."""
        return self._no_room(new, waiting) or self._no_time(new, waiting, now)

    def _no_room(self, new: Job, waiting: Collection[Job]) -> Refusal | None:
        need, limit = new.reserved, self.max_tokens
        if need > limit:
            return Refusal(
                "too_large",
                InputError(
                    f"the request has about {need} tokens, and this server queues at most {limit} at a time "
                    "(max_queue_tokens); send fewer documents at once"
                ),
            )
        used: Counter[str] = Counter()
        for other in waiting:
            used[other.work.client] += other.reserved
        queued, kept = used.total(), limit // KEPT_SHARE
        # A client with less in the queue than what is kept for others is one of these others. The share stays
        # theirs where the queue has grown beyond its limit, because texts had more tokens than estimated.
        is_small = used[new.work.client] + need <= kept
        if is_small and sum(tokens for tokens in used.values() if tokens <= kept) + need <= kept:
            return None
        most = limit - (kept if not is_small and queued else 0)
        if queued + need <= most:
            return None
        wait = _engine_s(waiting) * (queued + need - most) / max(1, queued)
        message = (
            f"{queued} tokens are queued, and the request's {need} would exceed {most} of {limit} "
            "(max_queue_tokens); try again later"
        )
        return Refusal("queue", OverloadedError(message, _retry(wait)))

    def _no_time(self, new: Job, waiting: Collection[Job], now: float) -> Refusal | None:
        """Refuse what cannot be in time, before it takes tokens from those that can."""
        if new.work.deadline is None or not new.engine_s:
            return None
        left = new.work.deadline - now
        alone = max(new.engine_s, new.reading_s)
        if alone > MARGIN * left:
            message = (
                f"the request has about {new.reserved} tokens, {alone:.1f} s of work here, and {left:.1f} s "
                "until its deadline; send fewer documents at once, or allow more time"
            )
            return Refusal("deadline", DeadlineError(message))
        late = self.lateness if new.large else 1.0
        wait = max(_engine_s(waiting), sum(other.reading_s for other in waiting) / self._text_threads)
        if late * (alone + wait) <= left:
            return None
        ahead = max(
            _ahead(new, alone, waiting, lambda other: _engine_before(new, other)),
            # All priorities are tokenised in the same turns.
            _ahead(new, alone, waiting, lambda other: other.reading_s / self._text_threads),
        )
        if not ahead or late * (alone + ahead) <= left:
            return None
        message = (
            f"about {ahead:.1f} s of work are queued before the request, which has {alone:.1f} s of its own, "
            f"and its deadline is in {left:.1f} s; try again later"
        )
        return Refusal("deadline", OverloadedError(message, _retry(min(wait, late * (alone + ahead) - left))))


def _ahead(new: Job, alone: float, waiting: Collection[Job], seconds: Callable[[Job], float]) -> float:
    """Seconds of others' work that is done before a request's: as clients take turns, of another client no
    more than its own client has, or than one turn.
    """
    by_client: dict[str, float] = {}
    for other in waiting:
        by_client[other.work.client] = by_client.get(other.work.client, 0.0) + seconds(other)
    own = by_client.pop(new.work.client, 0.0)
    turns = max(own + alone, new.quantum_s)
    return own + sum(min(of_client, turns) for of_client in by_client.values())


def _engine_before(new: Job, other: Job) -> float:
    """Seconds that the engine works on another request before this one is done: see ``FairQueue``."""
    if other.work.priority > new.work.priority:
        return 0.0
    if other.flow.small:
        return other.engine_s
    if new.flow.small or not other.reserved:
        return 0.0
    return other.engine_s * min(1.0, new.reserved / other.reserved)


def _engine_s(waiting: Collection[Job]) -> float:
    return sum(other.engine_s for other in waiting)


def _retry(seconds: float) -> float:
    return min(max(seconds, MIN_RETRY), MAX_RETRY)
