"""Memory for a model's weights, known before they are loaded."""

from __future__ import annotations

import math
from pathlib import Path

from crossrank.errors import OutOfMemoryError
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.families import UndescribedError

__all__ = ["check_memory", "free_memory", "memory_of_weights"]

_BYTES = {"int8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
_MEMINFO, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def check_memory(checkpoint: Checkpoint, engine: str, precision: str) -> None:
    """Raise OutOfMemoryError if a model's weights alone are larger than the memory that is free."""
    needed, free = memory_of_weights(checkpoint, engine, precision), free_memory()
    if free is None or needed <= free:
        return
    hint = "use a smaller model, or a machine with more memory"
    if precision in ("bf16", "fp32") and engine == "native":
        hint = f"use precision='int8', {hint}"
    raise OutOfMemoryError(
        f"{checkpoint.name} needs {needed / 1e9:.1f} GB for its weights in {precision}, and "
        f"{free / 1e9:.1f} GB are free here; {hint}"
    )


def memory_of_weights(checkpoint: Checkpoint, engine: str, precision: str) -> int:
    """Bytes that a model's weights take in an engine, without what it computes with them.

    The native engine reads rows of a large embedding table from its file.
    """
    size = _BYTES[precision]
    try:
        shapes = dict(checkpoint.description.architecture.shapes())
    except UndescribedError:
        return checkpoint.parameters() * size
    if engine == "native":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("embedding.words")}
    return sum(map(math.prod, shapes.values())) * size


def free_memory() -> int | None:
    """Bytes that a process may still take, in its control group too; None where the system does not say."""
    try:
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
    try:
        limit, used = (int((_GROUP / file).read_text()) for file in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(kept["file"]))  # what files are cached in is given back
    except (OSError, ValueError, KeyError):
        return free
