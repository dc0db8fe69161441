"""What the bulk job costs: its throughput beside the engine's bare rate, its memory, and Ray's overhead.

Short pairs (a query of 4 to 8 words, a document of 8 to 24) are made from a seed and written to a file: as
a table of pairs, each with a query of its own, and as rows of a query with 100 documents, as a first stage
gives them. Words are as frequent as in a language, so that new ones never end: of 2.4 million, 60,000 are
distinct (56,000 in as many of MedQuAD's answers). ``crossrank bulk`` runs on it in a process of its own,
whose resident memory is sampled every second.

    python -m benchmarks.bulk                          # 1,000,000 pairs
    python -m benchmarks.bulk --minutes 20             # as many as 20 minutes allow
    python -m benchmarks.bulk --write                  # the table goes into docs/scaling*.md

Its throughput beside the engine's is measured in short turns in this process, as a machine may be some
percent faster in one minute than in the next: ``engine.logits`` alone on packs of such pairs, made before
the clock starts, then the job on pairs that are new, then the engine again; the median of the turns counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from itertools import accumulate, islice
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.contest.machine import processor
from benchmarks.pages import between
from crossrank import Reranker
from crossrank.bulk.job import Source, answers, run
from crossrank.data.rows import read_rows
from crossrank.engines import Precision
from crossrank.engines.native import default_threads, instruction_set
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.packing import Pack, build_pack, plan_packs

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = 100  # of a query
COMPOUNDS = 0.01  # of all words
ENGINE_PAIRS = 20_000  # that the engine alone goes through
TURN_PAIRS = 30_000  # of the job in a turn


@dataclass
class Job:
    """One run of ``crossrank bulk``, and its turns with the engine alone."""

    pairs: int
    seconds: float
    pairs_per_second: float
    bare_pairs_per_second: list[float]
    shares_of_bare: list[float]


@dataclass
class Figures:
    """All that was measured."""

    cpu: str
    threads: int
    model: str
    precision: str
    table: Job
    queries: Job
    memory_mb: dict[str, float]
    one_core_pairs_per_second: float
    ray_pairs: int
    ray_pairs_per_second: float
    ray_local_pairs_per_second: float


@cache
def vocabulary() -> tuple[list[str], list[str]]:
    """The bundled model's words and endings of words, in the order of their ranks."""
    ids = Tokenizer.from_file(str(resolve(BUNDLED) / "tokenizer.json")).get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    words = [piece[1:] for piece in pieces if re.fullmatch("▁[A-Za-z]+", piece)]
    return words, [piece for piece in pieces if re.fullmatch("[A-Za-z]+", piece)]


