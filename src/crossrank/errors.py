"""Every error that CrossRank raises on purpose.

::

    CrossRankError
    ├── InputError               the caller's texts or options are wrong (also a ValueError)
    ├── ModelError               the model cannot be used
    │   ├── ModelNotFoundError   no such model, or it could not be fetched
    │   ├── CheckpointError      its files are missing, damaged or do not fit together
    │   └── UnsupportedModelError  it is not a cross-encoder that an engine here can run
    └── EngineError              the model ran, and failed
        ├── OutOfMemoryError     one pair alone does not fit into memory
        └── NonFiniteLogitError  a pair's logit is NaN or infinite

A message says what was wrong, where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CrossRankError",
    "EngineError",
    "InputError",
    "ModelError",
    "ModelNotFoundError",
    "NonFiniteLogitError",
    "OutOfMemoryError",
    "UnsupportedModelError",
]


class CrossRankError(Exception):
    """Base of all errors below."""


class InputError(CrossRankError, ValueError):
    """The caller's texts or options are wrong."""


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
