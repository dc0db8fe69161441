"""Checks of what callers give: a query, documents that are strings or mappings, and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar

from crossrank.errors import InputError

__all__ = [
    "Asked",
    "Document",
    "Request",
    "check_instruction",
    "check_integer",
    "check_number",
    "distinct",
    "each",
    "read_one_of",
    "read_pairs",
]

Document: TypeAlias = str | Mapping[str, Any]

Asked: TypeAlias = tuple[str, Sequence[Document]] | tuple[str, Sequence[Document], str | None]
"""A query and its documents, as ``rank_many`` takes them; a third item is the query's own instruction."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Request:
    """A query and the documents to rank for it.

    Attributes:
        query: what is asked.
        texts: of the documents.
        fields: the other fields of each document; (): none has any.
        instruction: what the model is told to look for; None: the default.
    """

    query: str
    texts: Sequence[str]
    fields: Sequence[Mapping[str, Any]] = ()
    instruction: str | None = None

    @classmethod
    def read(cls, query: str, documents: Sequence[Document], instruction: str | None = None) -> Request:
        """Check what a caller gave.

        Raises:
            InputError: the query or the instruction is no string, or a document neither a string nor a
                mapping with a text.
        """
        _check_text("query", query)
        check_instruction(instruction)
        if isinstance(documents, (str, Mapping)):
            raise InputError("documents is one document; it must be a list of documents")
        texts: list[str] = []
        fields: list[dict[str, Any]] = []
        for index, document in enumerate(each("documents", documents)):
            text, rest = (document, {}) if isinstance(document, str) else _split_document(index, document)
            texts.append(text)
            fields.append(rest)
        return cls(query, texts, fields, instruction)


def read_one_of(index: int, request: object, instruction: str | None = None) -> Request:
    """Check one of many requests.

    Args:
        index: its place.
        request: itself.
        instruction: of a request without one of its own.

    Raises:
        InputError: as ``Request.read``, or it is not a query with documents; the message names the request.
    """
    if not isinstance(request, (tuple, list)) or len(request) not in (2, 3):
        raise InputError(
            f"request {index} is {request!r}; it must be (query, documents), and may have an instruction"
        )
    query, documents, *rest = request
    own = rest[0] if rest else None
    try:
        return Request.read(query, documents, instruction if own is None else own)
    except InputError as error:
        raise InputError(f"request {index}: {error}") from None


def read_pairs(pairs: Iterable[tuple[str, str]]) -> tuple[str | list[str], list[str]]:
    """The queries and the documents of pairs, which may come from an iterator.

    Returns:
        The query, where all pairs have the same, or else that of each pair; and the documents.

    Raises:
        InputError: an item is not a pair of strings.
    """
    queries: list[str] = []
    texts: list[str] = []
    for index, pair in enumerate(each("pairs", pairs)):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"pair {index} is {pair!r}; it must be (query, document)")
        _check_text(f"the query of pair {index}", pair[0])
        _check_text(f"the document of pair {index}", pair[1])
        queries.append(pair[0])
        texts.append(pair[1])
    return queries[0] if len(set(queries)) == 1 else queries, texts


def distinct(queries: Sequence[str] | None, texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """The pairs that differ, so that equal ones are scored once.

    Args:
        queries: one for each text; None: all texts have the same.
        texts: the documents.

    Returns:
        The index of the first of equal pairs, in order; and for each pair, where in that list its own is.
    """
    seen: dict[object, int] = {}
    firsts: list[int] = []
    places: list[int] = []
    pairs: Iterable[object] = texts if queries is None else zip(queries, texts, strict=True)
    for index, pair in enumerate(pairs):
        place = seen.setdefault(pair, len(firsts))
        if place == len(firsts):
            firsts.append(index)
        places.append(place)
    return firsts, places


def each(what: str, items: Iterable[Item]) -> Iterator[Item]:
    """Iterate over what a caller gave.

    Raises:
        InputError: it is not iterable.
    """
    if not isinstance(items, Iterable):
        raise InputError(f"{what} is {items!r}; it must be a list")
    return iter(items)


def check_instruction(instruction: object) -> None:
    """Raise InputError unless an instruction is a string or None."""
    if instruction is not None:
        _check_text("instruction", instruction)


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"{what} is a {type(value).__name__}; it must be a string")


def _split_document(index: int, document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    text = document.get("text") if isinstance(document, Mapping) else None
    if not isinstance(text, str):
        kind = type(document).__name__
        raise InputError(
            f"document {index} is a {kind} without a text; "
            "it must be a string, or a mapping whose field 'text' is one"
        )
    return text, {key: value for key, value in document.items() if key != "text"}


def check_integer(name: str, value: object, least: int = 1, most: float = math.inf, hint: str = "") -> None:
    """Raise InputError unless a value is an integer from ``least`` to ``most``; numpy's integers are fine.

    Args:
        hint: what else is allowed, for the message.
    """
    # Python counts True as an integer.
    if not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most:
        return
    wanted = f"an integer of {least} or more" if most == math.inf else f"an integer from {least} to {most}"
    raise InputError(f"{name} is {value!r}; it must be {wanted}{hint}")


def check_number(name: str, value: object, allowed: Callable[[float], bool], wanted: str) -> None:
    """Raise InputError unless a value is an allowed number; ``wanted`` says in words which numbers are."""
    if not isinstance(value, bool) and isinstance(value, Real) and allowed(float(value)):
        return
    raise InputError(f"{name} is {value!r}; it must be {wanted}")
