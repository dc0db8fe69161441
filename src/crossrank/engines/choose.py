"""Which engine serves which model on which device."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

from crossrank.engines._memory import check_memory
from crossrank.engines.base import Device, Engine, Precision
from crossrank.errors import EngineError, InputError
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.families import UndescribedError

__all__ = ["Choice", "choose_engine", "gpu_is_possible", "import_torch", "load_engine"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine would run, on what, in which precision, and why, in a few words."""

    engine: str
    device: str
    precision: str
    reason: str


def choose_engine(
    device: Device = "auto", precision: Precision = "auto", checkpoint: Checkpoint | None = None
) -> Choice:
    """Decide without loading a model.

    Args:
        device: "auto" takes a GPU that PyTorch can use, else the CPU.
        precision: "auto" is fp16 on a GPU, or bf16 for a decoder; on the CPU int8, or fp32 if it has
            neither AVX2 nor Arm's dot products.
        checkpoint: the model; None: one that the native engine can run.

    Raises:
        InputError: no such device or precision, or the device is not there.
        EngineError: the engine that is needed is not installed.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision is {precision!r}; it must be one of {', '.join(get_args(Precision))}")
    kind, _, number = str(device).partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise InputError(f"device is {device!r}; it must be auto, cpu, cuda, cuda:N or mps")
    if kind in ("cuda", "mps") or (kind == "auto" and gpu_is_possible() and _is_installed()):
        found = _gpu(kind, number)
        if found is not None:
            if precision == "int8":
                raise InputError("precision is 'int8', which runs on the CPU only: use fp16, bf16 or fp32")
            chosen = _gpu_precision(checkpoint) if precision == "auto" else precision
            return Choice("torch", found[0], chosen, found[1])
    if precision == "fp16":
        raise InputError("precision is 'fp16', which a CPU has no arithmetic for: use fp32, bf16 or int8")
    reason = "asked for" if kind == "cpu" else "no GPU that PyTorch can use"

    from crossrank.engines import native

    obstacle = native.why_not(checkpoint) if checkpoint else ""
    if not obstacle:
        chosen = native.auto_precision() if precision == "auto" else precision
        return Choice("native", "cpu", chosen, reason)
    if precision == "int8":
        raise InputError(f"precision is 'int8', which the native engine alone has, and {obstacle}")
    import_torch()
    chosen = "fp32" if precision == "auto" else precision
    return Choice("torch", "cpu", chosen, f"{reason}, and {obstacle}")


def _gpu_precision(checkpoint: Checkpoint | None) -> str:
    """Decoders were trained in bf16, and some have values that are too large for fp16."""
    try:
        return "bf16" if checkpoint and checkpoint.description.architecture.causal else "fp16"
    except UndescribedError:
        return "fp16"


def gpu_is_possible() -> bool:
    """Whether a GPU's driver is here: a look that is much quicker than importing PyTorch."""
    drivers = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, WSL, AMD
    return sys.platform != "linux" or any(Path(driver).exists() for driver in drivers)


def _is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def import_torch() -> ModuleType:
    """PyTorch, with transformers beside it.

    Raises:
        EngineError: one is not installed, or cannot be imported.
    """
    if not _is_installed():
        raise EngineError(
            "the torch engine is not installed: PyTorch or transformers is missing; "
            "install them with: pip install torch transformers"
        )
    # Where TensorFlow is installed, transformers 4 imports it unless told not to.
    os.environ.setdefault("USE_TF", "0")
    try:
        import torch
        import transformers  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"PyTorch and transformers are installed but cannot be imported ({error}); "
            "install them anew: pip install --force-reinstall torch transformers"
        ) from error
    return torch


def _gpu(kind: str, number: str) -> tuple[str, str] | None:
    """The GPU that was asked for, or any, and why; None where there is none and any would do."""
    torch = import_torch()
    if kind == "auto":
        if torch.cuda.is_available():
            return "cuda:0", "a CUDA GPU is there"
        if torch.backends.mps.is_available():
            return "mps", "an Apple GPU is there"
        return None
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("device is 'mps', but PyTorch finds no Apple GPU here")
        return "mps", "asked for"
    device = f"cuda:{number or 0}"
    if not torch.cuda.is_available():
        built = "this PyTorch is built without CUDA" if torch.version.cuda is None else "no GPU answers"
        raise InputError(f"device is {device!r}, but {built}; see: crossrank doctor")
    if int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {device!r}, but there are {torch.cuda.device_count()} GPUs")
    return device, "asked for"


def load_engine(
    checkpoint: Checkpoint,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    threads: int | None = None,
    progress: bool = False,
) -> Engine:
    """Load a model into the engine that serves it.

    Args:
        checkpoint: the model.
        device, precision: as ``choose_engine``; with "auto" what does not fit into the GPU's
            memory runs on the CPU.
        threads: CPU threads; None: the cores that the process may use (native), or what PyTorch
            has (torch).
        progress: draw a progress bar on stderr while weights are prepared (native).

    Raises:
        InputError, EngineError: as ``choose_engine``.
        ModelError: the checkpoint cannot be loaded.
        OutOfMemoryError: its weights are larger than the memory that is free.
    """
    choice = choose_engine(device, precision, checkpoint)
    if choice.device == "cpu":
        check_memory(checkpoint, choice.engine, choice.precision)
    if choice.engine == "native":
        from crossrank.engines import native

        return native.NativeEngine(checkpoint, precision=choice.precision, threads=threads, progress=progress)
    from crossrank.engines.torch import TorchEngine

    return TorchEngine(
        checkpoint,
        device=choice.device,
        precision=choice.precision,
        threads=threads,
        fall_back_to_cpu=device == "auto" and choice.device != "cpu",
    )
