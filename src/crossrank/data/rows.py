"""Rows, each a query and its documents: the input of ``crossrank bulk`` and, with labels, of ``eval``.

A row of JSON Lines or Parquet is one query::

    {"id": "q1", "query": "...", "documents": ["...", {"id": "d7", "text": "..."}], "labels": [0, 1]}

or one pair, ``{"query": "...", "document": "..."}``. A line of TSV is a pair. Ids are optional: by default a
row's id is its number, and a document's id is its index in the row. An "instruction" is for models that take
one. Training data is accepted too: "pos" and "neg" (or "positive" and "negative") are documents with the
labels 1 and 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from crossrank._extras import needs
from crossrank.data.lines import (
    STDIN,
    UTF_8,
    Advance,
    plain_suffix,
    read_lines,
    read_object,
    read_string,
    split_pair,
)
from crossrank.errors import InputError

__all__ = ["Document", "Id", "Row", "Shard", "check_label", "import_parquet", "parse_shard", "read_rows"]

MAX_LABEL = 1000
"""The largest label, as measures allocate tables that grow with it."""

_TRAINING = (("pos", "neg"), ("positive", "negative"))
"""Field names of training data: documents that are relevant, and documents that are not."""

Id: TypeAlias = str | int
"""An id of the type that was read, so that a number is written as a number."""

Shard = tuple[int, int]
"""(i, n) is the i-th of n parts, where i counts from 1."""


class Document(NamedTuple):
    """A document of a row."""

    id: Id
    text: str


class Row(NamedTuple):
    """A query and its documents.

    Attributes:
        place: where the row was read, for messages.
        id: the query's id; by default the row's number, from 0.
        query: the query's text.
        documents: in the order of the first stage.
        labels: the relevance of each document, 0 if it is not relevant; None if unknown.
        is_pair: the row was given as a pair, and its result is written as one.
        is_ranked: the order of the documents is a ranking; False for "pos" and "neg".
        instruction: what a model is told to look for; None: its default.
    """

    place: str
    id: Id
    query: str
    documents: tuple[Document, ...]
    labels: tuple[int, ...] | None = None
    is_pair: bool = False
    is_ranked: bool = True
    instruction: str | None = None


def parse_shard(text: str) -> Shard:
    """Parse a shard: ``"2/8"`` is the second of eight parts, every row whose number modulo 8 is 1.

    Raises:
        InputError: the text is not i/n with 1 <= i <= n.
    """
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise InputError(f"shard is {text!r}; it must be i/n with i from 1 to n, such as 1/4")
    return int(first), int(second)


def import_parquet() -> Any:
    """Import pyarrow.parquet.

    Raises:
        MissingLibraryError: pyarrow is not installed.
    """
    with needs("eval", "Parquet"):
        import pyarrow.parquet
    return pyarrow.parquet


def read_rows(
    path: str,
    shard: Shard = (1, 1),
    advance: Advance | None = None,
    *,
    text_field: str = "text",
    encoding: str = UTF_8,
) -> Iterator[Row]:
    """Read the rows of a file, in order, one at a time.

    ``.parquet`` is Parquet, ``.tsv`` has pairs (query, tab, document; no header), and any other file is JSON
    Lines. JSON Lines and TSV may be compressed (.gz, .zst). "-" is JSON Lines on standard input.

    Args:
        path: the file.
        shard: the part of the rows to yield; the others are read and checked too.
        advance: called with how much of the file was read: its bytes, or the rows of a Parquet file.
        text_field: the field of a document that has its text.
        encoding: the encoding of JSON Lines and TSV.

    Raises:
        InputError: the file cannot be read, or a row is malformed.
    """
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        rows = (_row(place, n, row, text_field) for n, (place, row) in enumerate(_parquet(path, advance)))
    elif suffix == ".tsv":
        rows = (_pair(place, n, line) for n, (place, line) in enumerate(read_lines(path, advance, encoding)))
    else:
        rows = (
            _row(place, n, read_object(place, line), text_field)
            for n, (place, line) in enumerate(read_lines(path, advance, encoding))
        )
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


def _parquet(path: str, advance: Advance | None) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet = import_parquet()
    if path == STDIN or not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    import pyarrow

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            wanted = ("id", "query", "instruction", "documents", "document", "labels", *chain(*_TRAINING))
            columns = [name for name in wanted if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    # An empty cell counts as a missing field.
                    yield (
                        f"{path}, row {number}",
                        {name: value for name, value in row.items() if value is not None},
                    )
                if advance:
                    advance(number)
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not Parquet, or damaged: {error}") from error


def check_label(place: str, label: int) -> None:
    """Raise InputError for a label that is out of range."""
    if abs(label) > MAX_LABEL:
        raise InputError(f"{place}: the label is {label}; labels are {-MAX_LABEL} to {MAX_LABEL}")


def _identity(place: str, value: object, what: str) -> Id:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(
            f"{place}: the {what} is a {type(value).__name__}; it must be a string or a whole number"
        )
    return value


def _row(place: str, number: int, row: dict[str, Any], text_field: str) -> Row:
    query = read_string(place, row, "query")
    told = None if row.get("instruction") is None else read_string(place, row, "instruction")
    identity = _identity(place, row.get("id", str(number)), 'field "id"')
    if "documents" not in row:
        if "document" in row:
            document = Document("0", read_string(place, row, "document"))
            return Row(place, identity, query, (document,), is_pair=True, instruction=told)
        training = next((names for names in _TRAINING if names[0] in row), None)
        if training:
            good, bad = (_texts(place, row, name) for name in training)
            documents = _documents(place, [*good, *bad], text_field)
            labels = (1,) * len(good) + (0,) * len(bad)
            return Row(place, identity, query, documents, labels, is_ranked=False, instruction=told)
    found = row.get("documents")
    if not isinstance(found, list):
        problem = "is missing" if found is None else "is not a list"
        raise InputError(f'{place}: the field "documents" {problem}; a pair has a field "document" instead')
    texts = _documents(place, found, text_field)
    return Row(place, identity, query, texts, _labels(place, row, len(found)), instruction=told)


def _texts(place: str, row: dict[str, Any], name: str) -> list[Any]:
    """The texts of a field such as "pos" or "neg". A single text need not be in a list."""
    found = row.get(name, [])
    if not isinstance(found, (str, list)):
        raise InputError(f'{place}: the field "{name}" is neither a text nor a list of texts')
    return [found] if isinstance(found, str) else found


def _labels(place: str, row: dict[str, Any], documents: int) -> tuple[int, ...] | None:
    found = row.get("labels")
    if found is None:
        return None
    if not isinstance(found, list) or any(
        type(label) not in (int, float) or label != label // 1 for label in found
    ):
        raise InputError(f'{place}: the field "labels" is not a list of whole numbers')
    labels = tuple(map(int, found))
    for label in labels:
        check_label(place, label)
    if len(labels) != documents:
        raise InputError(f"{place}: {len(labels)} labels for {documents} documents")
    return labels


def _documents(place: str, found: list[Any], text_field: str) -> tuple[Document, ...]:
    read = [_document(place, index, document, text_field) for index, document in enumerate(found)]
    given = [str(identity) for identity, _ in read if identity is not None]
    taken = set(given)
    if len(taken) < len(given):
        twice = next(x for x in given if given.count(x) > 1)
        raise InputError(f"{place}: two documents have the id {twice!r}")
    documents = []
    for index, (identity, text) in enumerate(read):
        if identity is None:
            identity = str(index)
            while identity in taken:  # another document was given this id
                identity = f"#{identity}"
        documents.append(Document(identity, text))
    return tuple(documents)


def _document(place: str, index: int, document: object, text_field: str) -> tuple[Id | None, str]:
    if isinstance(document, str):
        return None, document
    text = document.get(text_field) if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(text, str):
        raise InputError(
            f"{place}: document {index} is neither a string nor an object with a string "
            f'"{text_field}" (--text-field names another field)'
        )
    identity = document.get("id")
    if identity is None:
        return None, text
    return _identity(place, identity, f"id of document {index}"), text
