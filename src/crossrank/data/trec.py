"""TREC's formats: runs, relevance judgments (qrels), topics and documents.

https://github.com/usnistgov/trec_eval describes runs and qrels. Topics and documents are SGML that is rarely
well-formed XML (bare ``&``, unclosed fields), so only their tags are looked for.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator
from pathlib import Path

from crossrank.data.lines import UTF_8, Advance, read_lines
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
"""For each query, the judged documents and their relevance; 0 means not relevant."""

Run = dict[str, dict[str, float]]
"""For each query, its documents with their scores, best first."""

_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
# Field names that TREC repeats before the text of a topic's fields, as in "<num> Number: 301".
_LABEL = re.compile(r"^\s*(?:Number|Topic|Description|Narrative)\s*:\s*", re.IGNORECASE)
_TITLES = "title|headline|head|hl|ti"
_NUMBER = re.compile(r"<topic\s[^>]*?\bnumber\s*=\s*[\"']([^\"'>]+)", re.IGNORECASE)
_NUMBER_AND_TITLE = re.compile(f"<(docno|{_TITLES})>.*?</\\1>", re.IGNORECASE | re.DOTALL)


def kind_of(path: Path, encoding: str = UTF_8) -> str:
    """The kind of a file, by its first lines: "documents", "topics", "qrels" or "run"; "" if unknown."""
    try:
        first = [line for (_, line), _ in zip(read_lines(path, encoding=encoding), range(20), strict=False)]
    except InputError:
        return ""
    text = "\n".join(first).lower()
    if "<doc>" in text or _is_table_of_documents(path):
        return "documents"
    if "<top>" in text or _NUMBER.search(text):
        return "topics"
    columns = [_columns(line, 4, 6) for line in first]
    if columns and all(len(c) == 4 and _label(c[3]) is not None for c in columns):
        return "qrels"
    return "run" if columns and all(len(c) == 6 and c[1].lower() == "q0" for c in columns) else ""


def _is_table_of_documents(path: Path) -> bool:
    """Whether a file is MS MARCO's collection.tsv, whose lines look like topics."""
    return path.name.startswith("collection.tsv")


def _columns(line: str, *widths: int) -> list[str]:
    """The columns of a line. If tabs split it into one of ``widths``, ids may have spaces."""
    columns = [column.strip() for column in line.split("\t")]
    return columns if len(columns) in widths and all(columns) else line.split()


def _label(text: str) -> int | None:
    """A whole number, which may be written as 1.0; None if the text is not one."""
    whole, _, fraction = text.partition(".")
    is_whole = whole.removeprefix("-").isdecimal() and len(whole) < 20 and not fraction.strip("0")
    return int(whole) if is_whole else None


def read_qrels(path: str | Path, encoding: str = UTF_8) -> Qrels:
    """Read judgments in TREC's form (query, iteration, document, label) or BEIR's.

    BEIR's form has a header and lines of (query, document, label).

    Raises:
        InputError: the file cannot be read, has no judgments, or a line is malformed.
    """
    qrels: Qrels = {}
    width = 0
    for number, (place, line) in enumerate(read_lines(path, encoding=encoding)):
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
        raise InputError(f"{path}: the file has no judgments")
    return qrels


