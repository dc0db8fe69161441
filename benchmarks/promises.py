"""The promises that take less than ten minutes to measure together; exits 1 where one is broken.

    python -m benchmarks.promises            # on an idle machine
    python -m benchmarks.promises help agreement

- ``help``: how long ``crossrank --help`` takes.
- ``agreement``: bf16 and int8 against fp32, with crossrank-mini on the texts of ``crossrank verify``.
- ``server``: throughput, fairness and refusals, by benchmarks/serving.py; four minutes.
- ``rivals``: ModernBERT-base's and Qwen3-Reranker-0.6B's shapes against what benchmarks/results/ keeps of the
  other engines on this machine; two minutes once their checkpoints are in build/peers (3 GB). It needs the
  data sets.
- ``model``: start, memory and share of the int8 peak on v2-m3's shape, by benchmarks/peers.py; four minutes
  once its checkpoint is in build/peers (2.3 GB, written the first time). It needs the data sets.

Agreement with transformers is a test (tests/parity/), and so is the quality of crossrank-mini
(tests/test_bundled.py). Comparing with other engines takes hours: ``python -m benchmarks.peers`` does it, and
exits 1 where CrossRank is not as much faster as promised.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from benchmarks import limits
from crossrank import Reranker
from crossrank.engines import Precision
from crossrank.evaluation.verify import sample_questions, verify

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def of_help() -> int:
    """The median of seven starts."""
    command = [str(Path(sys.executable).with_name("crossrank")), "--help"]
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
    return limits.report([limits.HELP.check(statistics.median(seconds), limits.row())])


def _load(precision: str) -> Reranker:
    return Reranker(precision=cast(Precision, precision))


def of_agreement() -> int:
    """What the precisions cost on real weights and real texts."""
    found = verify(_load, sample_questions(), list(limits.TAU))
    verdicts = []
    for cost in found.costs:
        assert cost.tau is not None
        assert cost.ndcg is not None
        assert found.ndcg is not None
        verdicts.append(limits.TAU[cost.precision].check(cost.tau, limits.row()))
        verdicts.append(limits.NDCG[cost.precision].check(abs(cost.ndcg - found.ndcg), limits.row()))
    return limits.report(verdicts)


def run(module: str, *arguments: str) -> int:
    """Another benchmark, which holds its figures against the same limits."""
    return subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode


def of_server() -> int:
    parts = ("--parts", "throughput,fairness,overload", "--overload-seconds", "60")
    return run("benchmarks.serving", *parts)


def of_model() -> int:
    return of_shapes("v2-m3-shape", "--rounds", "3")  # one alone varies by 3 %, as much as a promise leaves


def of_rivals() -> int:
    return of_shapes("modernbert-base-shape", "qwen3-reranker-0.6b-shape", "--brief", "--rounds", "1")


def of_shapes(*arguments: str) -> int:
    """Random weights of published shapes, CrossRank alone."""
    if not DATA.is_dir():
        print(f"-       {arguments[0]} was not measured: the data sets are not in {DATA}")
        return 0
    return run("benchmarks.peers", "--sides", "CrossRank int8", "--models", *arguments)


PROMISES: dict[str, Callable[[], int]] = {
    "help": of_help,
    "agreement": of_agreement,
    "server": of_server,
    "model": of_model,
    "rivals": of_rivals,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("promises", nargs="*", help=f"of {', '.join(PROMISES)}; default: all")
    chosen = parser.parse_args().promises or list(PROMISES)
    unknown = set(chosen) - set(PROMISES)
    if unknown:
        parser.error(f"no such promise: {', '.join(sorted(unknown))}")
    row = limits.row()
    print(f"This machine's row: {row or 'none'}")
    broken = [name for name in chosen if PROMISES[name]()]
    if broken:
        raise SystemExit(f"broken: {', '.join(broken)}")


if __name__ == "__main__":
    main()
