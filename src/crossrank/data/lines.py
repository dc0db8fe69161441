"""Lines of files, compressed or not, with the place in every error.

gzip (.gz) and Zstandard (.zst) are read by their ending; a file of several members or frames, as
``data/output.py`` writes them, is read through.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from crossrank._extras import needs
from crossrank.errors import InputError
from crossrank.text.words import clean

__all__ = [
    "STDIN",
    "Advance",
    "compression",
    "members",
    "not_utf8",
    "plain_suffix",
    "read_json",
    "read_lines",
    "read_object",
    "read_string",
    "split_pair",
    "zstandard",
]

STDIN = "-"
_CHUNK = 1 << 18

_ZSTANDARD_CHUNK = 256
"""Compressed bytes that zstandard gets at once. It takes no limit on what comes out; a block of 128 KiB
takes at least 4 bytes, so this much gives 8 MiB at most."""

_MAX_LINE = 1 << 28
"""Bytes of the longest line that is read. A few bytes of a compressed file can stand for any number."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Advance = Callable[[int], object]
"""Is told how many bytes of the file, as it lies on disk, have been read so far."""


def zstandard() -> Any:
    """The zstandard library.

    Raises:
        MissingLibraryError: it is not installed.
    """
    with needs("eval", "a .zst file"):
        import zstandard
    return zstandard


def compression(path: str | Path) -> str:
    """What a file's name says of its compression: "gz", "zst" or ""."""
    suffix = Path(path).suffix.lower()
    return suffix[1:] if suffix in (".gz", ".zst") else ""


def plain_suffix(path: str | Path) -> str:
    """The ending that tells a file's format, lower case: ".jsonl" of run.jsonl.gz."""
    path = Path(path)
    return (path.with_suffix("") if compression(path) else path).suffix.lower()


class _Gzip:
    """One member of a .gz file."""

    read_size = _CHUNK

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(31)  # 31: with gzip's header

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    def decompress(self, data: bytes) -> tuple[bytes, bytes]:
        """Some of what the bytes stand for, at most ``_CHUNK``; and the bytes that are left."""
        piece = self._decompressor.decompress(data, _CHUNK)
        return piece, self._decompressor.unused_data if self.eof else self._decompressor.unconsumed_tail


class _Zstandard:
    """One frame of a .zst file."""

    read_size = _ZSTANDARD_CHUNK

    def __init__(self) -> None:
        self._decompressor: Any = zstandard().ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    def decompress(self, data: bytes) -> tuple[bytes, bytes]:
        """What the bytes stand for, and those that follow the frame."""
        piece: bytes = self._decompressor.decompress(data)
        return piece, self._decompressor.unused_data


_DECOMPRESSORS: dict[str, type[_Gzip | _Zstandard]] = {"gz": _Gzip, "zst": _Zstandard}


def members(file: IO[bytes], kind: str, advance: Advance | None = None) -> Iterator[tuple[bytes, int | None]]:
    """Decompressed bytes, a few MiB at a time, and where in the file a member (frame) ended.

    Args:
        file: opened for reading, at a member's start.
        kind: "gz" or "zst".
        advance: see ``Advance``.

    Yields:
        (bytes, offset behind the member that ends with them, or None).

    Raises:
        EOFError: the file ends within a member.
        OSError: it is not of this compression, or damaged.
    """
    make = _DECOMPRESSORS[kind]
    consumed, decompressor, fresh = 0, make(), True
    while data := file.read(make.read_size):
        consumed += len(data)
        piece = b""
        while data or len(piece) == _CHUNK:  # as much as may come at once: perhaps there is more
            try:
                piece, data = decompressor.decompress(data)
            except Exception as error:  # zlib.error; ZstdError, of a library that may not be there
                raise OSError(f"not {kind}, or damaged: {error}") from error
            fresh = False
            if decompressor.eof:
                yield piece, consumed - len(data)
                decompressor, fresh, piece = make(), True, b""
            else:
                yield piece, None
        if advance:
            advance(consumed)
    if not fresh:
        raise EOFError("it ends in the middle")


def _pieces(path: str | Path, advance: Advance | None) -> Iterator[bytes]:
    if path == STDIN:
        # As soon as there is something: who writes may wait for the answer. Not through the buffer, whose
        # lock a thread that waits for input would hold when the program ends.
        yield from iter(lambda: os.read(sys.stdin.fileno(), _CHUNK), b"")
        return
    kind = compression(path)
    with Path(path).open("rb") as file:
        if kind:
            yield from (piece for piece, _ in members(file, kind, advance))
            return
        consumed = 0
        while piece := file.read(_CHUNK):
            consumed += len(piece)
            yield piece
            if advance:
                advance(consumed)


