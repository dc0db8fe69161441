r"""Test whether a reranker reads the query: pool, swap, junk, hard and unrelated texts, by kind and language.

    python -m training.judge --model crossrank-mini=src/crossrank/bundled

All measures except the scores are shares of queries:

- **right first**: a right text of the group ranks above its hard wrong texts and ten right texts of other
  groups.
- **unrelated first**: one of these ten texts ranks first.
- **pool**: the query's own right text ranks first among the right texts of about 110 groups.
- **swap**: for the query of another group, the right text still ranks above the wrong texts. A model that
  reads the query is near chance here (about 0.15); one that recognises right texts by their style is far
  above.
- **junk**: the model scores one of sixteen meaningless texts above the right text.
- **junk as ranked**: one of them still ranks above the right text when texts without a letter or digit come
  last, as they do in every ranking of CrossRank.
- **scores**: the mean scores of right, hard wrong and unrelated texts, and the balanced accuracy of a
  threshold of 0.5 between right and hard wrong texts.

BM25, the starting bi-encoder and the sum of their standardised scores are measured for comparison.
Intervals are 95 %, by bootstrap over the groups.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossrank.ranking import is_blank
from training import jsonl
from training.evaluate import bi_encoder, bm25, cross_encoder, fused, interval

Scores = np.ndarray[Any, Any]
Scorer = Callable[[str, list[str]], Scores]
UNRELATED = 10
BLOCK = 110
JUNK = [
    "", ".", "---", "| --- | --- | --- |", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "null", "0", "…",
    "Accept all cookies", "Skip to main content", "© 2023 All rights reserved.", "Share on Facebook",
    "版权所有，未经许可不得转载。", "上一篇 下一篇", "点击登录", "返回顶部",
]  # fmt: skip
READABLE = [i for i, text in enumerate(JUNK) if not is_blank(text)]
MEASURES = ("right first", "unrelated first", "pool", "swap", "junk", "junk as ranked")


def first(scores: Scores) -> int:
    """The index of the best score. A tie counts as a loss, so that constant scores never win."""
    order = np.argsort(-scores, kind="stable")
    return int(order[0]) if len(scores) == 1 or scores[order[0]] > scores[order[1]] else len(scores)


def judge(score: Scorer, groups: Sequence[Any], seed: int = 7) -> list[dict[str, Any]]:
    """Compute the measures and scores of each group, in order."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    blocks = np.array_split(np.arange(len(groups)), max(1, round(len(groups) / BLOCK)))
    block_of = {int(i): block for block in blocks for i in block}
    for number, group in enumerate(groups):
        others = rng.sample([i for i in range(len(groups)) if i != number], UNRELATED)
        right, wrong = group["right"], group["wrong"]
        texts = [*right, *wrong, *(groups[i]["right"][0] for i in others)]
        found = score(group["query"], texts)
        best, n, m = first(found), len(right), len(right) + len(wrong)
        # If there are two right texts, either may rank first; a tie between them is fine.
        is_right = max(found[:n]) > max(found[n:])
        pool = block_of[number]
        pooled = score(group["query"], [groups[i]["right"][0] for i in pool])
        swapped = score(groups[others[0]]["query"], [right[0], *wrong])
        junked = score(group["query"], JUNK)
        rows.append(
            {
                "right first": float(is_right),
                "unrelated first": float(best >= m),
                "pool": float(first(pooled) == list(pool).index(number)),
                "swap": float(first(swapped) == 0),
                "junk": float(max(junked) >= found[0]),
                "junk as ranked": float(max(junked[READABLE]) >= found[0]),
                "scores": [found[:n].tolist(), found[n:m].tolist(), found[m:].tolist()],
            }
        )
    return rows


def calibration(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Mean scores of right, wrong and unrelated texts; balanced accuracy of right against wrong at 0.5."""
    right, wrong, unrelated = (np.concatenate([row["scores"][i] for row in rows]) for i in range(3))
    means = [float((1 / (1 + np.exp(-x))).mean()) for x in (right, wrong, unrelated)]
    return means[0], means[1], means[2], float(((right > 0).mean() + (wrong < 0).mean()) / 2)


def report(found: dict[str, list[dict[str, Any]]], groups: Sequence[Any], subject: str) -> None:
    """Print the tables of training/README.md."""
    print("| | " + " | ".join(found) + " |\n|---|" + "---:|" * len(found))
    for measure in MEASURES:
        intervals = [interval([np.array([row[measure] for row in rows])]) for rows in found.values()]
        cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in intervals]
        print(f"| {measure} | " + " | ".join(cells) + " |")
    for key in ("kind", "lang"):
        parts: defaultdict[str, list[int]] = defaultdict(list)
        for i, group in enumerate(groups):
            parts[group[key]].append(i)
        print(
            f"\n| {key} | groups | right first | unrelated first | pool | swap "
            "| right, wrong, unrelated | at 0.5 |"
        )
        print("|---|" + "---:|" * 7)
        for name, places in sorted(parts.items()):
            chosen = [found[subject][i] for i in places]
            cells = [f"{np.mean([row[m] for row in chosen]):.2f}" for m in MEASURES[:4]]
            right, wrong, unrelated, balanced = calibration(chosen)
            cells += [f"{right:.2f}, {wrong:.2f}, {unrelated:.2f}", f"{balanced:.2f}"]
            print(f"| {name} | {len(places)} | " + " | ".join(cells) + " |")
    right, wrong, unrelated, balanced = calibration(found[subject])
    print(
        f"\nmean score: right {right:.3f}, wrong {wrong:.3f}, unrelated {unrelated:.3f}; "
        f"at 0.5: {balanced:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    parser.add_argument(
        "--groups", type=Path, nargs="+", default=[here / "held_out"], help="files or folders"
    )
    parser.add_argument(
        "--model", nargs="*", default=["crossrank-mini=src/crossrank/bundled"], help="NAME=FOLDER"
    )
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--baselines", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most", type=int, help="maximum number of groups, evenly spread")
    parser.add_argument("--json", type=Path, help="file to save the measures of each group to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = [
        f for path in arguments.groups for f in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    ]
    groups = [row for file in files for row in jsonl.read(file)]
    if arguments.most:
        groups = groups[:: max(1, len(groups) // arguments.most)]
    scorers: dict[str, Scorer] = {}
    if arguments.baselines:
        e5 = bi_encoder(arguments.work / "start" / "model", "query: ", "passage: ")
        scorers = {"BM25": bm25, "e5-small": e5}
        scorers["e5-small + BM25"] = lambda query, texts: fused(e5(query, texts), bm25(query, texts))
    for item in arguments.model:
        name, path = item.split("=", 1)
        scorers[name] = cross_encoder(Path(path), arguments.precision, arguments.threads)
    found = {name: judge(scorer, groups) for name, scorer in scorers.items()}
    print(len(groups), "groups")
    report(found, groups, list(found)[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
