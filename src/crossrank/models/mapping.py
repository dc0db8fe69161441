"""Memory maps of weight files. A file that shrinks under its map is an error, not the end of the process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank.errors import CheckpointError

try:
    from crossrank._native import MapGuard
except ImportError:

    class MapGuard:  # type: ignore[no-redef]
        """Guards nothing: the native engine is not built."""

        damaged = False

        def __init__(self, address: int, size: int) -> None: ...


__all__ = ["check_maps", "map_file", "place_in_file"]


class _MappedFile(np.memmap):
    """The bytes of a whole file."""

    guard: MapGuard | None = None
    """What the file must not shrink below; None: this is an array within the file."""


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """A file's bytes, which are read when they are used.

    Bytes that are missing then are zeros; whoever has used arrays of them calls ``check_maps``.
    """
    found = _MappedFile(path, np.uint8, "r")
    found.guard = MapGuard(found.ctypes.data, found.nbytes)
    return found.view(np.ndarray)


def check_maps(arrays: Iterable[npt.NDArray[Any]]) -> None:
    """Raise CheckpointError where bytes of ``map_file`` were missing that these arrays may hold."""
    for whole in map(_map_of, arrays):
        if whole is not None and whole.guard is not None and whole.guard.damaged:
            raise CheckpointError(
                f"{whole.filename} changed while it was read, or its disk fails; try again when it is "
                "complete, and replace weights by renaming (mv), not by copying over them (cp)"
            )


def place_in_file(array: npt.NDArray[Any]) -> tuple[Path, int] | None:
    """The file that an array of ``map_file`` is in, and the offset of its first byte there.

    None if the array is in memory.
    """
    whole = _map_of(array)
    if whole is None or whole.filename is None:
        return None
    return Path(whole.filename), array.ctypes.data - whole.ctypes.data


def _map_of(array: npt.NDArray[Any]) -> _MappedFile | None:
    whole: object = array
    while isinstance(whole, np.ndarray):
        if isinstance(whole, _MappedFile):
            return whole
        whole = whole.base
    return None