def read_lines(path: str | Path, advance: Advance | None = None) -> Iterator[tuple[str, str]]:
    """("FILE, line N", line) for each line that is not blank; memory holds a piece of the file and a line.

    Args:
        path: a file, or "-" for standard input.
        advance: see ``Advance``.

    Raises:
        InputError: the file cannot be read, is damaged, or a line is not UTF-8 or longer than 256 MiB.
    """
    name = "standard input" if path == STDIN else str(path)
    number = 0
    try:
        for number, raw in enumerate(_raw_lines(_pieces(path, advance)), start=1):
            place = f"{name}, line {number}"
            if line := _line(place, raw, first=number == 1):
                yield place, line
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    except EOFError as error:
        raise InputError(f"{name}: {error}, after line {number}; the file was cut short") from error
    except _LineTooLongError as error:
        raise InputError(f"{name}, line {number + 1}: longer than {_MAX_LINE >> 20} MiB") from error


class _LineTooLongError(Exception):
    pass


def _raw_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What stands between line ends. Only a newline is one: U+2028 and such may stand inside a document."""
    rest: list[bytes] = []
    size = 0
    for piece in pieces:
        for start in range(0, len(piece), _CHUNK):  # a line end is a byte, and a line of its own an object
            first, *others = piece[start : start + _CHUNK].split(b"\n")
            rest.append(first)  # joined once, however long the line
            size += len(first)
            if size > _MAX_LINE:
                raise _LineTooLongError
            if others:
                *whole, last = others
                yield b"".join(rest)
                yield from whole
                rest, size = [last], len(last)
    yield b"".join(rest)


def _line(place: str, raw: bytes, *, first: bool) -> str:
    """A line's text; "" if it is blank."""
    if first:
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no part of the line
    try:
        line = raw.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: {not_utf8(raw, error, 'of the line')}") from error
    return "" if line.isspace() else line


def not_utf8(data: bytes, error: UnicodeDecodeError, of: str = "") -> str:
    """What to say of bytes that are not UTF-8: where, and how to convert them where one can tell."""
    problem = f"not UTF-8 (byte {error.start + 1}{' ' if of else ''}{of})"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"{problem} but UTF-16; convert it: iconv -f UTF-16 -t UTF-8 FILE"
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return problem
    # Any two bytes above 127 are a character of GB18030, mostly one that nobody uses.
    foreign = [character for character in text if ord(character) > 127]
    if sum(_is_common_chinese(character) for character in foreign) < 0.9 * len(foreign):
        return problem
    return f"{problem}; it reads as GB18030 (GBK). Convert it: iconv -f GB18030 -t UTF-8 FILE"


def _is_common_chinese(character: str) -> bool:
    """Whether GB 2312, the thousands of characters in daily use and their punctuation, has it."""
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _no_number(name: str) -> None:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_no_number)  # made once: it costs more than a line


def read_json(place: str, text: str) -> Any:
    """A JSON value. A lone surrogate, which no UTF-8 output could hold, becomes U+FFFD.

    Raises:
        InputError: it is not JSON, is nested too deeply or holds a number that is too long.
    """
    try:
        value = _JSON.decode(text)
        if _ESCAPED_SURROGATE.search(text):
            value = json.loads(clean(json.dumps(value, ensure_ascii=False)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}, column {error.colno}: not JSON: {error.msg} "
            "(a file that begins with { is read as JSON Lines)"
        ) from error
    except RecursionError as error:
        raise InputError(f"{place}: JSON that is nested too deeply") from error
    except ValueError as error:  # of _no_number, and of an integer that Python does not read
        raise InputError(f"{place}: not JSON: a number that is too long, NaN or infinite") from error
    return value


def read_object(place: str, line: str) -> dict[str, Any]:
    """A line of JSON Lines; see ``read_json``.

    Raises:
        InputError: it is not a JSON object.
    """
    if line.lstrip().startswith("["):
        raise InputError(
            f"{place}: a JSON array; write one object a line (jq -c '.[]' FILE makes them of an array)"
        )
    row = read_json(place, line)
    if not isinstance(row, dict):
        raise InputError(f"{place}: not a JSON object")
    return cast(dict[str, Any], row)


def read_string(place: str, row: dict[str, Any], field: str) -> str:
    """A field that must be a string.

    Raises:
        InputError: it is missing, or not one.
    """
    if field not in row:
        raise InputError(f'{place}: the field "{field}" is missing')
    if not isinstance(row[field], str):
        raise InputError(f'{place}: the field "{field}" is not a string')
    value: str = row[field]
    return value


def split_pair(place: str, line: str) -> tuple[str, str]:
    """The query and the document of a line of TSV.

    Raises:
        InputError: it has no tab, or more than one.
    """
    query, tab, document = line.partition("\t")
    if not tab or "\t" in document:
        found = "more than one tab" if tab else "no tab"
        raise InputError(f"{place}: {found}; a line is a query, a tab and a document")
    return query, document
