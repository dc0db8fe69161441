"""Check written groups: their form, duplicate queries, and features that give the right text away.

    python -m training.check_written training/written/*.jsonl

Such a feature is a property of the text alone, or its overlap with the query, that separates right from
wrong texts: length, digits, question marks. For each feature, the script prints the share of (right, wrong)
pairs in which the right text has more of it. Ties count half, so 0.5 means that the feature tells nothing.
The exit code is 1 if a group is malformed or two groups have the same query.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = {
    "title", "passage", "indirect", "faq", "product", "docs", "code", "medicine", "law", "finance",
    "numbers", "entity", "table", "long", "paraphrase", "cross",
}  # fmt: skip
WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_]+")


def words(text: str) -> set[str]:
    """The case-folded words of a text; for scripts without spaces, its characters."""
    return set(WORD.findall(text.casefold()))


def overlap(query: str, text: str) -> float:
    """The share of the query's words that occur in the text."""
    asked = words(query)
    return len(asked & words(text)) / max(1, len(asked))


def faults(row: Any) -> list[str]:
    """Problems with the form of a group, as messages."""
    if not isinstance(row, dict) or set(row) != {"kind", "lang", "query", "right", "wrong"}:
        return ["must have exactly kind, lang, query, right and wrong"]
    found = []
    if row["kind"] not in KINDS:
        found.append(f"unknown kind {row['kind']!r}")
    texts = [*row["right"], *row["wrong"]]
    if not all(isinstance(text, str) and text.strip() for text in [row["query"], *texts]):
        found.append("an empty text")
    if len(set(texts)) < len(texts):
        found.append("a duplicate text")
    if not 1 <= len(row["right"]) <= 2:
        found.append(f"{len(row['right'])} right texts, not 1 or 2")
    if not 5 <= len(row["wrong"]) <= 7:
        found.append(f"{len(row['wrong'])} wrong texts, not 5 to 7")
    return found


def signs(rows: list[Any]) -> dict[str, float]:
    """For each feature, the share of pairs in which the right text has more of it."""
    measures: dict[str, Callable[[str, str], float]] = {
        "overlap with the query": lambda query, text: overlap(query, text),
        "length": lambda _, text: len(text),
        "digits": lambda _, text: sum(c.isdigit() for c in text),
        "question marks": lambda _, text: text.count("?") + text.count("？"),
        "exclamation marks": lambda _, text: text.count("!") + text.count("！"),
    }
    shares = {}
    for name, measure in measures.items():
        wins = total = 0.0
        for row in rows:
            for right in row["right"]:
                for wrong in row["wrong"]:
                    a, b = measure(row["query"], right), measure(row["query"], wrong)
                    wins += 1.0 if a > b else 0.5 if a == b else 0.0
                    total += 1
        shares[name] = wins / max(1.0, total)
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    rows: list[Any] = []
    bad = 0
    seen: dict[str, str] = {}
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
                wrong = faults(row)
            except ValueError as error:
                wrong = [f"not JSON: {error}"]
            if not wrong and row["query"] in seen:
                wrong = [f"same query as {seen[row['query']]}"]
            if wrong:
                bad += 1
                print(f"{where}: {'; '.join(wrong)}")
                continue
            seen[row["query"]] = where
            rows.append(row)
    print(len(rows), "groups;", dict(Counter(row["lang"] for row in rows)))
    print(dict(Counter(row["kind"] for row in rows)))
    for name, share in signs(rows).items():
        print(f"  {name}: {share:.2f}")
    low = sum(overlap(row["query"], right) < 0.5 for row in rows for right in row["right"])
    count = sum(len(row["right"]) for row in rows)
    print(f"  right texts with less than half of the query's words: {low / max(1, count):.2f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
