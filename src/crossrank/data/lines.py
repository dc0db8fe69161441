"""Read lines of files, compressed or not, and say in every error where it is.

Files that end in .gz are read as gzip, and those that end in .zst as Zstandard. A file may have several
members (gzip) or frames (Zstandard), as ``bulk/output.py`` writes them.
"""

from __future__ import annotations

import codecs
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
from crossrank.text.unicode import clean

__all__ = [
    "STDIN",
    "UTF_8",
    "Advance",
    "check_encoding",
    "compression",
    "decode",
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
"""The path that means standard input, or standard output."""

UTF_8 = "utf-8"
"""The encoding of input, if no other is given."""

_CHUNK = 1 << 18
"""Bytes that are read, or decompressed by gzip, at a time."""

_ZSTANDARD_CHUNK = 256
"""Compressed bytes that zstandard gets at a time. It cannot limit its output; but a block of 128 KiB takes at
least 4 bytes, so that the output is at most 8 MiB."""

_MAX_LINE = 1 << 28
"""Bytes of the longest line that is read. A few bytes of a compressed file can expand to any number."""

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Advance = Callable[[int], object]
"""Function that is called with the number of bytes read so far, as stored on disk (compressed)."""


def zstandard() -> Any:
    """The zstandard library.

    Raises:
        MissingLibraryError: it is not installed.
    """
    with needs("eval", "a .zst file"):
        import zstandard
    return zstandard


def compression(path: str | Path) -> str:
    """A file's compression, by its name: "gz", "zst" or "" for none."""
    suffix = Path(path).suffix.lower()
    return suffix[1:] if suffix in (".gz", ".zst") else ""


def plain_suffix(path: str | Path) -> str:
    """The ending that tells a file's format, in lower case, such as ".jsonl" for run.jsonl.gz."""
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
        """Decompress at most ``_CHUNK`` bytes of output; return it and the input that is left."""
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
        """Decompress the bytes; return the output and the input that follows the frame."""
        piece: bytes = self._decompressor.decompress(data)
        return piece, self._decompressor.unused_data


_DECOMPRESSORS: dict[str, type[_Gzip | _Zstandard]] = {"gz": _Gzip, "zst": _Zstandard}


def members(file: IO[bytes], kind: str, advance: Advance | None = None) -> Iterator[tuple[bytes, int | None]]:
    """Decompress a file a few MiB at a time, and tell where its members (frames) end.

    Args:
        file: opened for reading, at a member's start.
        kind: "gz" or "zst".
        advance: see ``Advance``.

    Yields:
        (decompressed bytes, offset in the file at which their member ends; None if it goes on).

    Raises:
        EOFError: the file ends within a member.
        OSError: the file is damaged, or has another compression.
    """
    make = _DECOMPRESSORS[kind]
    consumed, decompressor, fresh = 0, make(), True
    while data := file.read(make.read_size):
        consumed += len(data)
        piece = b""
        while data or len(piece) == _CHUNK:  # a full piece: there may be more output
            try:
                piece, data = decompressor.decompress(data)
            except Exception as error:  # zlib.error or ZstdError, whose library may not be installed
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
        # Return input as soon as it comes: the writer may wait for an answer. The buffer is bypassed, because
        # a thread that waits for input would hold the buffer's lock when the program ends.
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


def check_encoding(name: str) -> str:
    """Check the name of an encoding in which lines can be read, and return its usual spelling.

    Raises:
        InputError: it is unknown, or its lines do not end in the byte 10, as in UTF-16.
    """
    try:
        codec = codecs.lookup(name)
        line_end = "\n".encode(name)
    except (LookupError, ValueError):
        raise InputError(
            f"--encoding {name[:40]!r} is not known; use utf-8, gb18030, big5 or another that Python reads"
        ) from None
    if line_end != b"\n":
        raise InputError(
            f"--encoding {name} has lines that do not end in one byte; convert the file: "
            f"iconv -f {name} -t UTF-8 FILE"
        )
    return codec.name


def read_lines(
    path: str | Path, advance: Advance | None = None, encoding: str = UTF_8
) -> Iterator[tuple[str, str]]:
    """Yield ("FILE, line N", line) for each line that is not blank, without reading the whole file first.

    Args:
        path: a file, or "-" for standard input.
        advance: see ``Advance``.
        encoding: the encoding of its text; see ``check_encoding``.

    Raises:
        InputError: the file cannot be read, is damaged, or a line is longer than 256 MiB or not in
            that encoding.
    """
    name = "standard input" if path == STDIN else str(path)
    number = 0
    try:
        for number, raw in enumerate(_raw_lines(_pieces(path, advance)), start=1):
            place = f"{name}, line {number}"
            if line := _line(place, raw, encoding, first=number == 1):
                yield place, line
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    except EOFError as error:
        raise InputError(f"{name}: {error}, after line {number}; the file is truncated") from error
    except _LineTooLongError as error:
        raise InputError(f"{name}, line {number + 1}: longer than {_MAX_LINE >> 20} MiB") from error


class _LineTooLongError(Exception):
    pass


def _raw_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Split pieces at newlines. Other line ends, such as U+2028, may be part of a document."""
    rest: list[bytes] = []
    size = 0
    for piece in pieces:
        # A piece of several MiB of newlines would become millions of objects at once.
        for start in range(0, len(piece), _CHUNK):
            first, *others = piece[start : start + _CHUNK].split(b"\n")
            rest.append(first)  # joined only once, however long the line is
            size += len(first)
            if size > _MAX_LINE:
                raise _LineTooLongError
            if others:
                *whole, last = others
                yield b"".join(rest)
                yield from whole
                rest, size = [last], len(last)
    yield b"".join(rest)


def _line(place: str, raw: bytes, encoding: str, *, first: bool) -> str:
    """The text of a line; "" if it is blank."""
    if first and encoding == UTF_8:
        raw = raw.removeprefix(codecs.BOM_UTF8)  # a byte order mark is not part of the line
    try:
        line = decode(raw, encoding, "of the line").removesuffix("\r")
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    if first:  # another byte order mark, such as GB18030's
        line = line.removeprefix("\ufeff")
    return "" if line.isspace() else line


def decode(data: bytes, encoding: str = UTF_8, of: str = "") -> str:
    """Decode bytes.

    Args:
        data: the bytes.
        encoding: how; see ``check_encoding``.
        of: "of the line", say, if ``data`` is only a part of a file.

    Raises:
        InputError: they are not in that encoding.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == UTF_8:
            raise InputError(not_utf8(data, error, of)) from error
        place = f"(byte {error.start + 1}{' ' if of else ''}{of})"
        raise InputError(f"not {encoding} {place}; give another --encoding") from error


def not_utf8(data: bytes, error: UnicodeDecodeError, of: str = "") -> str:
    """The message about bytes that are not UTF-8: where they are, and, if recognised, how to convert them.

    Args:
        data: all bytes that were decoded.
        error: from decoding them.
        of: "of the line", say, if ``data`` is only a part of a file.
    """
    problem = f"not UTF-8 (byte {error.start + 1}{' ' if of else ''}{of})"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"{problem} but UTF-16; convert it: iconv -f UTF-16 -t UTF-8 FILE"
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return problem
    # Any two bytes above 127 are a character of GB18030, but mostly a rare one.
    foreign = [character for character in text if ord(character) > 127]
    if sum(_is_common_chinese(character) for character in foreign) < 0.9 * len(foreign):
        return problem
    return (
        f"{problem}; it reads as GB18030 (GBK). Use --encoding gb18030, or convert it: "
        "iconv -f GB18030 -t UTF-8 FILE"
    )


def _is_common_chinese(character: str) -> bool:
    """True if GB 2312 has the character. It has the characters and the punctuation in daily use."""
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def _reject_constant(name: str) -> None:
    raise ValueError(name)


_JSON = json.JSONDecoder(parse_constant=_reject_constant)  # created once, since it takes longer than a line


def read_json(place: str, text: str) -> Any:
    """Parse a JSON value. Lone surrogates, which UTF-8 output cannot hold, become U+FFFD.

    Raises:
        InputError: the text is not JSON, is nested too deeply, or has a number that is too long.
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
        raise InputError(f"{place}: the JSON is nested too deeply") from error
    except ValueError as error:  # from _reject_constant, or for an integer with too many digits
        raise InputError(f"{place}: not JSON: a number that is too long, NaN or infinite") from error
    return value


def read_object(place: str, line: str) -> dict[str, Any]:
    """Parse a line of JSON Lines; see ``read_json``.

    Raises:
        InputError: the line is not a JSON object.
    """
    if line.lstrip().startswith("["):
        raise InputError(
            f"{place}: a JSON array; write one object a line (jq -c '.[]' FILE converts an array)"
        )
    row = read_json(place, line)
    if not isinstance(row, dict):
        raise InputError(f"{place}: not a JSON object")
    return cast(dict[str, Any], row)


def read_string(place: str, row: dict[str, Any], field: str) -> str:
    """The value of a field that must be a string.

    Raises:
        InputError: the field is missing, or is not a string.
    """
    if field not in row:
        raise InputError(f'{place}: the field "{field}" is missing')
    if not isinstance(row[field], str):
        raise InputError(f'{place}: the field "{field}" is not a string')
    value: str = row[field]
    return value


def split_pair(place: str, line: str) -> tuple[str, str]:
    """Split a line of TSV into its query and its document.

    Raises:
        InputError: the line has no tab, or more than one.
    """
    query, tab, document = line.partition("\t")
    if not tab or "\t" in document:
        found = "more than one tab" if tab else "no tab"
        raise InputError(f"{place}: {found}; a line is a query, a tab and a document")
    return query, document
