"""What an engine is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from crossrank.packing import Pack

__all__ = ["MOST_THREADS", "Device", "Engine", "Precision"]

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]
Device = str

MOST_THREADS = 4096
"""Upper bound on the threads of an engine."""


@runtime_checkable
class Engine(Protocol):
    """Runs a model on packs.

    An engine of your own is a subclass with a ``name`` and ``logits``; the rest has defaults.

    Attributes:
        name: "native", "torch", or that of your own.
        device: where it runs: "cpu", "cuda:0", "mps".
        precision: of the encoder's arithmetic: "fp32", "fp16", "bf16", "int8".
        batch_tokens: tokens of a pack that suit it, where the user gives no number.
        fill_tokens: tokens of the smallest pack that keeps all of it busy; a server packs no less
            where there is more to do, and not much more where others may come.
        lanes: pairs that it works on side by side. Of a pack whose pairs are no multiple of it,
            some lane has less to do than the others.
        calls: of ``logits`` at a time that keep it busy from one pack to the next, 1 or more; a server
            makes so many.
        shares_prefixes: it computes a pack's prefixes once each; else it computes them again for each pair.
    """

    name: str
    device: str = "cpu"
    precision: str = "fp32"
    batch_tokens: int = 8192
    fill_tokens: int = 1
    lanes: int = 1
    calls: int = 1
    shares_prefixes: bool = False

    @abstractmethod
    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        """One logit for each pair: float32 (B,) for a pack of B pairs, in the pack's order.

        Safe to call from several threads. Two packs that hold the same pair give it the same
        logit, to 1e-4 in fp32.

        Raises:
            InputError: the model has no such token, segment or position; the engine is as it was.
            OutOfMemoryError: one pair alone does not fit.
            EngineError: the device failed.
        """
        ...
