"""CrossRank and other engines side by side: the same checkpoint, pairs and cores, in turn.

    make peers                              # the engines, in virtual environments of their own
    python -m benchmarks.peers --write      # everything; tables and chart go into docs/ and the READMEs

Each side runs in a process of its own, round after round; figures are medians of the rounds. What was made
once (checkpoints, conversions) and what was measured is kept in --work: the same command goes on where it
ended. ``--fresh`` measures anew; conversions stay. A side that cannot run is listed with its error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import limits
from benchmarks.contest import machine, report
from benchmarks.contest.base import THREADS
from benchmarks.contest.models import MODELS, OURS, REFERENCE
from benchmarks.contest.report import slug
from benchmarks.contest.worker import SIDES, Task, side_class
from benchmarks.contest.workloads import make

ROOT = Path(__file__).resolve().parents[1]
STAMP = "made-of"
"""In an uncompressed checkpoint: the digest of the bundled weights."""
TRIES = 2
"""Of a run during which other processes take much of the machine: threads that wait for each other after
every operation lose far more than their share."""
LIMIT = 900
"""Seconds of one process; a conversion may take four times as long."""


class Contest:
    """All sides on one model.

    Args:
        model: a name of MODELS.
        arguments: of the command line.
    """

    def __init__(self, model: str, arguments: argparse.Namespace) -> None:
        self.model = model
        self.kind = MODELS[model]
        self.arguments = arguments
        self.work = Path(arguments.work).resolve() / model
        self.runs = self.work / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.work / "checkpoint"
        self.workloads = self.work / "workloads.json"
        self.sides = [side for side in self.kind.sides if any(fnmatch(side, p) for p in arguments.sides)]

    def prepare(self) -> None:
        """The checkpoint, the workloads and the conversions, as far as they are not there yet."""
        if not self._is_current():
            shutil.rmtree(self.work, ignore_errors=True)
            self.runs.mkdir(parents=True)
            self._write_checkpoint()
        if not self.workloads.is_file():
            tokenizer = self.checkpoint / "tokenizer.json"
            make(self.arguments.data.resolve(), tokenizer, self.kind).write(self.workloads)
        for side in self.sides:
            self._convert(side)

    def _is_current(self) -> bool:
        """Whether the checkpoint is there and what it was made of has not changed since."""
        if not (self.checkpoint / "config.json").is_file():
            return False
        stamp = self.checkpoint / STAMP
        return self.model != "crossrank-mini" or (stamp.is_file() and stamp.read_text() == bundled_digest())

    def _write_checkpoint(self) -> None:
        partial = self.checkpoint.with_name("checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)
        self.kind.write(partial, self.arguments.work.resolve() / "downloads")
        partial.replace(self.checkpoint)

    def _convert(self, side: str) -> None:
        """A side's conversion; an error is kept for the results."""
        kind = side_class(side)
        if not kind.converts or (self.work / kind.converts).is_dir():
            return
        print(f"{self.model}: converting for {side}", flush=True)
        found = self._worker("convert", side, f"convert-{slug(side)}", {}, [])
        if "error" in found:
            print(f"{self.model}: {side}: {found['error']}", flush=True)
            self.failure(side).write_text(found["error"])

    def _worker(
        self, action: str, side: str, name: str, batches: dict[str, int], cells: list[str]
    ) -> dict[str, Any]:
        """One process; what it measured, or {"error": its last line}. Its output is kept beside it."""
        task = Task(
            action,
            side,
            str(self.checkpoint),
            str(self.work),
            str(self.workloads),
            THREADS,
            self.arguments.seconds,
            cells,
            batches,
            str(self.logits(side)),
        )
        path = self.runs / f"{name}.task"
        path.write_text(json.dumps(asdict(task)))
        path.with_suffix(".result").unlink(missing_ok=True)
        environment = os.environ | {
            "CROSSRANK_CACHE": str(self.work / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(THREADS),
            "TOKENIZERS_PARALLELISM": "true",
            "CONTEST_BORN": str(time.time()),
        }
        command = [str(python_of(side)), "-m", "benchmarks.contest.worker", str(path)]
        limit = LIMIT * (4 if action == "convert" else 1)
        log = path.with_suffix(".log")
        clock = machine.Others()
        with log.open("w") as output:
            try:
                code = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=limit
                ).returncode
            except subprocess.TimeoutExpired:
                return {"error": f"not done after {limit} s"}
            except OSError as error:
                return {"error": f"{error}; make peers sets the environments up"}
        if code < 0:
            return {"error": f"the process died of {signal.Signals(-code).name}"}
        if code:
            return {"error": last_line(log)}
        found: dict[str, Any] = json.loads(path.with_suffix(".result").read_text())
        return found | {"others": clock.share()}

    def logits(self, side: str) -> Path:
        """Where a side's logits of the mixed lengths are kept."""
        return self.runs / f"logits-{slug(side)}.npy"

    def failure(self, side: str) -> Path:
        """Where the error of a side's conversion is kept."""
        return self.runs / f"convert-{slug(side)}.error"

    def run_path(self, side: str, turn: int) -> Path:
        return self.runs / f"{slug(side)}-{turn}.json"

    def measure(self) -> None:
        """The rounds that are not there yet. A side that failed is tried again."""
        if self.arguments.fresh:
            for side in self.sides:
                for path in self.runs.glob(f"{slug(side)}-[0-9].json"):
                    path.unlink()
            (self.runs / "machine.json").unlink(missing_ok=True)
        for turn in range(self.arguments.rounds):
            for side in self.sides:
                path = self.run_path(side, turn)
                if path.is_file() and "error" not in json.loads(path.read_text()):
                    continue
                began = time.perf_counter()
                found = self._measured(side, turn)
                path.write_text(json.dumps(found, indent=1) + "\n")
                rates = found.get("pairs_per_second", {})
                told = found.get("error") or ", ".join(f"{k}: {v:.1f}" for k, v in rates.items())
                spent = time.perf_counter() - began
                print(f"{self.model}, round {turn + 1}, {side}: {told} ({spent:.0f} s)", flush=True)

    def _measured(self, side: str, turn: int) -> dict[str, Any]:
        """One round of a side; long passes over mixed lengths are not repeated."""
        kind = side_class(side)
        if kind.converts and not (self.work / kind.converts).is_dir():
            return {"error": f"conversion: {self.failure(side).read_text()}"}
        cells = self.kind.cells
        if turn:
            first = json.loads(self.run_path(side, 0).read_text())
            if "error" in first:
                return {"error": first["error"]}
            pairs = len(np.load(self.logits(side)))
            if pairs / first["pairs_per_second"]["mixed"] > self.arguments.longest:
                cells = cells[:-1]
        # Found once, and kept for the rounds that follow and for measuring anew.
        sizes = self.work / f"batches-{slug(side)}.json"
        batches = json.loads(sizes.read_text()) if sizes.is_file() else {}
        found = self._quiet(side, f"{slug(side)}-task", batches, cells)
        if not batches and "error" not in found:
            sizes.write_text(json.dumps(found["batch"]))
        return found

    def _quiet(self, side: str, name: str, batches: dict[str, int], cells: list[str]) -> dict[str, Any]:
        """One process that measures, and another if the machine was not quiet meanwhile."""
        for _ in range(TRIES):
            found = self._worker("measure", side, name, batches, cells)
            if "error" in found or found["others"] <= report.QUIET:
                break
            print(f"{side}: other processes took {100 * found['others']:.0f} % of the machine", flush=True)
        return found

    def measure_crossrank(self) -> None:
        """What only CrossRank is asked: starts, memory, a busy machine, its share of the peak."""
        path = self.runs / "machine.json"
        if path.is_file():
            return
        found: dict[str, Any] = machine.describe(THREADS)
        found |= machine.starts(self.checkpoint, self.workloads, THREADS, self.work)
        idle, busy, peaks = [], [], []
        for _ in range(3):
            peaks.append(machine.int8_peak(THREADS))
            idle.append(self._quiet(OURS, "idle", {"128": 0}, ["128"]))
            with machine.busy_cores(THREADS):
                busy.append(self._worker("measure", OURS, "busy", {"128": 0}, ["128"]))
        rate = median(run["pairs_per_second"]["128"] for run in idle)
        peak = median(peaks)
        if not self.kind.decoder:  # which computes of each pair what it does not share with others
            whole, needed = machine.operations(self.checkpoint, 128)
            found |= {"share_of_peak": rate * whole / peak, "share_of_peak_needed": rate * needed / peak}
        found |= {
            "int8_peak_tops": peak / 1e12,
            "idle_pairs_per_second": rate,
            "busy_pairs_per_second": median(run["pairs_per_second"]["128"] for run in busy),
            "idle_latency_ms": median(run["latency_ms"] for run in idle),
            "busy_latency_ms": median(run["latency_ms"] for run in busy),
        }
        path.write_text(json.dumps(found, indent=1) + "\n")

    def results(self) -> dict[str, Any]:
        """Everything that was measured, as it is committed."""
        machine_path = self.runs / "machine.json"
        return {
            "model": self.model,
            "cells": self.kind.cells,
            "machine": json.loads(machine_path.read_text())
            if machine_path.is_file()
            else machine.describe(THREADS),
            "packages": packages(),
            "sides": {
                side: self._summary(side) for side in self.kind.sides if self.run_path(side, 0).is_file()
            },
        }

    def _summary(self, side: str) -> dict[str, Any]:
        paths = sorted(self.runs.glob(f"{slug(side)}-[0-9].json"))
        rounds = [json.loads(path.read_text()) for path in paths]
        errors = [run["error"] for run in rounds if "error" in run]
        if errors:
            return {"error": short(errors[-1], self.checkpoint)}
        rates = {
            cell: [run["pairs_per_second"][cell] for run in rounds if cell in run["pairs_per_second"]]
            for cell in self.kind.cells
        }
        summary = {
            "pairs_per_second": {cell: round(median(values), 3) for cell, values in rates.items()},
            "rounds": {cell: [round(value, 3) for value in values] for cell, values in rates.items()},
            "batch": rounds[0]["batch"],
            "others": round(max(run["others"] for run in rounds), 3),
        }
        for name in ("latency_ms", "load_seconds", "start_seconds"):
            summary[name] = round(median(run[name] for run in rounds), 3)
        # The first round tries batch sizes, larger ones among them.
        for name in ("resident_mb", "peak_mb"):
            summary[name] = round(median(run[name] for run in rounds[1:] or rounds))
        return summary | self._parity(side)

    def _parity(self, side: str) -> dict[str, Any]:
        """How a side's logits of the mixed lengths differ from the reference's."""
        # CrossRank's logits stand for those of a model that transformers does not run.
        exact = [path for name in (REFERENCE, "CrossRank fp32") if (path := self.logits(name)).is_file()]
        own = self.logits(side)
        if not exact or not own.is_file():
            return {}
        expected, found = (np.load(path).astype(np.float64) for path in (exact[0], own))
        differences = np.abs(found - expected)
        return {
            "mean_difference": float(f"{differences.mean():.3g}"),
            "largest_difference": float(f"{differences.max():.3g}"),
            "tau": round(kendall(expected, found), 4),
            "logits_deviation": round(float(expected.std()), 3),
        }


