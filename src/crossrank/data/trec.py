"""The formats of TREC: runs, relevance judgments (qrels), topics and documents.

https://github.com/usnistgov/trec_eval describes runs and qrels. Topics and documents are SGML that
is rarely well-formed XML (bare ``&``, unclosed fields), so they are read by their tags alone.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from pathlib import Path

from crossrank.data.lines import Advance, read_lines
from crossrank.data.rows import check_label
from crossrank.errors import InputError

__all__ = [
    "Qrels",
    "Run",
    "best_first",
    "kind_of",
    "read_documents",
    "read_qrels",
    "read_run",
    "read_run_queries",
    "read_topics",
]

Qrels = dict[str, dict[str, int]]
"""For each query, the judged documents and how relevant they are (0: not)."""

Run = dict[str, dict[str, float]]
"""For each query, its documents with their scores, best first."""

_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
# The names of TREC's topics' fields in front of their text, as in "<num> Number: 301".
_LABEL = re.compile(r"^\s*(?:Number|Topic|Description|Narrative)\s*:\s*", re.IGNORECASE)
_TITLES = "title|headline|head|hl|ti"
_NUMBER_AND_TITLE = re.compile(f"<(docno|{_TITLES})>.*?</\\1>", re.IGNORECASE | re.DOTALL)


def kind_of(path: Path) -> str:
    """What a file holds, by its first lines: "documents", "topics", "qrels", "run" or ""."""
    try:
        first = [line for (_, line), _ in zip(read_lines(path), range(20), strict=False)]
    except InputError:
        return ""
    text = "\n".join(first).lower()
    if "<doc>" in text or "<top>" in text:
        return "documents" if "<doc>" in text else "topics"
    columns = [_columns(line, 4, 6) for line in first]
    if columns and all(len(c) == 4 and _label(c[3]) is not None for c in columns):
        return "qrels"
    return "run" if columns and all(len(c) == 6 and c[1].lower() == "q0" for c in columns) else ""


def _columns(line: str, *widths: int) -> list[str]:
    """The columns of a line: tabs divide it where they make so many, so that ids may hold spaces."""
    columns = [column.strip() for column in line.split("\t")]
    return columns if len(columns) in widths and all(columns) else line.split()


def _label(text: str) -> int | None:
    """A whole number, which may be written as 1.0; None: it is none."""
    whole, _, fraction = text.partition(".")
    is_one = whole.removeprefix("-").isdecimal() and len(whole) < 20 and not fraction.strip("0")
    return int(whole) if is_one else None


def read_qrels(path: str | Path) -> Qrels:
    """Judgments: TREC's (query, iteration, document, label), or BEIR's (query, document, label; a header).

    Raises:
        InputError: the file cannot be read, a line is not as it should be, or none is there.
    """
    qrels: Qrels = {}
    width = 0
    for number, (place, line) in enumerate(read_lines(path)):
        columns = _columns(line, *((width,) if width else (3, 4)))
        if number == 0 and len(columns) == 3 and _label(columns[2]) is None:
            width = 3
            continue
        width = width or len(columns)
        if width not in (3, 4) or len(columns) != width:
            raise InputError(f"{place}: {len(columns)} columns; a judgment is: query, 0, document, label")
        query, document, label = columns[0], columns[-2], _label(columns[-1])
        if label is None:
            raise InputError(f"{place}: the label is {columns[-1]!r}; it must be a whole number")
        check_label(place, label)
        judged = qrels.setdefault(query, {})
        if judged.get(document, label) != label:
            raise InputError(f"{place}: document {document} of query {query} has two labels")
        judged[document] = label
    if not qrels:
        raise InputError(f"{path}: no judgments in it")
    return qrels


def read_run_queries(
    path: str | Path, advance: Advance | None = None
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(place, query, documents with their scores, best first), query after query.

    The rank column is not looked at, as by trec_eval; equal scores keep the file's order. The lines
    of a query must stand together, so that one query at a time is in memory; that a query comes
    back later is for the caller to find out.

    Raises:
        InputError: the file cannot be read, or a line is not as it should be.
    """
    began, current, scores = "", "", dict[str, float]()
    for place, line in read_lines(path, advance):
        columns = _columns(line, 6)
        if len(columns) != 6:
            raise InputError(
                f"{place}: {len(columns)} columns; a line of a run is: query, Q0, document, rank, score, tag"
            )
        query, _, document, _, score_text, _ = columns
        try:
            score = float(score_text)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            raise InputError(f"{place}: the score is {score_text!r}; it must be a number")
        if query != current:
            if scores:
                yield began, current, best_first(scores)
            began, current, scores = place, query, {}
        if document in scores:
            raise InputError(f"{place}: document {document} stands twice in query {query}")
        scores[document] = score
    if scores:
        yield began, current, best_first(scores)