def write_pairs(path: Path, count: int, seed: int = 0) -> None:
    """So many pairs: a table where the name ends in .tsv, else rows of a query with DOCUMENTS documents.

    Words come from the bundled model's vocabulary, each as often as its rank there says (Zipf's law); some
    are compounds, of which there are always new ones.
    """
    dice = random.Random(seed)
    words, endings = vocabulary()
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))

    def text(least: int, most: int) -> str:
        chosen = dice.choices(words, cum_weights=weights, k=dice.randint(least, most))
        return " ".join(word + dice.choice(endings) if dice.random() < COMPOUNDS else word for word in chosen)

    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".tsv":
            file.writelines(f"{text(4, 8)}\t{text(8, 24)}\n" for _ in range(count))
            return
        for _ in range(count // DOCUMENTS):
            row = {"query": text(4, 8), "documents": [text(8, 24) for _ in range(DOCUMENTS)]}
            file.write(json.dumps(row) + "\n")


def packs_of(reranker: Reranker, path: Path, count: int) -> list[Pack]:
    """Packs of the file's first pairs, as ``logits`` makes them."""
    found = ((row.query, document.text) for row in read_rows(str(path)) for document in row.documents)
    queries, texts = zip(*islice(found, count), strict=True)
    pairs = reranker.model.encoder.encode(queries, texts)
    plan = plan_packs([len(pair.token_ids) for pair in pairs], reranker.model.batch_tokens)
    return [build_pack([pairs[i] for i in indices]) for indices in plan]


def bare_rate(reranker: Reranker, packs: list[Pack], seconds: float) -> float:
    """Pairs a second of the engine alone, for about so long; the first pass over a pack warms up."""
    reranker.engine.logits(packs[0])
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for pack in packs:
            reranker.engine.logits(pack)
            done += len(pack)
    return done / (time.perf_counter() - began)


def in_turn(reranker: Reranker, path: Path, turns: int, seconds: float) -> tuple[list[float], list[float]]:
    """The engine's bare rates, one more than turns; and each turn's rate by the mean of those beside it."""
    write_pairs(path, ENGINE_PAIRS)
    packs = packs_of(reranker, path, ENGINE_PAIRS)
    out = path.with_name("turn.jsonl")
    bare, shares = [bare_rate(reranker, packs, seconds)], []
    for turn in range(turns):
        write_pairs(path, TURN_PAIRS, seed=turn + 1)
        began = time.perf_counter()
        run(Source(str(path)), out, lambda rows, _: answers(reranker, rows), {}, overwrite=True)
        rate = TURN_PAIRS / (time.perf_counter() - began)
        bare.append(bare_rate(reranker, packs, seconds))
        shares.append(rate / statistics.mean(bare[-2:]))
    return bare, shares


def resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def bulk(source: Path, out: Path, options: list[str]) -> tuple[float, list[float]]:
    """Seconds of the work (start-up not counted), and resident MB every second."""
    command = [
        sys.executable,
        "-m",
        "crossrank",
        "bulk",
        str(source),
        "-o",
        str(out),
        "--overwrite",
        *options,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    samples: list[float] = []
    while process.poll() is None:
        try:
            samples.append(resident_mb(process.pid))
        except (OSError, IndexError):
            break  # no /proc, or just gone
        time.sleep(1)
    _, told = process.communicate()
    if process.returncode:
        raise SystemExit(told)
    found = re.search(r"pairs in ([\d.]+) s", told)
    assert found, told
    return float(found[1]), samples


def measure(arguments: argparse.Namespace, work: Path) -> Figures:
    threads = arguments.threads or default_threads()
    wanted: Precision = arguments.precision
    reranker = Reranker(arguments.model, precision=wanted, device="cpu", threads=threads)
    precision = reranker.engine.precision
    options = [
        "--model",
        arguments.model,
        "--precision",
        precision,
        "--device",
        "cpu",
        "--threads",
        str(threads),
    ]

    def job(path: Path, pairs: int, minutes: float | None = None) -> tuple[Job, list[float]]:
        """``minutes``: as many pairs as the engine alone makes in so long, instead of ``pairs``."""
        bare, shares = in_turn(reranker, path, arguments.turns, arguments.bare_seconds)
        if minutes is not None:
            pairs = int(statistics.median(bare) * 60 * minutes)
        told = ", ".join(f"{100 * share:.1f}" for share in shares)
        print(f"{path.name}: {told} % of the engine alone; {pairs:,} pairs now", flush=True)
        write_pairs(path, pairs)
        seconds, samples = bulk(path, work / "out.jsonl", options)
        return Job(pairs, seconds, pairs / seconds, bare, shares), samples

    source = work / "pairs.tsv"
    of_table, samples = job(source, arguments.pairs, arguments.minutes)
    one = Reranker(arguments.model, precision=wanted, device="cpu", threads=1)
    one_core = bare_rate(one, packs_of(one, source, ENGINE_PAIRS), 20.0)
    queries, _ = job(work / "queries.jsonl", max(of_table.pairs // 3 // DOCUMENTS, 1) * DOCUMENTS)
    # Without the start: from the first tenth on.
    steady = samples[len(samples) // 10 :] or [0.0]
    quarter = max(1, len(steady) // 4)
    memory = {
        "first_quarter_max": max(steady[:quarter]),
        "last_quarter_max": max(steady[-quarter:]),
        "peak": max(samples, default=0.0),
    }
    ray_pairs = arguments.ray_pairs or min(of_table.pairs, int(120 * of_table.pairs_per_second))
    ray_rate = local_rate = 0.0
    if ray_pairs > 0:
        write_pairs(source, ray_pairs)
        local_rate = ray_pairs / bulk(source, work / "local.jsonl", options)[0]
        ray_rate = ray_pairs / bulk(source, work / "ray.jsonl", [*options, "--ray", "local"])[0]
        if (work / "local.jsonl").read_bytes() != (work / "ray.jsonl").read_bytes():
            print("note: Ray's logits differ in their last digits from the single process's")
    return Figures(
        f"{processor()[0]} ({instruction_set()})",
        threads,
        arguments.model,
        precision,
        of_table,
        queries,
        memory,
        one_core,
        ray_pairs,
        ray_rate,
        local_rate,
    )


def rows_of(name: str, job: Job) -> list[tuple[str, str]]:
    shares = sorted(100 * share for share in job.shares_of_bare)
    spread = f"{len(shares)} turns, {shares[0]:.1f} to {shares[-1]:.1f}"
    return [
        (name, f"{job.pairs:,} pairs in {job.seconds:.0f} s"),
        (f"{name}: bulk", f"{job.pairs_per_second:.0f} pairs/s"),
        (f"{name}: engine alone, median", f"{statistics.median(job.bare_pairs_per_second):.0f} pairs/s"),
        (f"{name}: bulk / engine alone, median", f"{statistics.median(shares):.1f} % ({spread})"),
    ]


def table(figures: Figures) -> str:
    of_table = figures.table
    bare = statistics.median(of_table.bare_pairs_per_second)
    memory = figures.memory_mb
    ray = (
        f"Ray on this machine, {figures.ray_pairs:,} pairs",
        f"{figures.ray_pairs_per_second:.0f} pairs/s with one actor's start, "
        f"{figures.ray_local_pairs_per_second:.0f} without Ray",
    )
    rows = [
        ("CPU", f"{figures.cpu}, {figures.threads} threads"),
        ("model", f"{figures.model}, {figures.precision}"),
        *rows_of("table of pairs", of_table),
        *rows_of(f"{DOCUMENTS} documents a query", figures.queries),
        ("engine alone, 1 thread", f"{figures.one_core_pairs_per_second:.0f} pairs/s"),
        (
            "resident memory, first and last quarter",
            f"{memory['first_quarter_max']:.0f} and {memory['last_quarter_max']:.0f} MB",
        ),
        *([ray] if figures.ray_pairs > 0 else []),
        ("computed: 1,000,000 such pairs", f"{1e6 / of_table.pairs_per_second / 60:.0f} minutes here"),
        *(
            (f"computed: {cores} cores like these", f"{bare / figures.threads * cores:.0f} pairs/s at most")
            for cores in (4, 16, 64)
        ),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, help="as many pairs as the bare rate makes in so long")
    parser.add_argument("--model", default="crossrank-mini")
    parser.add_argument("--precision", default="int8", choices=["fp32", "bf16", "int8"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--turns", type=int, default=7, help="of the engine alone and the job")
    parser.add_argument("--bare-seconds", type=float, default=6.0, help="of the engine alone in a turn")
    parser.add_argument("--ray-pairs", type=int, help="default: two minutes' worth; negative: no Ray")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--write", action="store_true", help="write the table into docs/scaling*.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = measure(arguments, Path(work))
    text = table(figures)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    if arguments.write:
        for path in sorted((ROOT / "docs").glob("scaling*.md")):
            between(path, "measured", text)


if __name__ == "__main__":
    main()
