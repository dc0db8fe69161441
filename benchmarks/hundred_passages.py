"""How long crossrank-mini takes for a query and 100 passages, pairs of 128 tokens, tokenising included.

The passages are those of ``crossrank verify``, joined until each pair fills 128 tokens.

    python -m benchmarks.hundred_passages --precision int8
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.resources import files

from crossrank import Reranker

TOKENS = 128
PASSAGES = 100
REPEATS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="crossrank-mini")
    parser.add_argument("--precision", default="int8")
    arguments = parser.parse_args()
    lines = files("crossrank.evaluation").joinpath("verify.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines for text in json.loads(line)["documents"]]
    query = json.loads(lines[0])["query"]
    passages = [" ".join(texts[(i + j) % len(texts)] for j in range(12)) for i in range(PASSAGES)]
    reranker = Reranker(arguments.model, precision=arguments.precision, max_length=TOKENS)
    # Every passage is longer than its room, so that every pair is cut to the same length.
    if not all(hit.truncated for hit in reranker.rank(query, passages)):
        raise SystemExit("a passage is too short")
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        reranker.rank(query, passages)
        seconds.append(time.perf_counter() - began)
    print(
        f"{arguments.model}, {arguments.precision}: {PASSAGES} passages of {TOKENS} tokens in "
        f"{statistics.median(seconds):.3f} s (median of {REPEATS}; {min(seconds):.3f} to {max(seconds):.3f})"
    )


if __name__ == "__main__":
    main()
