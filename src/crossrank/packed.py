"""The cache of packed weights: what an engine made of a checkpoint, kept for the next start.

One safetensors file for each checkpoint and precision, named ``MODEL-FINGERPRINT-PRECISION-vLAYOUT``.
Its tensors are mapped, not read. Its metadata name the checkpoint that it was made from, and the
tensors that stay there and are read from there (embedding tables).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from crossrank.checkpoint import Checkpoint, map_tensors, open_safetensors
from crossrank.errors import CheckpointError, ModelError

__all__ = ["LAYOUT", "PackedFile", "PackedWeights", "packed_cache", "packed_files"]

LAYOUT = 3
"""Of packed weights; a change makes old files be ignored, and removed when a new one is written."""

State: TypeAlias = Literal["current", "outdated", "orphaned", "unfinished"]

_SOURCE = "crossrank.source"
_DTYPES = {"f4": "F32", "f2": "F16", "u2": "U16", "u1": "U8"}
_ALIGNMENT = 64
_CHUNK = 1 << 24
_STALE_SECONDS = 60
"""A writer locks its file at once: one that is older and not locked has no writer."""

_logger = logging.getLogger(__name__)


def packed_cache() -> Path:
    """The folder of packed weights: CROSSRANK_CACHE, or crossrank in the user's cache folder."""
    place = os.environ.get("CROSSRANK_CACHE")
    if place:
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crossrank"


class PackedWeights:
    """The place in the cache for one checkpoint in one precision.

    Attributes:
        path: the file, which may not be there.
    """

    def __init__(self, checkpoint: Checkpoint, precision: str) -> None:
        self._checkpoint = checkpoint
        self._fingerprint = checkpoint.fingerprint()
        name = f"{checkpoint.name[:40]}-{self._fingerprint}-{precision}-v{LAYOUT}.safetensors"
        self.path = packed_cache() / name

    def read(self) -> dict[str, npt.NDArray[Any]] | None:
        """Packed tensors, mapped, and the tables that stay in the checkpoint; None: not there."""
        try:
            if not self.path.is_file():
                return None
            packed, metadata = map_tensors(self.path)
            metadata.pop(_SOURCE, None)
            source = self._checkpoint.mapped(only=set(metadata.values()))
            return packed | {name: source[origin] for name, origin in metadata.items()}
        except (CheckpointError, OSError, KeyError) as error:
            self.warn_of_damage(error)
            return None

    def warn_of_damage(self, error: Exception) -> None:
        """Log that the file is of no use."""
        _logger.warning("%s is damaged and is made anew: %s", self.path, error)

    def write(
        self,
        packed: Mapping[str, npt.NDArray[Any]],
        tables: Mapping[str, str],
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Keep packed tensors: whole or not at all, also where several processes do it at once.

        What no longer serves is removed: files of this checkpoint in other layouts or of its
        earlier weights, and what crashed writers have left. Where nothing can be written, a
        warning says so.

        Args:
            packed: the tensors.
            tables: of those that stay in the checkpoint, the name there.
            advance: is told how many bytes more have been written.
        """
        origin = {"folder": str(self._checkpoint.folder.absolute()), "fingerprint": self._fingerprint}
        metadata = {**tables, _SOURCE: json.dumps(origin)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not by tempfile, whose files nobody else may read: a cache may be shared.
            partial = self.path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.partial")
            try:
                with partial.open("xb") as file:
                    _lock(file)
                    _write_tensors(file, packed, metadata, advance)
                    partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning(
                "the packed weights cannot be kept in %s (%s): the next start packs again", self.path, error
            )
        with contextlib.suppress(OSError):
            self._remove_older()

    def _remove_older(self) -> None:
        folder = self._checkpoint.folder.absolute()
        for file in packed_files():
            if file.state == "unfinished" or (file.source == folder and file.state == "outdated"):
                file.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of the cache.

    Attributes:
        path: the file; one that is removed while an engine has it mapped serves that engine on.
        size: in bytes.
        source: the checkpoint's folder that it was made from; None where it does not say.
        state: "current"; "outdated": the checkpoint or the layout has changed; "orphaned": the
            checkpoint is gone; "unfinished": a writer crashed.
    """

    path: Path
    size: int
    source: Path | None
    state: State

    @property
    def precision(self) -> str:
        """As its name says; "" where it is another file's."""
        parts = self.path.stem.rsplit("-", 3)
        return parts[2] if len(parts) == 4 else ""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.path.stem.rsplit("-", 3)[0]


def packed_files() -> list[PackedFile]:
    """What is in the cache, by name; files that are being written are left out."""
    found: list[PackedFile] = []
    for path in sorted(packed_cache().glob("*")):
        with contextlib.suppress(FileNotFoundError):  # another process cleans too
            if path.suffix == ".partial":
                if _is_abandoned(path):
                    found.append(PackedFile(path, path.stat().st_size, None, "unfinished"))
            elif path.suffix == ".safetensors":
                found.append(_examine(path))
    return found


def _examine(path: Path) -> PackedFile:
    size, source = path.stat().st_size, None
    state: State = "outdated"
    try:
        with open_safetensors(path) as file:
            origin = json.loads((file.metadata() or {})[_SOURCE])
        source = Path(origin["folder"])
        if not source.is_dir():
            state = "orphaned"
        elif path.stem.endswith(f"-v{LAYOUT}") and Checkpoint(source).fingerprint() == origin["fingerprint"]:
            state = "current"
    except ModelError:
        # Either this file is damaged, or what is in the folder now is no checkpoint any more.
        state = "outdated" if source is None else "orphaned"
    except (KeyError, TypeError, ValueError):
        pass  # written before files named their source
    except OSError:
        state = "current"  # its checkpoint cannot be looked at: nothing speaks against the file
    return PackedFile(path, size, source, state)


def _lock(file: IO[bytes]) -> bool:
    """Hold a file for as long as it is open; False: another process holds it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: files are told by their age alone
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_abandoned(path: Path) -> bool:
    if time.time() - path.stat().st_mtime < _STALE_SECONDS:
        return False
    with path.open("rb") as file:
        return _lock(file)


def _write_tensors(
    file: IO[bytes],
    tensors: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
    advance: Callable[[int], object],
) -> None:
    """Write a safetensors file whose tensors begin at multiples of 64 bytes, as the vector loads like.

    The safetensors library aligns to 8 bytes, and holds the whole file in memory while it writes.
    The format allows no gaps: tensors whose size is no multiple of 64 come last, and of those all
    but the first stand where they may.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % _ALIGNMENT != 0, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        array = tensors[name]
        start, end = end, end + array.nbytes
        entry = {"dtype": _DTYPES[array.dtype.str[1:]], "shape": array.shape, "data_offsets": (start, end)}
        header[name] = entry
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        data = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _CHUNK):
            advance(file.write(data[start : start + _CHUNK]))
    file.flush()
    os.fsync(file.fileno())
