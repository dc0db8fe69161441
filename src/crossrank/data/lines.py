"""Lines of files, compressed or not, with the place in every error.

gzip (.gz) and Zstandard (.zst) are read by their ending; a file of several members or frames, as
``data/output.py`` writes them, is read through.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

from crossrank.errors import InputError
from crossrank.extras import needs
from crossrank.words import clean

__all__ = [
    "STDIN",
    "Advance",
    "compression",
    "members",
    "plain_suffix",
    "read_lines",
    "read_object",
    "read_string",
    "split_pair",
    "zstandard",
]

STDIN = "-"
_CHUNK = 1 << 18
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Advance = Callable[[int], object]
"""Is told how many bytes of the file, as it lies on disk, have been read so far."""


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes) -> bytes: ...


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


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gz":
        return cast(_Decompressor, zlib.decompressobj(31))  # 31: with gzip's header
    return cast(_Decompressor, zstandard().ZstdDecompressor().decompressobj())


def members(file: IO[bytes], kind: str, advance: Advance | None = None) -> Iterator[tuple[bytes, int | None]]:
    """Decompressed bytes, piece by piece, and where in the file a member (frame) ended.

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
    consumed, decompressor, fresh = 0, _decompressor(kind), True
    while data := file.read(_CHUNK):
        consumed += len(data)
        while data:
            try:
                piece = decompressor.decompress(data)
            except Exception as error:  # zlib.error; ZstdError, of a library that may not be there
                raise OSError(f"not {kind}, or damaged: {error}") from error
            fresh, data = False, decompressor.unused_data
            if decompressor.eof:
                yield piece, consumed - len(data)
                decompressor, fresh = _decompressor(kind), True
            else:
                yield piece, None
        if advance:
            advance(consumed)
    if not fresh:
        raise EOFError("it ends in the middle")


def _pieces(path: str | Path, advance: Advance | None) -> Iterator[bytes]:
    if path == STDIN:
        yield from iter(lambda: sys.stdin.buffer.read(_CHUNK), b"")
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
    """("FILE, line N", line) for each line that is not blank; memory holds one piece of the file.

    Args:
        path: a file, or "-" for standard input.
        advance: see ``Advance``.

    Raises:
        InputError: the file cannot be read, is damaged, or a line is not UTF-8.
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


def _raw_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """What stands between line ends. Only a newline is one: U+2028 and such may stand inside a document."""
    rest: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        rest.append(first)  # joined once, however long the line
        if others:
            *whole, last = others
            yield b"".join(rest)
            yield from whole
            rest = [last]
    yield b"".join(rest)


def _line(place: str, raw: bytes, *, first: bool) -> str:
    """A line's text; "" if it is blank."""
    if first:
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no part of the line
    try:
        line = raw.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
    return "" if line.isspace() else line


def _no_number(name: str) -> None:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_no_number)  # made once: it costs more than a line


def read_object(place: str, line: str) -> dict[str, Any]:
    """A line of JSON Lines. A lone surrogate, which no UTF-8 output could hold, becomes U+FFFD.

    Raises:
        InputError: it is not a JSON object.
    """
    try:
        row = _JSON.decode(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}, column {error.colno}: not JSON: {error.msg} "
            "(a file that begins with { is read as JSON Lines)"
        ) from error
    except RecursionError as error:
        raise InputError(f"{place}: JSON that is nested too deeply") from error
    except ValueError as error:  # of _no_number, and of an integer that Python does not read
        raise InputError(f"{place}: not JSON: a number that is too long, NaN or infinite") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: not a JSON object")
    if _ESCAPED_SURROGATE.search(line):
        row = json.loads(clean(json.dumps(row, ensure_ascii=False)))
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
