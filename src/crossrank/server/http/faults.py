"""Why a request was not answered, before a dialect puts it into its own words."""

from __future__ import annotations

from typing import Literal

from crossrank.errors import (
    CrossRankError,
    DeadlineError,
    EngineError,
    InputError,
    OverloadedError,
    ServiceError,
    TooLongError,
    UnavailableError,
    UnknownModelError,
)

__all__ = ["Fault", "Kind", "fault_of", "forget_frames", "shortened"]

Kind = Literal[
    "syntax",
    "invalid",
    "empty",
    "limit",
    "too_long",
    "too_large",
    "unauthorized",
    "forbidden",
    "not_found",
    "method",
    "unknown_model",
    "slow",
    "overloaded",
    "deadline",
    "engine",
    "unavailable",
    "internal",
]


_LONGEST_MESSAGE = 400
"""Characters of a message, which may quote what the client sent."""


class Fault(ServiceError):  # noqa: N818 - it is not an error of the server's alone
    """A request gets no answer but this.

    Attributes:
        kind: what went wrong; each dialect has a status for it.
        retry_after: seconds after which to try again; None: it would not help, or nobody knows.
    """

    def __init__(self, kind: Kind, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(shortened(message, _LONGEST_MESSAGE))
        self.kind: Kind = kind
        self.retry_after = retry_after


def shortened(text: str, longest: int) -> str:
    """A text, without its middle where it is longer."""
    if len(text) <= longest:
        return text
    half = (longest - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


_KINDS: list[tuple[type[CrossRankError], Kind]] = [
    (UnknownModelError, "unknown_model"),
    (TooLongError, "too_long"),
    (OverloadedError, "overloaded"),
    (DeadlineError, "deadline"),
    (UnavailableError, "unavailable"),
    (EngineError, "engine"),
    (InputError, "invalid"),
]


def fault_of(error: Exception) -> Fault:
    """The fault that an error is; one that nobody foresaw is "internal", and says nothing of itself."""
    if isinstance(error, Fault):
        return error
    for kind_of_error, kind in _KINDS:
        if isinstance(error, kind_of_error):
            after = getattr(error, "retry_after", 1.0 if kind == "engine" else None)
            fault = Fault(kind, str(error), retry_after=after)
            fault.__cause__ = error
            return fault
    return Fault("internal", "the server failed; its log says how")


def forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of what caused it.

    Their frames hold the request's body, and some hold the error: such a cycle keeps the body in memory until
    the garbage collector runs, which lists of numbers and long texts do not make happen.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
