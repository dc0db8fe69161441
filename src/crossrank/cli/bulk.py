"""``crossrank bulk``: rerank a file of any size."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from crossrank.bulk import job
from crossrank.bulk.output import json_line
from crossrank.cascade import KEEP
from crossrank.cli import options as o
from crossrank.data.lines import STDIN, UTF_8
from crossrank.data.rows import Row, parse_shard
from crossrank.errors import InputError
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS

_INPUT_PANEL, _RAY_PANEL = "Input options", "Cluster options"

_UPDATE_SECONDS = 0.1
"""Seconds between updates of the progress bar. An update takes longer than a query does to read."""

_File = Annotated[
    str,
    typer.Argument(
        help='The input: JSON Lines or Parquet with a query ("query", "documents") or a pair ("query", '
        '"document") a row, TSV of pairs, or a TREC run (with --data). - is standard input.',
        show_default=False,
    ),
]
_Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="The output: .jsonl, .run (TREC) or .parquet, and .gz or .zst. - is standard output.",
        show_default=False,
    ),
]
_Data = Annotated[
    str | None,
    typer.Option(
        help="The collection with a run's texts: a folder, irds:NAME or mteb:NAME.",
        rich_help_panel=_INPUT_PANEL,
    ),
]
_Queries = Annotated[
    str | None,
    typer.Option(help="A file of queries instead of the collection's own.", rich_help_panel=_INPUT_PANEL),
]
_Depth = Annotated[
    int | None,
    typer.Option(min=1, help="Max documents of a query; by default all.", rich_help_panel=_INPUT_PANEL),
]
_Shard = Annotated[
    str,
    typer.Option(
        help="The part of the queries to rerank: i/n is the i-th of n.", rich_help_panel=_INPUT_PANEL
    ),
]
_TopN = Annotated[
    int | None, typer.Option("--top-n", "-n", min=1, help="Max results of a query; by default all.")
]
_Text = Annotated[bool, typer.Option("--text", help="Also write the texts of queries and documents.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over instead of resuming.")]
_Ray = Annotated[
    str | None,
    typer.Option(
        help='Run on Ray: "local" starts it here, "auto" or HOST:PORT joins a cluster.',
        rich_help_panel=_RAY_PANEL,
    ),
]
_Actors = Annotated[
    int | None,
    typer.Option(min=1, help="Number of engines; by default one a machine.", rich_help_panel=_RAY_PANEL),
]


def bulk(
    file: _File,
    output: _Output,
    data: _Data = None,
    queries: _Queries = None,
    depth: _Depth = None,
    shard: _Shard = "1/1",
    text_field: o.TextField = "text",
    encoding: o.Encoding = UTF_8,
    top_n: _TopN = None,
    text: _Text = False,
    overwrite: _Overwrite = False,
    ray: _Ray = None,
    actors: _Actors = None,
    model: o.Model = BUNDLED,
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    long: o.Long = "cut",
    max_windows: o.MaxWindows = MAX_WINDOWS,
    instruction: o.Instruction = None,
    batch_tokens: o.BatchTokens = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    first: o.First = None,
    keep: o.Keep = KEEP,
) -> None:
    """Rerank every query of FILE, in order and in little memory.

    If it was interrupted, run it again with the same options, and it resumes.
    """
    if actors is not None and ray is None:
        raise InputError("--actors is for a cluster; name one with --ray")
    if queries is not None and data is None:
        raise InputError("--queries is for a run; name its collection with --data")
    work = job.Source(file, data, queries, depth, parse_shard(shard), text_field, encoding)
    if data is not None and text_field != "text":
        raise InputError("--text-field is for rows; the texts of a run are in its collection")
    if ray is not None and STDIN in (file, output):
        raise InputError("with --ray, input and output must be files")
    counts = None if file == STDIN else job.check(work, Path("-.jsonl" if output == STDIN else output))
    options: dict[str, Any] = {
        "model": model,
        "revision": revision,
        "source": source,
        "max_length": max_length,
        "instruction": instruction,
        "batch_tokens": batch_tokens,
        "precision": precision,
        "device": device,
        "threads": threads,
        "offline": offline,
        "first": first,
        "keep": keep,
        "long": long,
        "max_windows": max_windows,
    }
    if output == STDIN:
        _write_to_stdout(work, options, top_n=top_n, with_text=text)
        return
    if ray is None:
        answers, described = _answer_here(options, top_n=top_n, with_text=text)
    else:
        answers, described = _answer_on_ray(ray, work, options, actors, top_n=top_n, with_text=text)
    described |= {"top_n": top_n, "text": text}
    if first is not None:
        described |= {"first": first, "keep": keep}
    if long != "cut":
        described |= {"long": long, "max_windows": max_windows}
    if counts is not None:
        described["input"] = counts.digest
    total = counts.pairs if counts else None
    _run(work, Path(output), answers, described, total, overwrite)


def _write_to_stdout(
    work: job.Source, options: dict[str, Any], *, top_n: int | None, with_text: bool
) -> None:
    """Write each answer as soon as it is there. There is nothing to resume from."""
    reranker = o.open_reranker(**options)
    answer = job.answers_as_they_come if work.path == STDIN else job.answers
    for _, found in answer(reranker, work.rows(), top_n=top_n, with_text=with_text):
        print(json_line(found).decode(), end="", flush=True)


def _answer_here(
    options: dict[str, Any], *, top_n: int | None, with_text: bool
) -> tuple[job.Answers, dict[str, Any]]:
    """A function that answers rows on this machine, and what its answers depend on."""
    reranker = o.open_reranker(**options)
    described = {name: options[name] for name in ("model", "revision", "instruction")}
    described |= {"precision": reranker.engine.precision, "max_length": reranker.max_length}

    def answers(rows: Iterator[Row], _before: int) -> Iterator[job.Answer]:
        return job.answers(reranker, rows, top_n=top_n, with_text=with_text)

    return answers, described


def _answer_on_ray(
    address: str,
    work: job.Source,
    options: dict[str, Any],
    actors: int | None,
    *,
    top_n: int | None,
    with_text: bool,
) -> tuple[job.Answers, dict[str, Any]]:
    """A function that answers rows on a cluster, and what its answers depend on."""
    from crossrank import ray as cluster

    cluster.connect(address)
    names = ("model", "revision", "precision", "max_length", "instruction")
    described = {name: options[name] for name in names}

    def answers(_rows: Iterator[Row], before: int) -> Iterator[job.Answer]:
        return cluster.answers(work, before, options, top_n=top_n, with_text=with_text, actors=actors)

    return answers, described


def _run(
    work: job.Source,
    output: Path,
    answers: job.Answers,
    described: dict[str, Any],
    total: int | None,
    overwrite: bool,
) -> None:
    """Run the job, show its progress on stderr, and then its speed.

    Args:
        work: the input.
        output: the output file.
        answers: turns rows into answers.
        described: what the answers depend on besides the input.
        total: number of pairs; None if unknown.
        overwrite: start over instead of resuming.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task(output.name, total=total)
        lines = ProgressLines(output.name, total, lambda line: print(line, file=sys.stderr, flush=True))
        done, began, updated = 0, 0.0, 0.0

        def progress(_queries: int, pairs: int) -> None:
            nonlocal done, began, updated
            done, now = pairs, time.monotonic()
            if bar.disable:
                lines(pairs)
            if not began:
                began = updated = now
                bar.reset(task, completed=pairs)
            elif now >= updated + _UPDATE_SECONDS:
                updated = now
                bar.update(task, completed=pairs)

        resumed = job.run(work, output, answers, described, overwrite=overwrite, progress=progress)
        bar.update(task, completed=done)
        seconds = time.monotonic() - began
    fresh = done - resumed.pairs
    note = f" (and {resumed.pairs} from before)" if resumed.pairs else ""
    rate = f", {fresh / seconds:.0f} pairs/s" if seconds > 0 and fresh else ""
    print(f"{output}: {fresh} pairs{note} in {seconds:.1f} s{rate}", file=sys.stderr)


class ProgressLines:
    """Writes a line a minute about the progress of a job, for when there is no terminal for a bar.

    Args:
        name: the output's name.
        total: number of pairs; None if unknown.
        write: writes a line.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total, self._write, self._clock = name, total, write, clock
        self._began = self._written = clock()
        self._before: int | None = None

    def __call__(self, pairs: int) -> None:
        """Take note that ``pairs`` pairs are done, including those of an earlier run."""
        now = self._clock()
        if self._before is None:
            self._before, self._began, self._written = pairs, now, now
        if now < self._written + 60:
            return
        self._written = now
        done = f"{pairs} pairs"
        if self._total:
            done = f"{pairs} of {self._total} pairs ({100 * pairs / self._total:.0f} %)"
        rate = (pairs - self._before) / (now - self._began)
        self._write(f"{self._name}: {done}, {rate:.0f} pairs/s")


class _Rate(ProgressColumn):
    """Pairs a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} pairs/s" if task.speed else "", style="progress.data.speed")
