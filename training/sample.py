"""Choose the default questions of ``crossrank verify`` from the evaluation sets.

python -m training.sample --eval build/training/data/eval --out src/crossrank/evaluation/verify.jsonl
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training import jsonl

# XQuAD, CMRC 2018 and JSQuAD are under CC BY-SA 4.0; see NOTICE. Training has not seen these articles.
QUESTIONS = {
    "xquad.zh": 3,
    "cmrc2018.dev": 3,
    "xquad.en": 5,
    "jsquad.valid": 2,
    "xquad.de": 2,
    "xquad.es": 1,
    "xquad.vi": 1,
    "xquad.ar": 1,
    "xquad.ru": 1,
}
CANDIDATES = 12


def choose(rows: list[Any], count: int) -> list[Any]:
    """Choose ``count`` questions spread over a set, each with its answers and the first other candidates."""
    chosen = []
    for row in rows[:: len(rows) // count][:count]:
        places = sorted(range(len(row["documents"])), key=lambda i: -row["labels"][i])[:CANDIDATES]
        documents, labels = zip(
            *((row["documents"][i], row["labels"][i]) for i in sorted(places)), strict=True
        )
        chosen.append({"query": row["query"], "documents": documents, "labels": labels})
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eval", type=Path, default=Path("build/training/data/eval"))
    parser.add_argument("--out", type=Path, default=Path("src/crossrank/evaluation/verify.jsonl"))
    arguments = parser.parse_args()
    rows: list[Any] = []
    for name, count in QUESTIONS.items():
        rows += choose(jsonl.read(arguments.eval / f"{name}.sentence.jsonl"), count)
    print(jsonl.write(arguments.out, rows), "questions,", arguments.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
