"""Every error that CrossRank raises on purpose.

::

    CrossRankError
    ├── InputError               the caller's texts or options are wrong (also a ValueError)
    │   └── MissingLibraryError  what is asked for needs an extra (also a ModuleNotFoundError)
    ├── ModelError               the model cannot be used
    │   ├── ModelNotFoundError   no such model, or it could not be fetched
    │   ├── CheckpointError      its files are missing, damaged or do not fit together
    │   └── UnsupportedModelError  it is not a cross-encoder that an engine here can run
    ├── EngineError              the model ran, and failed
    │   ├── OutOfMemoryError     one pair alone does not fit into memory
    │   └── NonFiniteLogitError  a pair's logit is NaN or infinite
    └── ServiceError             a server did not score a request
        ├── OverloadedError      its queue is full: try again later
        ├── DeadlineError        the request's time is over
        ├── UnknownModelError    it serves no model of that name
        ├── TooLongError         a pair is too long, and the request forbids cutting
        └── UnavailableError     it starts, stops, or restarts the engine

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
        # Exception's own way calls the class with ``args``, which is the message alone.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[CrossRankError], args: tuple[Any, ...], fields: dict[str, Any]) -> CrossRankError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class InputError(CrossRankError, ValueError):
    """The caller's texts or options are wrong."""


class MissingLibraryError(ModuleNotFoundError, InputError):
    """What is asked for needs a library that is not installed; ``name`` is its name."""


class ModelError(CrossRankError):
    """The model cannot be used."""


class ModelNotFoundError(ModelError):
    """No such model, or it could not be fetched."""


class CheckpointError(ModelError):
    """The model's files are missing, damaged or do not fit together."""


class UnsupportedModelError(ModelError):
    """The model is not a cross-encoder that an engine here can run."""


class EngineError(CrossRankError):
    """The model ran, and failed."""


class OutOfMemoryError(EngineError):
    """One pair alone does not fit into the device's memory."""


class NonFiniteLogitError(EngineError):
    """A pair's logit is NaN or infinite; ``pair`` is its index in the call."""

    def __init__(self, pair: int, logit: float) -> None:
        super().__init__(
            f"pair {pair} has the logit {logit}, which is not a number to rank by; "
            "the weights are damaged, or overflow in this precision: try precision='fp32'"
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
    """The request's time is over; what was left of it is not scored."""


class UnknownModelError(ServiceError):
    """The server serves no model of that name."""

    def __init__(self, model: str, known: Sequence[str]) -> None:
        super().__init__(f"no model {model!r} is served here; there is: {', '.join(known)}")
        self.model = model
        self.known = list(known)


class TooLongError(ServiceError):
    """A pair has ``tokens`` tokens, more than the ``limit``, and the request forbids cutting.

    ``exact``: False where only a part of a very long text was counted: there are more tokens than that.
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
    """The server starts, stops, or restarts the engine; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