def best_first(scores: dict[str, float]) -> dict[str, float]:
    """By score; equal scores keep their order."""
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def read_run(path: str | Path) -> Run:
    """A whole run.

    Raises:
        InputError: as ``read_run_queries``; a query's lines do not stand together; no line is there.
    """
    run: Run = {}
    for place, query, scores in read_run_queries(path):
        if query in run:
            raise InputError(f"{place}: query {query} was there before; a query's lines must stand together")
        run[query] = scores
    if not run:
        raise InputError(f"{path}: no line of a run in it")
    return run


def read_topics(path: str | Path) -> dict[str, str]:
    """Queries by their numbers: ``<top>`` with ``<num>`` and ``<title>``, or lines of number, tab, query.

    Raises:
        InputError: the file cannot be read, or a topic is not as it should be.
    """
    topics: dict[str, str] = {}
    first = next((line for _, line in read_lines(path)), "")
    found = _tsv_topics(path) if "\t" in first and "<" not in first else _sgml_topics(path)
    for place, number, query in found:
        if number in topics:
            raise InputError(f"{place}: the number {number} was there before")
        topics[number] = query
    if not topics:
        raise InputError(f"{path}: no topics in it")
    return topics


def _tsv_topics(path: str | Path) -> Iterator[tuple[str, str, str]]:
    for place, line in read_lines(path):
        number, tab, query = line.partition("\t")
        if not tab or not number.strip() or not query.strip():
            raise InputError(f"{place}: a line is a number, a tab and a query")
        yield place, number.strip(), query.strip()


def _sgml_topics(path: str | Path) -> Iterator[tuple[str, str, str]]:
    for place, block in _blocks(path, "top"):
        number, title = _open_field(block, "num"), _open_field(block, "title")
        if not number or not title:
            raise InputError(f"{place}: a topic without <{'title' if number else 'num'}>")
        yield place, number, title


def read_documents(path: str | Path) -> Iterator[tuple[str, str, str]]:
    """(place, number, text) of each ``<doc>``: its title and its text, or whatever fields it has.

    A title that the text begins with is not repeated.

    Raises:
        InputError: the file cannot be read, or a document has no ``<docno>``.
    """
    for place, block in _blocks(path, "doc"):
        number, title, body = (_field(block, names) for names in ("docno", _TITLES, "text"))
        if not number:
            raise InputError(f"{place}: a document without <docno>")
        if not body:
            body = _clean(_NUMBER_AND_TITLE.sub(" ", block))
        yield place, number, body if body.startswith(title) else f"{title} {body}"


def _blocks(path: str | Path, tag: str) -> Iterator[tuple[str, str]]:
    """What stands between <tag> and </tag>, and where it begins."""
    opening, closing = re.compile(f"<{tag}>", re.IGNORECASE), re.compile(f"</{tag}>", re.IGNORECASE)
    began, lines = "", list[str]()
    for place, line in read_lines(path):
        rest = line
        while rest:
            if not began:
                start = opening.search(rest)
                if start is None:
                    break
                began, rest = place, rest[start.end() :]
            end, again = closing.search(rest), opening.search(rest)
            if again and (end is None or again.start() < end.start()):
                raise InputError(f"{place}: <{tag}> within the one of {began}; its </{tag}> is missing")
            if end is None:
                lines.append(rest)
                break
            lines.append(rest[: end.start()])
            yield began, "\n".join(lines)
            began, lines, rest = "", [], rest[end.end() :]
    if began:
        raise InputError(f"{began}: <{tag}> without </{tag}>")


def _clean(text: str) -> str:
    """A text without tags and entities, its white space single."""
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _open_field(block: str, name: str) -> str:
    """A topic's field, which ends at the next tag: many topics close none."""
    found = re.search(f"<{name}>(.*?)(?=</?[a-z]|\\Z)", block, re.IGNORECASE | re.DOTALL)
    return _LABEL.sub("", _clean(found[1])) if found else ""


def _field(block: str, names: str) -> str:
    """A document's field, all of them joined where there are several; tags within are dropped."""
    found = re.finditer(f"<({names})>(.*?)</\\1>", block, re.IGNORECASE | re.DOTALL)
    return " ".join(_clean(field[2]) for field in found)
