"""Reading documents and pairs from files, with the line in every error."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank.data.lines import STDIN, plain_suffix, read_lines, read_object, read_string, split_pair
from crossrank.errors import InputError

__all__ = ["STDIN", "Pair", "read_documents", "read_pairs", "read_text"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, a document, and the other fields of the line they came from."""

    query: str
    document: str
    fields: dict[str, Any]


def read_text(path: str) -> str:
    """The whole of a text file, or of standard input, as one document.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    name = "standard input" if path == STDIN else path
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 (byte {error.start + 1})") from error
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error


def read_documents(path: str) -> list[str | dict[str, Any]]:
    """Documents of a file: one for each line that is not blank.

    A file whose first line begins with ``{`` is JSON Lines, each line with a string "text"; any
    other file is plain text.

    Raises:
        InputError: the file cannot be read, or a line is not as it should be.
    """
    lines = list(read_lines(path))
    if not lines or not _is_json(path, lines[0][1]):
        return [line for _, line in lines]
    documents: list[str | dict[str, Any]] = []
    for place, line in lines:
        row = read_object(place, line)
        read_string(place, row, "text")
        documents.append(row)
    return documents


def read_pairs(path: str) -> list[Pair]:
    """Pairs of a file, in its order: TSV (query, tab, document) or JSON Lines.

    JSON Lines have a string "query" and a string "document" (or "text").

    Raises:
        InputError: the file cannot be read, or a line is not as it should be.
    """
    lines = list(read_lines(path))
    pairs: list[Pair] = []
    is_json = bool(lines) and _is_json(path, lines[0][1])
    for place, line in lines:
        if is_json:
            row = read_object(place, line)
            field = "document" if "document" in row or "text" not in row else "text"
            query, document = read_string(place, row, "query"), read_string(place, row, field)
            rest = {key: value for key, value in row.items() if key not in ("query", field)}
            pairs.append(Pair(query, document, rest))
        else:
            pairs.append(Pair(*split_pair(place, line), {}))
    return pairs


def _is_json(path: str, first: str) -> bool:
    return plain_suffix(path) in (".jsonl", ".ndjson") or first.lstrip().startswith("{")
