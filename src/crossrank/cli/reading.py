"""Read documents and pairs from files, and name the line in every error."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank.data.lines import (
    STDIN,
    UTF_8,
    decode,
    plain_suffix,
    read_json,
    read_lines,
    read_object,
    read_string,
    split_pair,
)
from crossrank.errors import InputError

__all__ = ["STDIN", "Pair", "read_documents", "read_pairs", "read_text"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, a document, and the other fields of the line they came from."""

    query: str
    document: str
    fields: dict[str, Any]


def read_text(path: str, encoding: str = UTF_8) -> str:
    """Read a whole text file, or standard input, as one document.

    Raises:
        InputError: it cannot be read, or is not in that encoding.
    """
    name = "standard input" if path == STDIN else path
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    try:
        return decode(data, encoding).removeprefix("\ufeff")
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def read_documents(path: str, text_field: str = "text", encoding: str = UTF_8) -> list[str | dict[str, Any]]:
    """Read the documents of a file, one for each line that is not blank.

    A file whose first line begins with ``{`` is JSON Lines, whose objects have a string "text". A JSON array
    holds strings or such objects. Any other file is plain text.

    Args:
        path: the file.
        text_field: the field to read instead of "text".
        encoding: the file's encoding.

    Raises:
        InputError: the file cannot be read, or a line is malformed.
    """
    lines = list(read_lines(path, encoding=encoding))
    rows = _json_rows(path, lines)
    if rows is None:
        return [line for _, line in lines]
    documents: list[str | dict[str, Any]] = []
    for place, row in rows:
        if isinstance(row, str):
            documents.append(row)
            continue
        text = read_string(place, row, text_field)
        documents.append(
            {"text": text} | {key: x for key, x in row.items() if key not in ("text", text_field)}
        )
    return documents


def read_pairs(path: str, encoding: str = UTF_8) -> list[Pair]:
    """Read the pairs of a file, in order, from TSV (query, tab, document), JSON Lines, or a JSON array.

    JSON objects have a string "query" and a string "document" (or "text").

    Raises:
        InputError: the file cannot be read, or a line is malformed.
    """
    lines = list(read_lines(path, encoding=encoding))
    rows = _json_rows(path, lines)
    if rows is None:
        return [Pair(*split_pair(place, line), {}) for place, line in lines]
    pairs: list[Pair] = []
    for place, row in rows:
        if isinstance(row, str):
            raise InputError(f"{place}: not a JSON object")
        field = "document" if "document" in row or "text" not in row else "text"
        query, document = read_string(place, row, "query"), read_string(place, row, field)
        rest = {key: value for key, value in row.items() if key not in ("query", field)}
        pairs.append(Pair(query, document, rest))
    return pairs


def _json_rows(path: str, lines: list[tuple[str, str]]) -> list[tuple[str, str | dict[str, Any]]] | None:
    """The objects of a JSON file, or the items of its array, with their places; None if it is not JSON."""
    if not lines:
        return None
    if lines[0][1].lstrip().startswith("["):
        return _array(path, lines)
    if not _is_json(path, lines[0][1]):
        return None
    return [(place, read_object(place, line)) for place, line in lines]


def _array(path: str, lines: list[tuple[str, str]]) -> list[tuple[str, str | dict[str, Any]]] | None:
    name = lines[0][0].rpartition(", line ")[0]
    try:
        found = read_json(name, "\n".join(line for _, line in lines))
    except InputError:
        if plain_suffix(path) in (".json", ".jsonl", ".ndjson"):
            raise
        return None  # plain text that begins with "[1]", say
    rows: list[tuple[str, str | dict[str, Any]]] = []
    for number, item in enumerate(found, start=1):
        place = f"{name}, item {number}"
        if not isinstance(item, (str, dict)):
            raise InputError(f"{place}: neither a string nor an object")
        rows.append((place, item))
    return rows


def _is_json(path: str, first: str) -> bool:
    return plain_suffix(path) in (".jsonl", ".ndjson") or first.lstrip().startswith("{")
