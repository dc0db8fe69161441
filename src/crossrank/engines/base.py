"""What an engine is, and which engine serves which model on which device."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from crossrank.checkpoint import Checkpoint
from crossrank.errors import EngineError, InputError
from crossrank.packing import Pack

__all__ = ["Choice", "Device", "Engine", "Precision", "choose_engine", "load_engine"]

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Device = str


@runtime_checkable
class Engine(Protocol):
    """Runs a model on packs.

    Attributes:
        name: "torch", say.
        device: where it runs: "cpu", "cuda:0", "mps".
        precision: of the encoder's arithmetic: "fp32", "fp16", "bf16".
        batch_tokens: tokens of a pack that suit it, where the user gives no number.
    """

    name: str
    device: str
    precision: str
    batch_tokens: int

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        """One logit for each pair: float32 (B,) for a pack of B pairs, in the pack's order.

        Safe to call from several threads. Two packs that hold the same pair give it the same
        logit, to 1e-4 in fp32.

        Raises:
            OutOfMemoryError: one pair alone does not fit.
            EngineError: the device failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine would run, on what, in which precision, and why, in a few words."""

    engine: str
    device: str
    precision: str
    reason: str


def choose_engine(device: Device = "auto", precision: Precision = "auto") -> Choice:
    """Decide without loading a model.

    Raises:
        InputError: no such device or precision, or the device is not there.
        EngineError: no engine is installed.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}; it must be one of {', '.join(get_args(Precision))}")
    # Where TensorFlow is installed, transformers 4 imports it unless told not to.
    os.environ.setdefault("USE_TF", "0")
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise InputError(f"device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps")
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise EngineError(
            "no engine is installed: PyTorch and transformers are missing; "
            "install them with: pip install torch transformers"
        )
    try:
        import torch
        import transformers  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"PyTorch and transformers are installed but cannot be imported ({error}); "
            "install them anew: pip install --force-reinstall torch transformers"
        ) from error

    reason = "asked for"
    if kind == "auto":
        if torch.cuda.is_available():
            device, reason = "cuda:0", "a CUDA GPU is there"
        elif torch.backends.mps.is_available():
            device, reason = "mps", "an Apple GPU is there"
        else:
            device, reason = "cpu", "no GPU that PyTorch can use"
    elif kind == "cuda":
        device = device if number else "cuda:0"
        if not torch.cuda.is_available():
            built = "this PyTorch is built without CUDA" if torch.version.cuda is None else "no GPU answers"
            raise InputError(f"device is {device!r}, but {built}; see: crossrank doctor")
        if int(number or 0) >= torch.cuda.device_count():
            raise InputError(f"device is {device!r}, but there are {torch.cuda.device_count()} GPUs")
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device is 'mps', but PyTorch finds no Apple GPU here")

    if precision == "auto":
        precision = "fp32" if device == "cpu" else "fp16"
    elif precision == "fp16" and device == "cpu":
        raise InputError("precision is 'fp16', which a CPU has no arithmetic for: use fp32 or bf16")
    return Choice("torch", device, precision, reason)


def load_engine(
    checkpoint: Checkpoint,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
) -> Engine:
    """Load a model into the engine that serves it.

    Args:
        checkpoint: the model.
        device: "auto" takes a GPU if there is one, and falls back to the CPU if the GPU's memory
            does not hold the model.
        precision: "auto" is fp16 on a GPU and fp32 on a CPU.
        threads: CPU threads of the process's PyTorch; None leaves them as they are.

    Raises:
        InputError, EngineError: as ``choose_engine``.
        ModelError: the checkpoint cannot be loaded.
    """
    choice = choose_engine(device, precision)
    from crossrank.engines.torch import TorchEngine

    return TorchEngine(
        checkpoint,
        device=choice.device,
        precision=choice.precision,
        threads=threads,
        fall_back_to_cpu=device == "auto" and choice.device != "cpu",
    )
