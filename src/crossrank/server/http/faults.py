"""Why a request was not answered, before a dialect puts it into its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from crossrank import errors

__all__ = ["FAULTS", "Fault", "Kind", "fault_of", "forget_frames", "shortened"]

# fmt: off
Kind = Literal[
    "syntax", "invalid", "empty", "limit", "too_long", "too_large", "unauthorized", "forbidden", "not_found",
    "method", "unknown_model", "slow", "long_target", "large_head", "overloaded", "deadline", "engine",
    "unavailable", "internal",
]
# fmt: on


class _Row(NamedTuple):
    """What is known of a kind of fault.

    Attributes:
        status: of HTTP, unless a dialect has another.
        openai: the type of error that OpenAI's clients know.
        meaning: for the description of the rerank paths; "": it does not happen there.
        error: the exceptions that are such faults.
    """

    status: int
    openai: str
    meaning: str = ""
    error: type[errors.CrossRankError] | None = None


FAULTS: Mapping[Kind, _Row] = {
    "syntax": _Row(400, "BadRequestError", "the body is not JSON"),
    "invalid": _Row(400, "BadRequestError", "a field is not as it should be", errors.InputError),
    "empty": _Row(400, "BadRequestError", "there are no documents"),
    "limit": _Row(400, "BadRequestError", "too many documents, lists or objects, or a text is too long"),
    "too_long": _Row(400, "BadRequestError", "a text does not fit, and may not be cut", errors.TooLongError),
    "unauthorized": _Row(401, "AuthenticationError", "no API key, or a wrong one"),
    "forbidden": _Row(403, "PermissionDeniedError", "a browser sends it for a foreign page"),
    "not_found": _Row(404, "NotFoundError"),
    "unknown_model": _Row(404, "NotFoundError", "no such model", errors.UnknownModelError),
    "method": _Row(405, "MethodNotAllowedError"),
    "slow": _Row(408, "RequestTimeoutError", "the body came too slowly"),
    "long_target": _Row(414, "BadRequestError"),
    "large_head": _Row(431, "BadRequestError"),
    "too_large": _Row(413, "RequestEntityTooLargeError", "the body is too large"),
    "overloaded": _Row(
        429, "RateLimitError", "the queue is full; Retry-After says when to try again", errors.OverloadedError
    ),
    "internal": _Row(500, "InternalServerError"),
    "engine": _Row(503, "ServiceUnavailableError", "the engine failed", errors.EngineError),
    "unavailable": _Row(
        503,
        "ServiceUnavailableError",
        "the server starts, stops, or restarts the engine",
        errors.UnavailableError,
    ),
    "deadline": _Row(504, "GatewayTimeoutError", "the request's time is over", errors.DeadlineError),
}
"""All kinds."""

_LONGEST_MESSAGE = 400
"""Characters of a message, which may quote what the client sent: five lines of a terminal."""


class Fault(errors.ServiceError):
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


def fault_of(error: Exception) -> Fault:
    """The fault that an error is. An unexpected one is "internal", with a message that reveals nothing."""
    if isinstance(error, Fault):
        return error
    for kind, row in FAULTS.items():
        if row.error is not None and isinstance(error, row.error):
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
