"""Which failures are tried again, and when."""

from __future__ import annotations

import random
import time

from crossrank.errors import CrossRankError, DeadlineError

__all__ = ["Failure", "Tries"]

_FIRST_PAUSE, _MAX_PAUSE = 0.25, 8.0
"""Seconds between tries, if the server names none: they double from the first to the longest."""

_JITTER = 0.25
"""Pauses are longer by up to this share, so that clients refused together do not return together."""


class Failure(Exception):  # noqa: N818 - it holds the error
    """A try that failed.

    Attributes:
        error: what the caller gets if there is no other try.
        retryable: another try may succeed.
        retry_after: seconds to wait before it, or None if the server named none.
    """

    def __init__(
        self, error: CrossRankError, *, retryable: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retryable = retryable
        self.retry_after = retry_after


class Tries:
    """The tries of one call: how much time is left, and how long to wait before the next try."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._timeout = timeout
        self.end = time.monotonic() + timeout
        self._left = retries
        self._pause = _FIRST_PAUSE
        self._last: CrossRankError | None = None

    def seconds(self) -> float:
        """Seconds that are left for the call.

        Raises:
            CrossRankError: none are left: what the last try failed with, as it says more than that time is
                over; DeadlineError if there was none.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise self._last or self.over()
        return left

    def over(self) -> DeadlineError:
        """The error of a call whose time is over."""
        return DeadlineError(f"the server did not answer within {self._timeout:g} s (timeout)")

    def pause(self, failure: Failure) -> float:
        """Seconds to wait before the next try.

        Raises:
            CrossRankError: there is no next try: it would not help, there have been enough, or the pause
                would be longer than the time that is left.
        """
        if not failure.retryable or not self._left:
            raise failure.error
        self._left -= 1
        self._last = failure.error
        wait = self._pause if failure.retry_after is None else failure.retry_after
        self._pause = min(2 * self._pause, _MAX_PAUSE)
        wait *= 1 + _JITTER * random.random()  # noqa: S311 - no secret
        if time.monotonic() + wait >= self.end:
            raise failure.error
        return wait
