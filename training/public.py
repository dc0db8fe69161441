"""Make queries and right texts from the sampled and cleaned public data in ``../shared/data``.

Each folder gives examples of what people search for: keywords with a section or a page's title, questions
with answers, descriptions with code, headings with articles of a law, titles with abstracts, and utterances
with others of the same meaning. If the data has a text in two languages, query and text may be in different
ones. A row's ``group`` (page, law or intent) decides whether it is held out, so that no page is used for
both training and evaluation, in any language.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COUNTS = {
    "docs-zh": 4500,
    "docs-en": 3500,
    "docs-multi": 3500,
    "support-docs": 4000,
    "faq": 4500,
    "page-cards": 4000,
    "intents": 3500,
    "code": 4500,
    "qa": 5000,
    "laws": 3000,
    "abstracts": 2000,
    "titles": 4000,
}
"""Number of training examples per folder."""

HELD = 60
"""Number of held-out examples per folder."""

TEXT_CHARACTERS = 1200
"""Longer texts are truncated to this length, which is at least 250 tokens."""

SITES = ["文档中心", "帮助中心", "开发者社区", "博客", "Docs", "Help Center", "Blog", "Knowledge Base"]
_CLAUSE = re.compile(r"[，。；：、,.;:\n（）()]+")


@dataclass(frozen=True)
class Example:
    """A query and a right text for it."""

    folder: str
    lang: str
    query: str
    text: str
    group: str
    """The page, law or intent; other texts of the same group may be right too."""


def read(data: Path, folder: str) -> list[Any]:
    """Read the rows of a folder."""
    with gzip.open(data / folder / f"{folder}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def held_out(group: str) -> bool:
    """Whether a page, law or intent is held out for evaluation; one in ten is, by the hash of its name."""
    return hashlib.sha256(group.encode()).digest()[0] % 10 == 0


def first_sentence(text: str) -> str:
    """The first sentence of a text, at most 200 characters."""
    return re.split(r"(?<=[。！？!?])|(?<=\.)\s|\n", text.strip(), maxsplit=1)[0].strip()[:200]


def keywords_of(title: str) -> str:
    """A title path as a user would type it: page and heading, without the path between them."""
    parts = [part.strip() for part in title.split(" > ")]
    leaf = parts[-1]
    if len(parts) == 1 or len(leaf) > 24:
        return leaf
    page = parts[0]
    return leaf if leaf.startswith(page) else f"{page} {leaf}"


def clause_of(text: str, rng: random.Random) -> tuple[str, str] | None:
    """A clause of a text and the text without it, or None if no clause has the length of a query."""
    clauses = [clause.strip() for clause in _CLAUSE.split(text)]
    chosen = [clause for clause in clauses if len(clause.encode()) >= 12 and len(clause) <= 60]
    if len(chosen) < 2:
        return None
    clause = rng.choice(chosen)
    return clause, text.replace(clause, "", 1)


def question_of(row: Any, by_id: dict[str, Any], rng: random.Random) -> tuple[str, str] | None:
    """A query for a row and the right text, or None if the row gives no query."""
    folder, text, title = row["folder"], row["passage"], row.get("title", "")
    other = by_id.get(row.get("parallel", ""))
    if other is not None and other["lang"] != row["lang"] and rng.random() < 0.35:
        # Take the question or title of the same text in another language.
        query = other.get("query") or keywords_of(other.get("title", ""))
        return (query, text) if query else None
    if folder in ("faq", "qa", "code"):
        return row["query"], text
    if folder == "abstracts":
        return (title, text) if rng.random() < 0.7 else (first_sentence(text), title)
    if folder == "laws":
        if "query" in row and rng.random() < 0.7:
            return f"{title.split(' > ')[0]} {row['query']}" if rng.random() < 0.5 else row["query"], text
        found = clause_of(text, rng)
        return None if found is None else (found[0], found[1] if rng.random() < 0.6 else text)
    if folder in ("page-cards", "titles"):
        head, _, rest = text.partition("\n")
        draw = rng.random()
        if "query" in row and draw < 0.5:
            return row["query"], text
        if rest and title:
            return (title, rest) if draw < 0.75 else (first_sentence(rest), f"{head} - {rng.choice(SITES)}")
        name, dash, about = text.partition(" - ")
        if dash and about:
            return (about, name) if draw < 0.75 else (name, about)
        return (title, text) if title and title != text else None
    # Sections of documentation and support pages.
    draw = rng.random()
    if "query" in row and draw < 0.4:
        return row["query"], text
    if draw < 0.75:
        return keywords_of(title), text
    if draw < 0.88:
        return first_sentence(text), f"{' - '.join(reversed(title.split(' > ')))} | {rng.choice(SITES)}"
    found = clause_of(text, rng)
    return None if found is None else (found[0], found[1])


def paraphrases(rows: list[Any], rng: random.Random) -> Iterator[Example]:
    """Yield pairs of utterances of one intent; in one case of five the second is the intent's name."""
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    while True:
        group = rng.choice(list(groups))
        if len(groups[group]) < 2:
            continue
        a, b = rng.sample(groups[group], 2)
        text = a["title"] if "title" in a and rng.random() < 0.2 else b["passage"]
        yield Example("intents", a["lang"], a["passage"], text, group)


def examples(data: Path, folder: str, held: bool, rng: random.Random) -> list[Example]:
    """Training or held-out examples of a folder, up to COUNTS or HELD, spread over its sources."""
    rows = [row | {"folder": folder} for row in read(data, folder)]
    by_id = {row["id"]: row for row in rows}
    rows = [row for row in rows if held_out(row["group"]) == held]
    count = HELD if held else COUNTS[folder]
    if folder == "intents":
        drawn = paraphrases(rows, rng)
        return [next(drawn) for _ in range(count)]
    # Take rows from each source and language in turn, so that none dominates.
    piles: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        piles[row["id"].split(":", 1)[0], row["lang"]].append(row)
    for pile in piles.values():
        rng.shuffle(pile)
    found: list[Example] = []
    seen: set[str] = set()
    while piles and len(found) < count:
        for key in list(piles):
            row = piles[key].pop()
            if not piles[key]:
                del piles[key]
            asked = question_of(row, by_id, rng)
            if asked is None:
                continue
            query, text = asked[0].strip(), asked[1].strip()[:TEXT_CHARACTERS]
            if len(query) < 2 or len(text) < 2 or query == text or query in seen:
                continue
            seen.add(query)
            found.append(Example(folder, row["lang"], query[:300], text, row["group"]))
    return found[:count]
