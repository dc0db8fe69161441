"""One side of the contest in a process of its own: ``python -m benchmarks.contest.worker TASK.json``.

The task says which side, where the checkpoint and the workloads are, and how long to measure; what was
measured is written beside it. Nothing else runs in the process, so its start and its memory are the side's.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, by_prefix
from benchmarks.contest.workloads import Workload, Workloads

SIDES = {
    "CrossRank int8": "crossrank_sides.CrossRankInt8",
    "CrossRank int8, nothing shared": "crossrank_sides.CrossRankInt8Whole",
    "CrossRank bf16": "crossrank_sides.CrossRankBf16",
    "CrossRank fp32": "crossrank_sides.CrossRankFp32",
    "transformers fp32": "torch_sides.TransformersFp32",
    "transformers bf16": "torch_sides.TransformersBf16",
    "transformers bf16, shared prefix": "torch_sides.TransformersBf16Shared",
    "sentence-transformers torch": "sentence_transformers_sides.CrossEncoderTorch",
    "sentence-transformers ONNX int8": "sentence_transformers_sides.CrossEncoderOnnx",
    "sentence-transformers OpenVINO int8": "sentence_transformers_sides.CrossEncoderOpenVino",
    "ONNX Runtime int8 dynamic": "onnx_sides.OnnxRuntimeInt8",
    "OpenVINO bf16": "openvino_sides.OpenVinoBf16",
    "OpenVINO int8 dynamic": "openvino_sides.OpenVinoDynamic",
    "OpenVINO int8 static": "openvino_sides.OpenVinoStatic",
    "CTranslate2 int8": "ctranslate2_sides.CTranslate2Int8",
    "llama.cpp Q8_0": "llama_sides.LlamaCppQ8",
    "llama.cpp Q8_0, shared prefix": "llama_sides.LlamaCppQ8Shared",
    "llama.cpp Q4_K_M": "llama_sides.LlamaCppQ4",
    "fastembed int8": "fastembed_sides.FastembedInt8",
    "fastretrieval int8": "fastembed_sides.FastretrievalInt8",
}
CALIBRATED = ("sentence-transformers OpenVINO int8", "OpenVINO int8 static")
"""Sides whose int8 needs calibration data."""
TRIAL_SECONDS = 4.0
"""A larger batch is not tried where it would take longer."""
WARM_SECONDS = 8.0
"""A pass over all mixed lengths that takes longer counts as it is; after a shorter one, the next counts."""


def side_class(name: str) -> type[Side]:
    module, _, attribute = SIDES[name].partition(".")
    found: type[Side] = getattr(importlib.import_module(f"benchmarks.contest.{module}"), attribute)
    return found


@dataclass
class Task:
    """What a worker is asked.

    Attributes:
        action: "convert" or "measure".
        side: a name of SIDES.
        threads: cores to use.
        seconds: of each cell, at least.
        cells: workloads to measure.
        batches: pairs of a batch for each workload, found before; a workload that is not there is tried.
        logits: where the logits of the mixed lengths are kept.
    """

    action: str
    side: str
    checkpoint: str
    work: str
    workloads: str
    threads: int
    seconds: float
    cells: list[str]
    batches: dict[str, int]
    logits: str


def memory_mb(field: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def timed(side: Side, batches: Sequence[Batch], seconds: float) -> float:
    """Pairs a second: batches in turn, for at least so long."""
    # Sides that work on several batches at once get enough of them to stay busy.
    group = 1 if side.flight == 1 else 2 * side.flight
    turn = cycle(batches)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        some = list(islice(turn, group))
        side.run(some)
        done += sum(map(len, some))
    return done / (time.perf_counter() - began)


def batches_of(side: Side, pairs: Sequence[Pair], size: int) -> list[list[Pair]]:
    return [[pairs[i] for i in indices] for indices in side.plan(pairs, size)]


def warm(side: Side, batches: Sequence[Batch]) -> None:
    """One batch on each of the side's places."""
    side.run([batches[0]] * side.flight)


def best_size(side: Side, workload: Workload) -> int:
    """The batch size with which a side is fastest, tried from the smallest."""
    rates: dict[int, float] = {}
    for size in side.batch_sizes:
        batches = batches_of(side, workload.pairs, size)
        if rates and len(batches[0]) <= max(rates):
            break  # there are no more pairs
        if rates and len(batches[0]) / max(rates.values()) > TRIAL_SECONDS:
            break
        if len(side.batch_sizes) > 1:
            warm(side, batches)
            rates[len(batches[0])] = timed(side, batches, 0.7)
        else:
            return size
    return max(rates, key=lambda size: rates[size])


