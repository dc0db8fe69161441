"""What a checkpoint's weight files hold, told by their bytes and not by their names or times.

Hashing 2.3 GB takes a second or two, so the cache keeps the digests of each folder's files, with what the
system says of the files: inode, size, and the times of modification and of change. Nobody can set the last
one, so a file that was replaced or overwritten shows, however it was copied.
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
SETTLED_NS = 2_000_000_000
"""Nanoseconds without a change after which a file's times can be trusted: the clock that stamps files
has coarse ticks, and a second change within one would not show."""

_MAX_RECORD = 1 << 16


def cache_folder() -> Path:
    """CROSSRANK_CACHE, or crossrank in the user's cache folder."""
    place = os.environ.get("CROSSRANK_CACHE")
    if place:
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crossrank"


@dataclass(frozen=True, slots=True)
class FileState:
    """What the system says of a file. While it stays the same, so do the bytes."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: int | Path) -> FileState:
        """Of an open file, or of a path."""
        status = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a checkpoint's weight files at one time.

    Attributes:
        digests: SHA-256 of each file, in hexadecimal digits.
        states: of each file, when it was read.
    """

    digests: Mapping[Path, str]
    states: Mapping[Path, FileState]

    @property
    def digest(self) -> str:
        """Of all files together, whatever they are called."""
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
    """The content of a checkpoint's weight files: from the cache where it knows them, else by reading them.

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
    """The folders of checkpoints that the cache has digests of. Those that are gone are forgotten."""
    found: list[Path] = []
    for path in sorted(_record_folder().glob("*.json")):
        record = _read_record(path)
        if record is not None and record[0].is_dir():
            found.append(record[0])
        else:
            path.unlink(missing_ok=True)
    return found


def each_chunk(size: int) -> Iterable[tuple[int, int]]:
    """Start and length of each chunk of so many bytes."""
    return ((start, min(CHUNK, size - start)) for start in range(0, size, CHUNK))


def workers() -> ThreadPoolExecutor:
    """Threads for chunks: reading and hashing let other threads run."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "crossrank-read")


def _digest(file: int, size: int) -> str:
    """SHA-256 of the hashes of a file's chunks, which are made side by side."""

    def of_chunk(chunk: tuple[int, int]) -> bytes:
        return hashlib.sha256(os.pread(file, chunk[1], chunk[0])).digest()

    with workers() as pool:
        return hashlib.sha256(b"".join(pool.map(of_chunk, each_chunk(size)))).hexdigest()


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} changed while it was read; try again once it is whole, and replace weights by renaming "
        "(mv), not by copying over them (cp)"
    )


def _record_folder() -> Path:
    return cache_folder() / "checkpoints"


def _record_path(folder: Path) -> Path:
    return _record_folder() / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"


def _read_record(path: Path) -> tuple[Path, Content] | None:
    """A folder and its content; None where there is no record, or a damaged one."""
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
    """Keep a content for the next start; where it cannot be written, that one reads the files again."""
    files = {
        file.name: [content.digests[file], state.inode, state.size, state.modified_ns, state.changed_ns]
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
    """A file of weights that an engine reads rows from while it works: it must stay what it was.

    Args:
        content: of the checkpoint.
        path: one of its files.

    Attributes:
        descriptor: to read the file by.

    Raises:
        CheckpointError: the file has been changed or replaced.
    """

    def __init__(self, content: Content, path: Path) -> None:
        # A path of the hub's cache is a link, and this one may be what it points to.
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
        """Raise CheckpointError if the file is not what it was. Call it after each use of what was read.

        The file's state also changes where it is only renamed or deleted; then it is read to be sure.
        """
        state = FileState.of(self.descriptor)
        if state == self._state:
            return
        with self._lock:
            if state != self._state:
                if _digest(self.descriptor, state.size) != self._digest:
                    raise _changed(self._path)
                self._state = state
