"""What PyTorch raises."""

from __future__ import annotations

import torch

__all__ = ["first_line", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out. CUDA and MPS raise a type of their own, the CPU a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def first_line(error: BaseException) -> str:
    """Its message, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
