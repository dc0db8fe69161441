"""The cache of prepared weights: what the native engine made of a checkpoint, kept for the next start.

There is one safetensors file for each content and precision, named ``FINGERPRINT-PRECISION-vLAYOUT``; equal
models in several folders share it. It is read whole and checked, so that later changes to it do not affect a
running engine. Its metadata name the checkpoint that it was made from, and the tensors that stay there
(embedding tables).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from crossrank._system import hold, read_into
from crossrank.errors import CheckpointError, ModelError
from crossrank.models.checkpoint import Checkpoint, open_safetensors, view_tensors
from crossrank.models.content import cache_folder, each_chunk, known_folders, workers

try:
    from crossrank._native import LAYOUT
except ImportError:  # the engine is not built, and can use none of the files
    LAYOUT = 0

__all__ = ["LAYOUT", "PreparedFile", "PreparedWeights", "prepared_files"]

State: TypeAlias = Literal["current", "outdated", "orphaned", "unfinished"]

_SUFFIX = ".safetensors"
_FOLDER, _MODEL, _CHECKSUM = "crossrank.folder", "crossrank.model", "crossrank.checksum"
_DTYPES = {"f4": "F32", "f2": "F16", "u2": "U16", "u1": "U8"}
_ALIGNMENT = 64
_CHUNK = 1 << 24
_STALE_SECONDS = 60
"""A writer locks its file at once: one that is older and not locked has no writer."""

_logger = logging.getLogger(__name__)


class PreparedWeights:
    """The place in the cache for one checkpoint in one precision.

    Attributes:
        path: the file, which may not be there.
    """

    def __init__(self, checkpoint: Checkpoint, precision: str) -> None:
        self._checkpoint = checkpoint
        self._key = f"{checkpoint.fingerprint()}-{precision}-v{LAYOUT}"
        self.path = cache_folder() / f"{self._key}{_SUFFIX}"

    def read(self) -> dict[str, npt.NDArray[Any]] | None:
        """Prepared tensors in memory, and mapped tables of the checkpoint; None if not there, or damaged."""
        if not self.path.is_file():
            return None
        try:
            prepared, metadata = view_tensors(_read_whole(self.path))
            checksum = metadata.pop(_CHECKSUM, None)
            if checksum != _checksum(self._key, prepared, metadata):
                raise ValueError("its checksum is wrong")  # noqa: TRY301
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            RecursionError,
        ) as error:
            self.warn_of_damage(error)
            return None
        tables = {name: origin for name, origin in metadata.items() if name not in (_FOLDER, _MODEL)}
        source = self._checkpoint.description.tensors(only=set(tables.values()))
        if not set(tables.values()) <= source.keys():
            self.warn_of_damage(KeyError("it names tables that the checkpoint does not have"))
            return None
        return prepared | {name: source[origin] for name, origin in tables.items()}

    def warn_of_damage(self, error: Exception) -> None:
        """Log that the file is of no use, and why."""
        _logger.warning("%s is damaged and is made anew: %s", self.path, error)

    def write(
        self,
        prepared: Mapping[str, npt.NDArray[Any]],
        tables: Mapping[str, str],
        advance: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Keep prepared tensors: all or nothing, even if several processes do it at once.

        Files that are no longer of use are removed: those of this checkpoint with another layout or of
        its earlier weights, and what crashed writers have left. If nothing can be written, a warning
        says so.

        Args:
            prepared: the tensors.
            tables: for tensors that stay in the checkpoint, their name there.
            advance: called with the number of bytes written since the last call.
        """
        metadata = {
            **tables,
            _FOLDER: _text(self._checkpoint.folder.absolute()),
            _MODEL: self._checkpoint.name,
        }
        metadata[_CHECKSUM] = _checksum(self._key, prepared, metadata)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not by tempfile, whose files nobody else may read: a cache may be shared.
            partial = self.path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.partial")
            try:
                with partial.open("xb") as file:
                    hold(file)
                    _write_tensors(file, prepared, metadata, advance)
                partial.replace(self.path)  # closed: Windows renames no open file
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            _logger.warning(
                "the prepared weights cannot be kept in %s (%s): the next start prepares them again",
                self.path,
                error,
            )
        with contextlib.suppress(OSError):
            self._remove_older()

    def _remove_older(self) -> None:
        folder = _text(self._checkpoint.folder.absolute())
        key = self._key.partition("-")[0]
        for path in _files():
            # Of other models' files nothing but the header is looked at.
            own = (
                path.suffix == ".partial"
                or path.stem.startswith(key)
                or _metadata(path).get(_FOLDER) == folder
            )
            if own and not _is_current(path, {key}):
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class PreparedFile:
    """A file of the cache.

    Attributes:
        path: the file; it is not needed any more once an engine runs.
        size: in bytes.
        source: the checkpoint's folder that it was made from; None where it does not say.
        model: what the model was called; the file's name where it does not say.
        state: "current"; "outdated": the checkpoint or the layout has changed; "orphaned": the
            checkpoint is gone; "unfinished": a writer crashed.
    """

    path: Path
    size: int
    source: Path | None
    model: str
    state: State

    @property
    def precision(self) -> str:
        """As its name says; "" where it is another file's."""
        parts = self.path.stem.rsplit("-", 2)
        return parts[1] if len(parts) == 3 else ""


