"""Identify a checkpoint's weight files by their bytes, not by their names or times.

Hashing 2.3 GB takes a second or two, so the cache stores the digests of each folder's files together with
what the system reports about the files: inode, size, mtime and ctime. No program can set ctime, so a file
that was replaced or overwritten is always noticed, however it was copied. (On Windows ctime is the time of
creation: there a file is noticed by its inode, size and mtime.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crossrank._system import read_into
from crossrank.errors import CheckpointError

__all__ = [
    "Content",
    "FileState",
    "WatchedFile",
    "cache_folder",
    "each_chunk",
    "known_folders",
    "read_content",
]

CHUNK = 1 << 24
"""Bytes that are read and hashed at a time."""

SETTLED_NS = 2_000_000_000
"""Nanoseconds without a change after which a file's times can be trusted. The clock that stamps files ticks
coarsely, and a second change within one tick would not show."""

_MAX_RECORD = 1 << 16
"""Bytes of the largest record that is read; a larger file is treated as damaged."""


def cache_folder() -> Path:
    """The folder that CROSSRANK_CACHE names, else ``crossrank`` in the user's cache folder."""
    place = os.environ.get("CROSSRANK_CACHE")
    if place:
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crossrank"


@dataclass(frozen=True, slots=True)
class FileState:
    """What the system reports about a file. As long as it stays the same, so do the file's bytes."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: int | Path) -> FileState:
        """The state of an open file (its descriptor) or of a path."""
        status = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a checkpoint's weight files at one time.

    Attributes:
        digests: SHA-256 of each file, in hexadecimal digits.
        states: the state of each file when it was read.
    """

    digests: Mapping[Path, str]
    states: Mapping[Path, FileState]

    @property
    def digest(self) -> str:
        """One SHA-256 over the digests of all files. The files' names do not matter."""
        return hashlib.sha256(" ".join(self.digests.values()).encode()).hexdigest()

    def check(self) -> None:
        """Raise CheckpointError if a file has been changed or replaced."""
        for path, state in self.states.items():
            try:
                same = FileState.of(path) == state
            except OSError:
                same = False
            if not same:
                raise _changed(path)


def read_content(folder: Path, files: Sequence[Path]) -> Content:
    """Return the digests and states of a checkpoint's weight files.

    They come from the cache if the files have not changed; otherwise the files are read.

    Raises:
        CheckpointError: a file cannot be read, or changes while it is read.
    """
    record = _record_path(folder)
    try:
        known = _read_record(record)
        if known is not None and known[1].states == {path: FileState.of(path) for path in files}:
            return known[1]
        begun = time.time_ns()
        digests: dict[Path, str] = {}
        states: dict[Path, FileState] = {}
        for path in files:
            with path.open("rb") as file:
                states[path] = FileState.of(file.fileno())
                digests[path] = _digest(file.fileno(), states[path].size)
                if FileState.of(file.fileno()) != states[path]:
                    raise _changed(path)
    except OSError as error:
        raise CheckpointError(f"the weights in {folder} cannot be read: {error}") from error
    content = Content(digests, states)
    if all(begun - state.changed_ns > SETTLED_NS for state in states.values()):
        _write_record(record, folder, content)
    return content


def known_folders() -> list[Path]:
    """Folders of checkpoints whose digests are cached. Records of folders that are gone are deleted."""
    found: list[Path] = []
    for path in sorted(_record_folder().glob("*.json")):
        record = _read_record(path)
        if record is not None and record[0].is_dir():
            found.append(record[0])
        else:
            path.unlink(missing_ok=True)
    return found


def each_chunk(size: int) -> Iterable[tuple[int, int]]:
    """Start and length of each chunk of a file with ``size`` bytes."""
    return ((start, min(CHUNK, size - start)) for start in range(0, size, CHUNK))


def workers() -> ThreadPoolExecutor:
    """A thread pool for chunks. Reading and hashing release the GIL."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "crossrank-read")


def _digest(file: int, size: int) -> str:
    """SHA-256 over the SHA-256 hashes of a file's chunks, which are computed in parallel."""

    def of_chunk(chunk: tuple[int, int]) -> bytes:
        start, length = chunk
        buffer = memoryview(bytearray(length))
        return hashlib.sha256(buffer[: read_into(file, buffer, start)]).digest()

    with workers() as pool:
        return hashlib.sha256(b"".join(pool.map(of_chunk, each_chunk(size)))).hexdigest()


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} changed while it was read; try again when it is complete, and replace weights by renaming "
        "(mv), not by copying over them (cp)"
    )


def _record_folder() -> Path:
    return cache_folder() / "checkpoints"


def _record_path(folder: Path) -> Path:
    return _record_folder() / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _read_record(path: Path) -> tuple[Path, Content] | None:
    """The folder and the content that a record holds; None if the record is missing or damaged."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_RECORD:
            return None
        found = json.loads(path.read_bytes())
        folder = Path(found["folder"])
        digests = {folder / name: str(entry[0]) for name, entry in found["files"].items()}
        states = {folder / name: FileState(*map(int, entry[1:])) for name, entry in found["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    return folder, Content(digests, states)


def _write_record(path: Path, folder: Path, content: Content) -> None:
    """Save a content for the next start. If that fails, the next start reads the weight files again."""
    files = {
        file.relative_to(folder).as_posix(): [
            content.digests[file],
            state.inode,
            state.size,
            state.modified_ns,
            state.changed_ns,
        ]
        for file, state in content.states.items()
    }
    text = json.dumps({"folder": str(folder), "files": files})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.partial")
        try:
            partial.write_text(text, encoding="ascii")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


class WatchedFile:
    """A weight file from which an engine reads rows while it runs, so that its bytes must not change.

    Args:
        content: the checkpoint's content.
        path: one of the checkpoint's files.

    Attributes:
        descriptor: the open file's descriptor.

    Raises:
        CheckpointError: the file has been changed or replaced.
    """

    def __init__(self, content: Content, path: Path) -> None:
        # In the hub's cache a file is a symbolic link, and ``path`` may be the link's target.
        known = next((known for known in content.states if known.resolve() == path.resolve()), None)
        if known is None:
            raise _changed(path)
        self._path = known
        self._digest = content.digests[known]
        self._lock = threading.Lock()
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self._state = FileState.of(self.descriptor)
        if self._state != content.states[known]:
            raise _changed(known)

    def check(self) -> None:
        """Raise CheckpointError if the file's bytes have changed. Call it after using rows of the file.

        Renaming or deleting a file changes its state too. The file is then hashed again to be sure.
        """
        state = FileState.of(self.descriptor)
        if state == self._state:
            return
        with self._lock:
            if state != self._state:
                if _digest(self.descriptor, state.size) != self._digest:
                    raise _changed(self._path)
                self._state = state
