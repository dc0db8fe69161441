"""Reading documents and pairs from files, with the line in every error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank.errors import InputError

__all__ = ["STDIN", "Pair", "read_documents", "read_pairs"]

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, a document, and the other fields of the line they came from."""

    query: str
    document: str
    fields: dict[str, Any]


def read_documents(path: str) -> list[str | dict[str, Any]]:
    """Documents of a file: one for each line that is not blank.

    A file whose first line begins with ``{`` is JSON Lines, each line with a string "text"; any
    other file is plain text.

    Raises:
        InputError: the file cannot be read, or a line is not as it should be.
    """
    lines = list(_lines(path))
    if not lines or not _is_json(path, lines[0][1]):
        return [line for _, line in lines]
    documents: list[str | dict[str, Any]] = []
    for place, line in lines:
        row = _object(place, line)
        _string(place, row, "text")
        documents.append(row)
    return documents


def read_pairs(path: str) -> list[Pair]:
    """Pairs of a file, in its order: TSV (query, tab, document) or JSON Lines.

    JSON Lines have a string "query" and a string "document" (or "text").

    Raises:
        InputError: the file cannot be read, or a line is not as it should be.
    """
    lines = list(_lines(path))
    pairs: list[Pair] = []
    is_json = bool(lines) and _is_json(path, lines[0][1])
    for place, line in lines:
        if is_json:
            row = _object(place, line)
            field = "document" if "document" in row or "text" not in row else "text"
            query, document = _string(place, row, "query"), _string(place, row, field)
            rest = {key: value for key, value in row.items() if key not in ("query", field)}
            pairs.append(Pair(query, document, rest))
        else:
            query, tab, document = line.partition("\t")
            if not tab or "\t" in document:
                found = "more than one tab" if tab else "no tab"
                raise InputError(f"{place}: {found}; a line is a query, a tab and a document")
            pairs.append(Pair(query, document, {}))
    return pairs


def _is_json(path: str, first: str) -> bool:
    return path.endswith((".jsonl", ".ndjson")) or first.lstrip().startswith("{")


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """("FILE, line N", line) for each line that is not blank."""
    name = "standard input" if path == STDIN else path
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from error
    # A byte order mark is no part of the first line; only \n ends a line, since U+2028 and the
    # like may stand inside a document.
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        place = f"{name}, line {number}"
        try:
            line = raw.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
        if line.strip():
            yield place, line


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}, column {error.colno}: not JSON: {error.msg} "
            "(a file that begins with { is read as JSON Lines)"
        ) from error
    except RecursionError as error:
        raise InputError(f"{place}: JSON that is nested too deeply") from error
    if not isinstance(row, dict):
        raise InputError(f"{place}: not a JSON object")
    return row


def _string(place: str, row: dict[str, Any], field: str) -> str:
    if field not in row:
        raise InputError(f'{place}: the field "{field}" is missing')
    if not isinstance(row[field], str):
        raise InputError(f'{place}: the field "{field}" is not a string')
    value: str = row[field]
    return value
