"""The machine, and what no peer is asked: CrossRank's starts and memory, a busy machine, the int8 peak."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import limits

# Names of instruction sets as /proc/cpuinfo has them, and as people know them.
INSTRUCTIONS = {
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
    "asimddp": "NEON dot product",
    "i8mm": "NEON int8 matrices",
}

# A user's script; torch cannot be imported in it, as if it were not installed.
SCRIPT = """
import json, sys
sys.modules["torch"] = None
from crossrank import Reranker
model, workload = sys.argv[1:]
reranker = Reranker(model, precision="int8", threads=THREADS)
reranker.logits([("what is a panda", "The giant panda is a bear.")])
print("scored", flush=True)
if workload:
    mixed = next(w for w in json.load(open(workload))["timed"] if w["name"] == "mixed")
    reranker.logits([(query, document) for query, document, *_ in mixed["pairs"]])
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(status["VmRSS"].split()[0]) * 1024 / 1e6, int(status["VmHWM"].split()[0]) * 1024 / 1e6)
"""


def processor() -> tuple[str, list[str]]:
    """The processor's name, and its instruction sets for matrices, which the name may not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", text)
    known = flags[1].split() if flags else []
    found = [title for flag, title in INSTRUCTIONS.items() if flag in known]
    return name[1].strip() if name else platform.machine(), found


def describe(threads: int) -> dict[str, Any]:
    """The processor, the kernels that CrossRank chose, the cores used, the memory, the system and the day."""
    from crossrank.engines.native import instruction_set

    name, instructions = processor()
    return {
        "cpu": name,
        "instructions": instructions,
        "kernels": instruction_set(),
        "row": limits.row(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": os.uname().release,
        "date": time.strftime("%Y-%m-%d"),
    }


class Others:
    """What processes other than this one's children took of the machine since it was made."""

    def __init__(self) -> None:
        self._began = self._now()

    def share(self) -> float:
        """From 0 to 1, of all cores; the hypervisor's other guests count."""
        wall, busy, own = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of the clock, of all processors' work, and of the children that have ended."""
        # user, nice, system, idle, iowait, irq, softirq, steal
        ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter(), busy, usage.ru_utime + usage.ru_stime


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """One process on each core that never rests."""
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    cores = sorted(os.sched_getaffinity(0))[:count]
    crowd = [subprocess.Popen([sys.executable, "-c", code, str(core)]) for core in cores]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in crowd:
            process.kill()
            process.wait()


def starts(checkpoint: Path, workloads: Path, threads: int, scratch: Path) -> dict[str, float]:
    """Seconds from a script's start to its first score, and the memory of one that scores mixed lengths."""
    script = SCRIPT.replace("THREADS", str(threads))

    def run(cache: Path, workload: str = "") -> tuple[float, list[str]]:
        command = [sys.executable, "-c", script, str(checkpoint), workload]
        began = time.perf_counter()
        environment = os.environ | {"CROSSRANK_CACHE": str(cache)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout
            line = process.stdout.readline()
            seconds = time.perf_counter() - began
            rest = process.stdout.read()
        if process.returncode or line.strip() != "scored":
            raise RuntimeError(f"the script failed: {line}{rest}")
        return seconds, rest.split()

    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        first, _ = run(Path(cache))
        second = median(run(Path(cache))[0] for _ in range(3))
        _, (resident, peak) = run(Path(cache), str(workloads))
    return {
        "first_start_seconds": first,
        "second_start_seconds": second,
        "resident_mb": float(resident),
        "peak_mb": float(peak),
    }


def int8_peak(threads: int) -> float:
    """int8 operations a second of a bare kernel on all threads, the best of five runs."""
    from crossrank import _native_test
    from crossrank.engines.native import instruction_set

    isa, repeats = instruction_set(), 200_000
    _native_test.peak_int8(repeats, isa)
    with ThreadPoolExecutor(threads) as pool:
        return max(
            sum(pool.map(lambda _: _native_test.peak_int8(repeats, isa), range(threads))) for _ in range(5)
        )


def operations(checkpoint: Path, length: int) -> tuple[float, float]:
    """Operations of the matrix products of a pair: of the whole model, and of what its logit needs.

    The last layer's logit needs keys and values of all tokens, and the rest of the first token alone.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    width, inner, layers = (config[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    matrices = 3 if config.get("model_type") in ("modernbert", "new") else 2  # with a gate
    products = 4 * width * width + matrices * width * inner  # multiply-adds of a token and layer
    attention = 2 * length * width
    whole = 2.0 * length * layers * (products + attention)
    last = 2.0 * (2 * width * width * length + products - 2 * width * width + attention)
    return whole, whole * (layers - 1) / layers + last