def read_run_queries(
    path: str | Path, advance: Advance | None = None, encoding: str = UTF_8
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Read a run query by query: yields (place, query, scores by document, best first).

    Like trec_eval, it ignores the rank column; equal scores keep the file's order. Only one query is in
    memory at a time, so the lines of a query must be consecutive. The caller must check whether a query
    comes again later.

    Raises:
        InputError: the file cannot be read, or a line is malformed.
    """
    began, current, scores = "", "", dict[str, float]()
    for place, line in read_lines(path, advance, encoding):
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
            raise InputError(f"{place}: document {document} appears twice for query {query}")
        scores[document] = score
    if scores:
        yield began, current, best_first(scores)


def best_first(scores: dict[str, float]) -> dict[str, float]:
    """Sort documents by score, the highest first; equal scores keep their order."""
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def read_run(path: str | Path, encoding: str = UTF_8) -> Run:
    """Read a whole run.

    Raises:
        InputError: the file cannot be read or is empty, a line is malformed, or a query's lines are not
            consecutive.
    """
    run: Run = {}
    for place, query, scores in read_run_queries(path, encoding=encoding):
        if query in run:
            raise InputError(
                f"{place}: query {query} appeared before; all lines of a query must be consecutive"
            )
        run[query] = scores
    if not run:
        raise InputError(f"{path}: the file has no lines of a run")
    return run


def read_topics(path: str | Path, encoding: str = UTF_8) -> dict[str, str]:
    """Read queries by number.

    A topic is ``<top>`` with ``<num>`` and ``<title>``, ``<topic number="1">`` with ``<query>`` (TREC-COVID),
    or a line of number, tab and query.

    Raises:
        InputError: the file cannot be read, has no topics, or a topic is malformed.
    """
    topics: dict[str, str] = {}
    first = next((line for _, line in read_lines(path, encoding=encoding)), "")
    read = _tsv_topics if "\t" in first and "<" not in first else _sgml_topics
    for place, number, query in read(path, encoding):
        if number in topics:
            raise InputError(f"{place}: the number {number} appeared before")
        topics[number] = query
    if not topics:
        raise InputError(f"{path}: the file has no topics")
    return topics


def _tsv_topics(path: str | Path, encoding: str) -> Iterator[tuple[str, str, str]]:
    for place, line in read_lines(path, encoding=encoding):
        number, tab, query = line.partition("\t")
        if not tab or not number.strip() or not query.strip():
            raise InputError(f"{place}: a line is a number, a tab and a query")
        yield place, number.strip(), query.strip()


def _sgml_topics(path: str | Path, encoding: str) -> Iterator[tuple[str, str, str]]:
    for place, block in _blocks(path, "topic", encoding):
        attribute, query = _NUMBER.match(block), _open_field(block, "query")
        if not attribute or not query:
            raise InputError(f"{place}: the topic has no {'<query>' if attribute else 'number'}")
        yield place, attribute[1].strip(), query
    for place, block in _blocks(path, "top", encoding):
        number, title = _open_field(block, "num"), _open_field(block, "title")
        if not number or not title:
            raise InputError(f"{place}: the topic has no <{'title' if number else 'num'}>")
        yield place, number, title


def read_documents(path: str | Path, encoding: str = UTF_8) -> Iterator[tuple[str, str, str]]:
    """Read documents: yields (place, number, text) of each ``<doc>``, or of each line of a collection.tsv.

    The text is the title and the text field; without a text field, it is all fields. A title is left out if
    the text begins with it.

    Raises:
        InputError: the file cannot be read, or a document has no ``<docno>``.
    """
    if _is_table_of_documents(Path(path)):
        for place, line in read_lines(path, encoding=encoding):
            number, tab, text = line.partition("\t")
            if not tab or not number.strip():
                raise InputError(f"{place}: a line is a number, a tab and a text")
            yield place, number.strip(), text.strip()
        return
    for place, block in _blocks(path, "doc", encoding):
        number, title, body = (_field(block, names) for names in ("docno", _TITLES, "text"))
        if not number:
            raise InputError(f"{place}: the document has no <docno>")
        if not body:
            body = _clean(_NUMBER_AND_TITLE.sub(" ", block))
        yield place, number, body if body.startswith(title) else f"{title} {body}"


def _blocks(path: str | Path, tag: str, encoding: str) -> Iterator[tuple[str, str]]:
    """(place, text) of each block from <tag> to </tag>; the place is where the block begins."""
    opening = re.compile(f"<{tag}(?:\\s[^>]*)?>", re.IGNORECASE)
    closing = re.compile(f"</{tag}>", re.IGNORECASE)
    began, lines = "", list[str]()
    for place, line in read_lines(path, encoding=encoding):
        rest = line
        while rest:
            if not began:
                start = opening.search(rest)
                if start is None:
                    break
                began, lines, rest = place, [start[0]], rest[start.end() :]
            end, again = closing.search(rest), opening.search(rest)
            if again and (end is None or again.start() < end.start()):
                raise InputError(f"{place}: <{tag}> inside the one of {began}, whose </{tag}> is missing")
            if end is None:
                lines.append(rest)
                break
            lines.append(rest[: end.start()])
            yield began, "\n".join(lines)
            began, lines, rest = "", [], rest[end.end() :]
    if began:
        raise InputError(f"{began}: <{tag}> without </{tag}>")


def _clean(text: str) -> str:
    """A text without tags, with entities decoded and white space reduced to single spaces."""
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _open_field(block: str, name: str) -> str:
    """A topic's field. It ends at the next tag, since many topics do not close their fields."""
    found = re.search(f"<{name}>(.*?)(?=</?[a-z]|\\Z)", block, re.IGNORECASE | re.DOTALL)
    return _LABEL.sub("", _clean(found[1])) if found else ""


def _field(block: str, names: str) -> str:
    """A document's fields with one of the names, joined, without tags inside them."""
    found = re.finditer(f"<({names})>(.*?)</\\1>", block, re.IGNORECASE | re.DOTALL)
    return " ".join(_clean(field[2]) for field in found)