def equal_rate(side: Side, workload: Workload, size: int, seconds: float) -> float:
    batches = batches_of(side, workload.pairs, size)
    # The last: an engine that keeps what it computed for a query gains nothing for the first.
    warm(side, batches[-1:])
    return timed(side, batches, seconds)


def mixed_pass(side: Side, workload: Workload, size: int) -> tuple[float, npt.NDArray[np.float32]]:
    """Seconds, and the logits in the pairs' order."""
    began = time.perf_counter()
    plan = side.plan(workload.pairs, size)
    logits = np.empty(len(workload.pairs), np.float32)
    found = side.run([[workload.pairs[i] for i in indices] for indices in plan])
    for indices, values in zip(plan, found, strict=True):
        logits[indices] = values
    return time.perf_counter() - began, logits


def mixed_rate(
    side: Side, workload: Workload, sizes: Sequence[int], seconds: float
) -> tuple[float, int, npt.NDArray[np.float32]]:
    """Pairs a second of whole passes, the batch size, and the logits."""
    best = (float("inf"), sizes[0])
    for size in sizes:
        spent, logits = mixed_pass(side, workload, size)
        if spent < WARM_SECONDS:
            spent, logits = mixed_pass(side, workload, size)
        best = min(best, (spent, size))
        if spent > WARM_SECONDS:
            break
    spent, size = best
    if len(sizes) > 1 and spent > WARM_SECONDS:
        return len(workload.pairs) / spent, size, logits
    passes, total = 1, spent
    while total < seconds:
        spent, logits = mixed_pass(side, workload, size)
        passes, total = passes + 1, total + spent
    return passes * len(workload.pairs) / total, size, logits


def latency_ms(side: Side, pairs: Sequence[Pair], seconds: float) -> float:
    """Milliseconds of one pair alone, the median; a decoder's are of different queries."""
    singles = [pairs[group[0]] for group in by_prefix(pairs)]
    side.logits(singles[-1:])
    times: list[float] = []
    end = time.perf_counter() + seconds
    turn = cycle(singles)
    while time.perf_counter() < end or len(times) < 3:
        pair = next(turn)
        began = time.perf_counter()
        side.logits([pair])
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def measure(side: Side, task: Task, workloads: Workloads, born: float) -> dict[str, Any]:
    """All of one process; ``born``: the time.time() at which it was started."""
    began = time.time()
    side.load()
    loaded = time.time()
    first = workloads.timed[0].pairs[0]
    side.max_length = workloads.timed[0].window
    side.logits([first])
    found: dict[str, Any] = {
        "load_seconds": loaded - began,
        "start_seconds": time.time() - born,
        "latency_ms": latency_ms(side, workloads.timed[0].pairs, min(1.0, task.seconds)),
        "pairs_per_second": {},
        "batch": {},
    }
    side.begin_many()
    for workload in workloads.timed:
        if workload.name not in task.cells:
            continue
        side.max_length = workload.window
        size = task.batches.get(workload.name)
        if workload.name == "mixed":
            sizes = ([s for s in side.batch_sizes if s != 1] or [1]) if size is None else [size]
            rate, size, logits = mixed_rate(side, workload, sizes, task.seconds)
            np.save(task.logits, logits)
        else:
            if size is None:
                size = best_size(side, workload)
            rate = equal_rate(side, workload, size, task.seconds)
        found["pairs_per_second"][workload.name] = rate
        found["batch"][workload.name] = size
    found["resident_mb"], found["peak_mb"] = memory_mb("VmRSS"), memory_mb("VmHWM")
    return found


def convert(side: Side, calibration: Sequence[Pair]) -> None:
    """What a side needs, after what that is made from."""
    if side.needs and not (side.work / side.needs.converts).is_dir():
        convert(side.needs(side.checkpoint, side.work, side.threads, side.max_length), calibration)
    side.convert(calibration)


def main() -> None:
    born = float(os.environ.get("CONTEST_BORN", time.time()))
    path = Path(sys.argv[1])
    task = Task(**json.loads(path.read_text()))
    workloads = Workloads.read(Path(task.workloads))
    side = side_class(task.side)(Path(task.checkpoint), Path(task.work), task.threads, 512)
    if task.action == "convert":
        convert(side, workloads.calibration)
        found: dict[str, Any] = {}
    else:
        found = measure(side, task, workloads, born)
    path.with_suffix(".result").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