def prepared_files() -> list[PreparedFile]:
    """What is in the cache, by model and name; files that are being written are left out."""
    found: list[PreparedFile] = []
    keys: set[str] | None = None
    for path in _files():
        with contextlib.suppress(FileNotFoundError):  # another process cleans too
            size = path.stat().st_size
            if path.suffix == ".partial":
                found.append(PreparedFile(path, size, None, path.stem, "unfinished"))
                continue
            metadata = _metadata(path)
            source = Path(metadata[_FOLDER]) if metadata.get(_FOLDER) else None
            model = metadata.get(_MODEL) or path.stem
            keys = _current_keys() if keys is None else keys
            own = _fingerprint(source) if source is not None else None
            state: State = "outdated"
            if _is_current(path, keys if own is None else keys | {own}):
                state = "current"
            elif source is not None and own is None:
                state = "orphaned"
            found.append(PreparedFile(path, size, source, model, state))
    return sorted(found, key=lambda file: (file.model, file.path.name))


def _files() -> list[Path]:
    """The files of the cache but those that are being written; what is no file is none of it."""
    try:
        paths = [path for path in sorted(cache_folder().iterdir()) if path.is_file()]
    except OSError:
        return []
    return [path for path in paths if path.suffix == _SUFFIX or _is_abandoned(path)]


def _metadata(path: Path) -> dict[str, str]:
    """A file's metadata; empty where it has none, or is damaged."""
    try:
        with open_safetensors(path) as file:
            return dict(file.metadata() or {})
    except CheckpointError:
        return {}


def _is_current(path: Path, keys: set[str]) -> bool:
    """Whether a file is of today's layout, and of a fingerprint among ``keys``."""
    return path.stem.partition("-")[0] in keys and path.stem.endswith(f"-v{LAYOUT}")


def _current_keys() -> set[str]:
    """Fingerprints of all checkpoints that the cache knows."""
    return {key for key in map(_fingerprint, known_folders()) if key is not None}


def _fingerprint(folder: Path) -> str | None:
    """A folder's fingerprint; None: it holds no checkpoint, or not any more."""
    try:
        return Checkpoint(folder).fingerprint()
    except (ModelError, OSError, ValueError):
        return None


def _text(path: Path) -> str:
    """A path that UTF-8 can hold."""
    return os.fsencode(path).decode("utf-8", "replace")


def _read_whole(path: Path) -> npt.NDArray[np.uint8]:
    """A file's bytes in memory, aligned to 64."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        whole = np.empty(size + _ALIGNMENT, np.uint8)
        whole = whole[-whole.ctypes.data % _ALIGNMENT :][:size]

        def read(chunk: tuple[int, int]) -> None:
            start, length = chunk
            view = memoryview(whole)[start : start + length]  # type: ignore[arg-type]
            if read_into(file.fileno(), view, start) != length:
                raise ValueError("it was cut short")

        with workers() as pool:
            list(pool.map(read, each_chunk(size)))
    return whole


def _checksum(key: str, tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """Of all that a file holds, and of the key that it is kept under.

    CRC-32 of the tensors finds what disks and accidents change, at twice the speed of a cryptographic hash.
    """

    def of_part(part: npt.NDArray[np.uint8]) -> int:
        return zlib.crc32(part.data)

    order = sorted(tensors)
    with workers() as pool:
        sums = [[pool.submit(of_part, part) for part in _parts(tensors[name])] for name in order]
        rows = [
            [
                name,
                _DTYPES[tensors[name].dtype.str[1:]],
                list(tensors[name].shape),
                [crc.result() for crc in row],
            ]
            for name, row in zip(order, sums, strict=True)
        ]
    return hashlib.sha256(json.dumps([key, sorted(metadata.items()), rows]).encode()).hexdigest()


def _parts(array: npt.NDArray[Any]) -> list[npt.NDArray[np.uint8]]:
    """A tensor's bytes in pieces of at most some MB."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]


def _is_abandoned(path: Path) -> bool:
    """Whether a file is what a writer left that crashed."""
    try:
        if path.suffix != ".partial" or time.time() - path.stat().st_mtime < _STALE_SECONDS:
            return False
        with path.open("rb") as file:
            return hold(file)
    except OSError:
        return False


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
        for part in _parts(tensors[name]):
            advance(file.write(part.data))
    file.flush()
    os.fsync(file.fileno())
