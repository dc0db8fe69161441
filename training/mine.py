"""Step 4, before or during training: find the rivals of each query.

A rival is a right text of another group that the model scores higher than most others: it sounds like an
answer, is of the kind that the query asks for, or shares its words. Most random texts are easy to tell apart
from right ones, so mixture.py also uses rivals. Run this before training, and again when the model has learnt
to tell the last rivals apart.

    python -m training.mine --work build/training --model src/crossrank/bundled
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossrank import Reranker
from training import jsonl
from training.mixture import SHARES, right_text

QUERIES = {"reading": 1500, "public": 7000, "written": 6000}
"""Maximum number of queries per pile that get rivals; the others get random texts only."""

CANDIDATES = {"reading": 16, "public": 24, "written": 40}
"""Number of candidates per query, which are right texts of other groups."""

SAME_PILE = 0.6
"""Share of candidates from the query's own pile; the others come from any pile."""

KEPT = 8
"""Number of rivals per query."""

MAX_TOKENS = 128

BATCH = 200
"""Number of queries that are scored together."""

Scorer = Callable[[list[tuple[str, str]]], Any]


def mine(
    piles: Mapping[str, Sequence[Any]], score: Scorer, rng: random.Random, kept: int = KEPT
) -> Iterator[dict[str, Any]]:
    """Yield the rivals of the queries of each pile as ``{"query", "rivals"}``, highest score first."""
    texts = {name: [t for t in map(right_text, groups) if t is not None] for name, groups in piles.items()}
    for name, groups in piles.items():
        unique = {group["query"]: group for group in groups}
        chosen = rng.sample(list(unique.values()), min(len(unique), QUERIES[name]))
        for at in range(0, len(chosen), BATCH):
            part = chosen[at : at + BATCH]
            candidates = [_candidates(name, group, texts, rng) for group in part]
            flat = [
                (group["query"], text) for group, own in zip(part, candidates, strict=True) for text in own
            ]
            logits = np.asarray(score(flat))
            start = 0
            for group, own in zip(part, candidates, strict=True):
                found = logits[start : start + len(own)]
                start += len(own)
                best = np.argsort(-found, kind="stable")[:kept]
                yield {"query": group["query"], "rivals": [own[i] for i in best]}


def _candidates(name: str, group: Any, texts: dict[str, list[str]], rng: random.Random) -> list[str]:
    names = list(texts)
    count = CANDIDATES[name]
    drawn = [rng.choice(texts[name if rng.random() < SAME_PILE else rng.choice(names)]) for _ in range(count)]
    return [text for text in dict.fromkeys(drawn) if text not in group["texts"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--model", type=Path, default=Path("src/crossrank/bundled"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    folder = arguments.work / "data"
    piles = {name: list(jsonl.read(folder / f"{name}.jsonl")) for name in SHARES}
    with Reranker(arguments.model.absolute(), threads=arguments.threads, max_length=MAX_TOKENS) as reranker:
        rows = mine(piles, reranker.logits, random.Random(arguments.seed))
        print("queries with rivals", jsonl.write(folder / "rivals.jsonl", rows))


if __name__ == "__main__":
    main()