def python_of(side: str) -> Path:
    environment = side_class(side).environment
    return ROOT / f".venv-{environment}" / "bin" / "python" if environment else Path(sys.executable)


def last_line(log: Path) -> str:
    """The last line of a log that names an error, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (errors or lines or [""])[-1][:300]


def short(error: str, checkpoint: Path) -> str:
    """An error without this machine's folders, lists and advice."""
    found = error.replace(str(checkpoint), "the checkpoint")
    return re.split(r" \(| You can inspect ", found)[0].rstrip(": ")


def kendall(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Kendall's tau-b of two lists of logits."""
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(values[:, None] - values[None, :])[upper] for values in (a, b))
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def packages() -> dict[str, str]:
    """Versions of what was compared, by environment."""
    names = "torch transformers sentence-transformers onnxruntime openvino nncf ctranslate2 llama-cpp-python"
    names += " fastembed fastretrieval"
    code = (
        "import importlib.metadata as m, sys\n"
        "for n in sys.argv[1:]:\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass"
    )
    found = {}
    for environment in sorted({side_class(side).environment for side in SIDES} - {""}):
        python = ROOT / f".venv-{environment}" / "bin" / "python"
        if python.is_file():
            run = subprocess.run(
                [python, "-c", code, *names.split()], capture_output=True, text=True, check=True
            )
            found[environment] = ", ".join(run.stdout.strip().splitlines())
    return found


