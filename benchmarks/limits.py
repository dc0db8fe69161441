"""What is promised of speed, memory and agreement, for each kind of machine; a benchmark exits 1 below it.

A figure that depends on the machine is held against the machine's row. Where no row describes the machine,
the benchmark says so, and nothing is broken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

AMX, ZEN_5, ZEN_4 = ROWS = ("AMX", "Zen 5", "Zen 4")
"""Kinds of machines: Intel with AMX, and AMD with AVX-512 by the width of its units."""


def row(cpuinfo: str | None = None) -> str | None:
    """The row of this machine, by what /proc/cpuinfo says of its processor; None: no row describes it."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return None
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    if {"amx_int8", "amx_tile"} <= known:
        return AMX
    family = re.search(r"^cpu family\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
    if "AuthenticAMD" in cpuinfo and "avx512_vnni" in known and family:
        return {25: ZEN_4, 26: ZEN_5}.get(int(family[1]))
    return None


@dataclass(frozen=True)
class Limit:
    """What a figure may be.

    Attributes:
        what: the figure, in words.
        bound: a number for every machine, or one for each row that has a promise.
        at_least: the bound is the smallest figure, not the largest.
        unit: after the figure, with its space.
    """

    what: str
    bound: float | Mapping[str, float]
    at_least: bool = False
    unit: str = ""

    def on(self, machine: str | None) -> float | None:
        """The bound on a machine's row; None: nothing is promised there."""
        if isinstance(self.bound, Mapping):
            return self.bound.get(machine) if machine else None
        return self.bound

    def check(self, figure: float, machine: str | None) -> Verdict:
        """Hold a figure against the promise."""
        bound = self.on(machine)
        kept = None if bound is None else figure >= bound if self.at_least else figure <= bound
        return Verdict(self, figure, bound, kept, machine)


@dataclass(frozen=True)
class Verdict:
    """Whether a promise is kept; ``kept`` is None where nothing is promised."""

    limit: Limit
    figure: float
    bound: float | None
    kept: bool | None
    machine: str | None

    def __str__(self) -> str:
        figure = f"{self.limit.what}: {self.figure:.4g}{self.limit.unit}"
        if self.bound is None:
            where = f"the row {self.machine}" if self.machine else "this processor, which no row describes"
            return f"-       {figure}; nothing is promised for {where}"
        sign = "at least" if self.limit.at_least else "at most"
        state = "kept   " if self.kept else "BROKEN "
        return f"{state} {figure}; {sign} {self.bound:g}{self.limit.unit}"


def report(verdicts: list[Verdict]) -> int:
    """Print each; the exit status: 1 where a promise is broken."""
    for verdict in verdicts:
        print(verdict, flush=True)
    return int(any(verdict.kept is False for verdict in verdicts))


EQUAL = Limit(
    "v2-m3's shape, equal lengths, times as fast as the fastest other engine",
    {AMX: 1.5, ZEN_5: 1.15, ZEN_4: 1.0},
    at_least=True,
)
MIXED = Limit(
    "v2-m3's shape, mixed lengths, times as fast as the fastest other engine",
    {AMX: 1.8, ZEN_5: 1.25, ZEN_4: 1.15},
    at_least=True,
)
UNCALIBRATED = Limit(
    "v2-m3's shape, times as fast as the fastest that needs no calibration data",
    {AMX: 2.4, ZEN_5: 1.6, ZEN_4: 1.25},
    at_least=True,
)
MODERNBERT = Limit(
    "ModernBERT-base's shape, times as fast as the fastest other engine",
    dict.fromkeys(ROWS, 1.3),
    at_least=True,
)
QWEN3 = {
    length: Limit(
        "Qwen3-Reranker-0.6B's shape, times as fast as the fastest other engine",
        dict.fromkeys(ROWS, bound),
        at_least=True,
    )
    for length, bound in (("32", 2.5), ("128", 2.0), ("512", 1.3))
}
"""By tokens of a document."""
SHARE_OF_PEAK = Limit(
    "v2-m3's shape, 128 tokens, share of the int8 peak", {ZEN_5: 0.85, ZEN_4: 0.85}, at_least=True
)
RESIDENT = Limit("v2-m3's shape in int8, resident memory", 900, unit=" MB")
SECOND_START = Limit(
    "v2-m3's shape in int8, second start to the first score", dict.fromkeys(ROWS, 1.5), unit=" s"
)
HELP = Limit("crossrank --help", dict.fromkeys(ROWS, 0.3), unit=" s")
TAU = {
    "bf16": Limit("Kendall's tau of bf16 against fp32", 0.99, at_least=True),
    "int8": Limit("Kendall's tau of int8 against fp32", 0.98, at_least=True),
}
NDCG = {
    "bf16": Limit("difference of nDCG@10, bf16 against fp32", 0.002),
    "int8": Limit("difference of nDCG@10, int8 against fp32", 0.005),
}
THROUGHPUT = Limit("server / library, saturated", 0.95, at_least=True)
FAIRNESS = Limit("a small request beside large ones, p95 / p50 on an idle server", 3.0)
REFUSAL = Limit("a request that is refused when it comes, p99", dict.fromkeys(ROWS, 100.0), unit=" ms")
