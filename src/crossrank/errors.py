"""All errors that CrossRank raises on purpose.

::

    CrossRankError
    ├── InputError               the caller's texts or options are wrong (also a ValueError)
    │   └── MissingLibraryError  a library must be installed first (also a ModuleNotFoundError)
    ├── ModelError               the model cannot be used
    │   ├── ModelNotFoundError   there is no such model, or it could not be fetched
    │   ├── CheckpointError      its files are missing, damaged or do not fit together
    │   └── UnsupportedModelError  it is not a cross-encoder that an engine here can run
    ├── EngineError              the model failed while it ran
    │   ├── OutOfMemoryError     a single pair does not fit into memory
    │   └── NonFiniteLogitError  a pair's logit is NaN or infinite
    └── ServiceError             a server did not score a request
        ├── OverloadedError      its queue is full: try again later
        ├── DeadlineError        the request's deadline has passed
        ├── UnknownModelError    it serves no model of that name
        ├── TooLongError         a pair is too long, and the request forbids truncation
        └── UnavailableError     it is starting, stopping, or restarting the engine

A message says what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "CheckpointError",
    "CrossRankError",
    "DeadlineError",
    "EngineError",
    "InputError",
    "MissingLibraryError",
    "ModelError",
    "ModelNotFoundError",
    "NonFiniteLogitError",
    "OutOfMemoryError",
    "OverloadedError",
    "ServiceError",
    "TooLongError",
    "UnavailableError",
    "UnknownModelError",
    "UnsupportedModelError",
]


class CrossRankError(Exception):
    """Base of all errors below. They can be pickled, and keep their fields."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own method would call the class with ``args``, which is only the message.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[CrossRankError], args: tuple[Any, ...], fields: dict[str, Any]) -> CrossRankError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class InputError(CrossRankError, ValueError):
    """The caller's texts or options are wrong."""


class MissingLibraryError(ModuleNotFoundError, InputError):
    """A library that is needed is not installed, or cannot be imported; ``name`` is its name."""


class ModelError(CrossRankError):
    """The model cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no such model, or it could not be fetched."""


class CheckpointError(ModelError):
    """The model's files are missing, damaged or do not fit together."""


class UnsupportedModelError(ModelError):
    """The model is not a cross-encoder that an engine here can run."""


class EngineError(CrossRankError):
    """The model failed while it ran."""


class OutOfMemoryError(EngineError):
    """The model, or a single pair, does not fit into the device's memory."""


class NonFiniteLogitError(EngineError):
    """A pair's logit is NaN or infinite; ``pair`` is its index in the call."""

    retry_after = None  # a server that says "try again" would be wrong

    def __init__(self, pair: int, logit: float) -> None:
        super().__init__(
            f"pair {pair} has the logit {logit}, which cannot be ranked; "
            "the weights are damaged, or overflow in a precision below fp32 (there, try precision='fp32')"
        )
        self.pair = pair
        self.logit = logit


class ServiceError(CrossRankError):
    """A server did not score a request."""


class OverloadedError(ServiceError):
    """The server's queue is full; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ServiceError):
    """The request's deadline has passed; the rest of the request is not scored."""


class UnknownModelError(ServiceError):
    """The server serves no model of that name."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        super().__init__(f"no model {model!r} is served here; there is: {', '.join(known)}")
        self.model = model
        self.known = list(known)


class TooLongError(ServiceError):
    """A pair has ``tokens`` tokens, more than the ``limit``, and the request forbids truncation.

    ``exact`` is False if only a part of a very long text was counted, so that the pair has more tokens.
    """

    def __init__(self, pair: int, tokens: int, limit: int, *, exact: bool = True) -> None:
        count = str(tokens) if exact else f"more than {tokens}"
        super().__init__(
            f"pair {pair} has {count} tokens, and at most {limit} fit; shorten it, or allow truncation"
        )
        self.pair = pair
        self.tokens = tokens
        self.limit = limit
        self.exact = exact


class UnavailableError(ServiceError):
    """The server is starting, stopping, or restarting the engine; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
