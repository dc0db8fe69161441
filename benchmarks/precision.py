"""What bf16 and int8 cost against fp32, on real questions and candidates.

The files are those of training/prepare.py: a query, its documents and their labels a line.

    python benchmarks/precision.py build/training/data/eval/xquad.*.sentence.jsonl --questions 15
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank import Reranker

Logits = npt.NDArray[np.float32]


def kendall(left: Logits, right: Logits) -> float:
    """Share of pairs of documents in the same order, minus the share in the other (tau-a)."""
    i, j = np.triu_indices(len(left), 1)
    return float((np.sign(left[i] - left[j]) * np.sign(right[i] - right[j])).mean())


def ndcg(logits: Logits, labels: list[int]) -> float:
    """nDCG@10 of the order by logit, with the labels as gains."""
    discount = 1 / np.log2(np.arange(2, 12))
    gains = np.asarray(labels)[np.argsort(-logits, kind="stable")][:10]
    ideal = np.sort(labels)[::-1][:10]
    return float((gains * discount[: len(gains)]).sum() / (ideal * discount[: len(ideal)]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--questions", type=int, default=15, help="of each file")
    parser.add_argument("--model", default="crossrank-mini")
    parser.add_argument("--max-length", type=int, default=256)
    arguments = parser.parse_args()
    rows: list[Any] = []
    for path in arguments.files:
        with path.open(encoding="utf-8") as lines:
            rows += [json.loads(line) for line, _ in zip(lines, range(arguments.questions), strict=False)]
    pairs = [(row["query"], document) for row in rows for document in row["documents"]]
    ends = np.cumsum([len(row["documents"]) for row in rows])[:-1]
    print(f"{len(rows)} questions, {len(pairs)} pairs, {arguments.model}")
    exact: Logits | None = None
    for precision in ("fp32", "bf16", "int8"):
        reranker = Reranker(
            arguments.model, device="cpu", precision=precision, max_length=arguments.max_length
        )
        began = time.perf_counter()
        logits = reranker.logits(pairs)
        seconds = time.perf_counter() - began
        exact = logits if exact is None else exact
        parts = list(zip(np.split(exact, ends), np.split(logits, ends), strict=True))
        tau = np.mean([kendall(left, right) for left, right in parts])
        gain = np.mean([ndcg(part, row["labels"]) for (_, part), row in zip(parts, rows, strict=True)])
        difference = np.abs(logits - exact)
        print(
            f"{precision}: Kendall's tau {tau:.4f}, nDCG@10 {gain:.4f}, logits differ by "
            f"{difference.mean():.4f} on average and {difference.max():.4f} at most, {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
