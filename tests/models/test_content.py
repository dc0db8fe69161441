"""What weight files hold: read once, told from times that lie, and watched while rows are read from them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from crossrank.errors import CheckpointError
from crossrank.models import content
from crossrank.models.content import WatchedFile, cache_folder, known_folders, read_content


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now are trusted."""
    monkeypatch.setattr(content, "SETTLED_NS", -(10**18))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(range(256)) * 4)
    return folder / "w.bin"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each file that is hashed."""
    sizes: list[int] = []
    digest = content._digest

    def counted(file: int, size: int) -> str:
        sizes.append(size)
        return digest(file, size)

    monkeypatch.setattr(content, "_digest", counted)
    return sizes


def overwrite(file: Path, data: bytes, *, mtime: bool = False) -> None:
    """Write into the same file, as cp does; with its time of modification as it was."""
    status = file.stat()
    with file.open("r+b") as out:
        out.write(data)
        out.truncate()
    modified = status.st_mtime_ns if mtime else file.stat().st_mtime_ns
    # The clock of files has ticks: a change within one would not show.
    while True:
        os.utime(file, ns=(status.st_atime_ns, modified))
        if file.stat().st_ctime_ns != status.st_ctime_ns:
            break


def test_a_known_file_is_not_read_again(file: Path, settled: None, reads: list[int]) -> None:
    first = read_content(file.parent, [file])
    assert read_content(file.parent, [file]) == first
    assert reads == [1024]
    assert known_folders() == [file.parent]


def test_a_file_that_has_just_changed_is_read_again(file: Path, reads: list[int]) -> None:
    assert read_content(file.parent, [file]) == read_content(file.parent, [file])
    assert len(reads) == 2


def test_other_bytes_show_though_size_and_time_are_the_same(file: Path, settled: None) -> None:
    first = read_content(file.parent, [file])
    overwrite(file, bytes(1024), mtime=True)
    assert read_content(file.parent, [file]).digest != first.digest
    with pytest.raises(CheckpointError, match=r"w\.bin changed while it was read.*by renaming"):
        first.check()


def test_the_digest_is_of_bytes_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "elsewhere.bin"
    shutil.copy(file, other)
    digest = read_content(file.parent, [file]).digest
    assert read_content(tmp_path, [other]).digest == digest
    other.write_bytes(file.read_bytes()[:-1] + b"x")
    assert read_content(tmp_path, [other]).digest != digest


def test_all_chunks_count(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "CHUNK", 100)
    digests = {read_content(file.parent, [file]).digest}
    for place in (0, 99, 100, 1000, 1023):
        changed = bytearray(bytes(range(256)) * 4)
        changed[place] ^= 1
        overwrite(file, bytes(changed))
        digests.add(read_content(file.parent, [file]).digest)
    assert len(digests) == 6


def test_a_file_that_changes_while_it_is_read_is_an_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(*_: Any) -> str:
        overwrite(file, b"short")
        return ""

    monkeypatch.setattr(content, "_digest", changing)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read_content(file.parent, [file])


def test_damaged_records_are_ignored(file: Path, settled: None, reads: list[int]) -> None:
    first = read_content(file.parent, [file])
    [record] = (cache_folder() / "checkpoints").iterdir()
    whole = record.read_bytes()
    odd = [
        b"",
        b"\xff\xfe",
        b"[" * 5000,
        b"{}",
        b'{"folder": 3, "files": {}}',
        whole[:40],
        whole.replace(b"[", b"{"),
    ]
    for text in (*odd, whole.replace(b'"folder": "', b'"folder": "\\u0000'), whole + b" " * (1 << 17)):
        record.write_bytes(text)
        assert read_content(file.parent, [file]) == first
    record.unlink()
    os.mkfifo(record)
    assert read_content(file.parent, [file]) == first
    assert len(reads) == 11


def test_folders_that_are_gone_are_forgotten(file: Path, settled: None) -> None:
    read_content(file.parent, [file])
    shutil.rmtree(file.parent)
    assert known_folders() == []
    assert list((cache_folder() / "checkpoints").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(
    file: Path, tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_content(file.parent, [file])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "file" / "cache"))
    assert read_content(file.parent, [file]) == first


def test_a_watched_file_may_be_replaced_but_not_overwritten(
    file: Path, tmp_path: Path, reads: list[int]
) -> None:
    found = read_content(file.parent, [file])
    reads.clear()
    watched = WatchedFile(found, file)
    watched.check()
    assert reads == []
    (tmp_path / "new").write_bytes(b"other weights")
    (tmp_path / "new").replace(file)  # the old file lives on while it is open
    watched.check()
    watched.check()
    assert reads == [1024]
    with pytest.raises(CheckpointError, match="changed"):
        WatchedFile(found, file)

    watched = WatchedFile(read_content(file.parent, [file]), file)
    overwrite(file, b"OTHER WEIGHTS", mtime=True)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"w\.bin changed while it was read"):
            watched.check()


def test_a_link_is_what_it_points_to(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "w.bin"
    link.symlink_to(file)
    found = read_content(tmp_path, [link])
    WatchedFile(found, file).check()
    found.check()