def write_uncompressed(folder: Path) -> None:
    """crossrank-mini as an ordinary fp32 checkpoint, which every engine reads."""
    from safetensors.numpy import save_file

    from crossrank.models.checkpoint import Checkpoint
    from crossrank.models.resolve import resolve

    source = Checkpoint(resolve("crossrank-mini"))
    folder.mkdir(parents=True)
    save_file(source.tensors(), folder / "model.safetensors", {"format": "pt"})
    config = {key: value for key, value in source.config.items() if key != "crossrank"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source.folder / name, folder / name)
    (folder / STAMP).write_text(bundled_digest())


def bundled_digest() -> str:
    from crossrank.models.resolve import resolve

    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        digest.update((resolve("crossrank-mini") / name).read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", "--model", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--sides", nargs="+", default=["*"], help="names or patterns; default: all")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="SQuAD files and MedQuAD")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each figure in each round, at least")
    parser.add_argument(
        "--longest", type=float, default=10.0, help="seconds of a pass of mixed lengths that is not repeated"
    )
    parser.add_argument("--fresh", action="store_true", help="measure anew what was measured before")
    parser.add_argument("--brief", action="store_true", help="leave out starts, memory and a busy machine")
    parser.add_argument("--prepare", action="store_true", help="only write checkpoints and convert them")
    parser.add_argument("--write", action="store_true", help="write the results, docs/ and the READMEs")
    arguments = parser.parse_args()
    contests = [Contest(model, arguments) for model in arguments.models]
    if arguments.write and OURS not in contests[0].sides:
        parser.error(f"--write needs {OURS!r} among --sides: the pages compare with it")
    if arguments.write and arguments.brief:
        parser.error("--write needs all figures: leave out --brief")
    for contest in contests:
        contest.prepare()
    if arguments.prepare:
        return
    results = []
    for contest in contests:
        contest.measure()
        if OURS in contest.sides and not arguments.brief:
            contest.measure_crossrank()
        results.append(contest.results())
        if not arguments.write:
            report.complete(results[-1], ROOT / "benchmarks" / "results")
        print(report.console(results[-1]), flush=True)
    if arguments.write:
        report.write(ROOT, results)
    if limits.report([verdict for found in results for verdict in report.verdicts(found)]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
