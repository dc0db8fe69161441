"""Rows: a query and its documents. What ``crossrank bulk`` reads, and what carries labels to ``eval``.

A row of JSON Lines or Parquet is one query::

    {"id": "q1", "query": "...", "documents": ["...", {"id": "d7", "text": "..."}], "labels": [0, 1]}

or one pair, ``{"query": "...", "document": "..."}``; a line of TSV is a pair. The id is optional: the
row's number stands in for it, and a document's place for the document's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crossrank.data.lines import (
    STDIN,
    Advance,
    plain_suffix,
    read_lines,
    read_object,
    read_string,
    split_pair,
)
from crossrank.errors import InputError
from crossrank.extras import needs

__all__ = ["Document", "Row", "Shard", "check_label", "import_parquet", "parse_shard", "read_rows"]

MOST_LABEL = 1000

Shard = tuple[int, int]
"""(i, n): the i-th of n parts, i from 1."""


class Document(NamedTuple):
    """A document of a row."""

    id: str
    text: str


class Row(NamedTuple):
    """A query and its documents.

    Attributes:
        place: where it was read, for messages.
        id: of the query, or the row's number from 0.
        query: its text.
        documents: in the order of the first stage.
        labels: of each document, how relevant it is (0: not); None: unknown.
        is_pair: it was given as a pair, and is answered as one.
    """

    place: str
    id: str
    query: str
    documents: tuple[Document, ...]
    labels: tuple[int, ...] | None = None
    is_pair: bool = False


def parse_shard(text: str) -> Shard:
    """``"2/8"`` is the second of eight parts: every row whose number modulo 8 is 1.

    Raises:
        InputError: it is not i/n with 1 <= i <= n.
    """
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise InputError(f"shard is {text!r}; it must be i/n with i from 1 to n, such as 1/4")
    return int(first), int(second)


def import_parquet() -> Any:
    """pyarrow.parquet.

    Raises:
        MissingLibraryError: pyarrow is not installed.
    """
    with needs("eval", "Parquet"):
        import pyarrow.parquet
    return pyarrow.parquet


def read_rows(path: str, shard: Shard = (1, 1), advance: Advance | None = None) -> Iterator[Row]:
    """Rows of a file, in its order, one at a time.

    ``.parquet`` is Parquet, ``.tsv`` pairs (query, tab, document; no header), anything else JSON Lines;
    JSON Lines and TSV may be compressed (.gz, .zst). "-" is JSON Lines on standard input.

    Args:
        path: the file.
        shard: which rows to give; the others are read and checked too.
        advance: is told how much of the file was read: its bytes, or for Parquet its rows.

    Raises:
        InputError: the file cannot be read, or a row is not as it should be.
    """
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        rows = (_row(place, n, row) for n, (place, row) in enumerate(_parquet(path, advance)))
    else:
        read = _pair if suffix == ".tsv" else _object
        rows = (read(place, n, line) for n, (place, line) in enumerate(read_lines(path, advance)))
    is_pair: bool | None = None
    for number, row in enumerate(rows):
        if is_pair is None:
            is_pair = row.is_pair
        elif row.is_pair != is_pair:
            kinds = ("documents", "one document")
            raise InputError(f"{row.place}: a row with {kinds[row.is_pair]} after rows with {kinds[is_pair]}")
        if number % shard[1] == shard[0] - 1:
            yield row


def _pair(place: str, number: int, line: str) -> Row:
    query, document = split_pair(place, line)
    return Row(place, str(number), query, (Document("0", document),), None, True)


def _object(place: str, number: int, line: str) -> Row:
    return _row(place, number, read_object(place, line))


def _parquet(path: str, advance: Advance | None) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet = import_parquet()
    if path == STDIN or not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    import pyarrow

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            wanted = ("id", "query", "documents", "document", "labels")
            columns = [name for name in wanted if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    # An empty cell is as good as no column.
                    yield (
                        f"{path}, row {number}",
                        {name: value for name, value in row.items() if value is not None},
                    )
                if advance:
                    advance(number)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not Parquet, or damaged: {error}") from error


def check_label(place: str, label: int) -> None:
    """Raise InputError for a label that measures would make tables of memory for."""
    if abs(label) > MOST_LABEL:
        raise InputError(f"{place}: the label is {label}; labels are {-MOST_LABEL} to {MOST_LABEL}")


def _identity(place: str, value: object, what: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(
            f"{place}: the {what} is a {type(value).__name__}; it must be a string or a whole number"
        )
    return str(value)


def _row(place: str, number: int, row: dict[str, Any]) -> Row:
    query = read_string(place, row, "query")
    identity = _identity(place, row.get("id", number), 'field "id"')
    if "documents" not in row and "document" in row:
        document = Document("0", read_string(place, row, "document"))
        return Row(place, identity, query, (document,), is_pair=True)
    found = row.get("documents")
    if not isinstance(found, list):
        problem = "is missing" if found is None else "is not a list"
        raise InputError(f'{place}: the field "documents" {problem}; a pair has a field "document" instead')
    documents = tuple(_document(place, index, document) for index, document in enumerate(found))
    ids = [document.id for document in documents]
    if len(set(ids)) < len(ids):
        twice = next(x for x in ids if ids.count(x) > 1)
        raise InputError(f"{place}: two documents have the id {twice!r}")
    labels = row.get("labels")
    if labels is None:
        return Row(place, identity, query, documents)
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise InputError(f'{place}: the field "labels" is not a list of whole numbers')
    for label in labels:
        check_label(place, label)
    if len(labels) != len(documents):
        raise InputError(f"{place}: {len(labels)} labels for {len(documents)} documents")
    return Row(place, identity, query, documents, tuple(labels))


def _document(place: str, index: int, document: object) -> Document:
    if isinstance(document, str):
        return Document(str(index), document)
    if not isinstance(document, dict) or not isinstance(document.get("text"), str):
        raise InputError(
            f'{place}: document {index} is neither a string nor an object whose field "text" is one'
        )
    identity = document.get("id")
    if identity is None:
        return Document(str(index), document["text"])
    return Document(_identity(place, identity, f"id of document {index}"), document["text"])
