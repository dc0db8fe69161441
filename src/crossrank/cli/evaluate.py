"""``crossrank eval``: how well models, precisions and runs rank, compared with the first stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from crossrank.cascade import SHARED
from crossrank.cli import options as o
from crossrank.cli.writing import console, printable, write_json
from crossrank.data.collection import Collection, load_collection
from crossrank.data.lines import UTF_8
from crossrank.data.rows import Row
from crossrank.data.trec import read_run
from crossrank.errors import InputError
from crossrank.evaluation import measure as ev
from crossrank.evaluation import report
from crossrank.evaluation.cascade import Curve, curve
from crossrank.evaluation.pool import MAX_QUERIES, PoolResult, bm25_system, measure_pool, pool_rows
from crossrank.pairs import MAX_WINDOWS

_DATA_PANEL, _MODEL_PANEL = "Data options", "Model options"

_Data = Annotated[
    str,
    typer.Option(
        help="A folder (BEIR, TREC), rows with labels (.jsonl, .parquet), irds:NAME or mteb:NAME.",
        show_default=False,
    ),
]
_Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="A model to measure. Can be given several times.",
        rich_help_panel=_MODEL_PANEL,
        autocompletion=o.model_names,
    ),
]
_Precision = Annotated[
    list[str] | None,
    typer.Option(
        help="A precision to measure every model in. Can be given several times.",
        rich_help_panel=_MODEL_PANEL,
        autocompletion=o.PRECISIONS,
    ),
]
_Run = Annotated[list[str] | None, typer.Option(help="A TREC run to measure. Can be given several times.")]
_FirstStage = Annotated[
    str | None,
    typer.Option(
        help="The TREC run to rerank and to compare with; by default the data's own, or BM25.",
        rich_help_panel=_DATA_PANEL,
    ),
]
_Depth = Annotated[int, typer.Option(min=1, help="Max candidates of a query.", rich_help_panel=_DATA_PANEL)]
_Limit = Annotated[
    int | None, typer.Option(min=1, help="Max queries, from the first.", rich_help_panel=_DATA_PANEL)
]
_Split = Annotated[
    str | None, typer.Option(help="The split of BEIR or MTEB data.", rich_help_panel=_DATA_PANEL)
]
_Queries = Annotated[
    str | None, typer.Option(help="A file of queries instead of the data's own.", rich_help_panel=_DATA_PANEL)
]
_Qrels = Annotated[
    str | None,
    typer.Option(help="A file of judgments instead of the data's own.", rich_help_panel=_DATA_PANEL),
]
_Metric = Annotated[
    list[str] | None,
    typer.Option(help=f"A metric. Can be given several times; by default {', '.join(ev.METRICS)}."),
]
_Pool = Annotated[
    bool,
    typer.Option(
        "--pool",
        help="Measure instead whether a model reads the query: rank the relevant texts of all queries "
        f"for each query ({MAX_QUERIES} queries, or --limit).",
    ),
]
_First = Annotated[
    str | None,
    typer.Option(
        help="A smaller model: also measure each model on the best documents of it, for several numbers of "
        "them.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
_Keep = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help="With --first, how many documents of a query a model reads. Can be given several times.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
_Html = Annotated[str | None, typer.Option(help="Write a report with plots to this file.")]


def evaluate(
    data: _Data,
    model: _Model = None,
    precision: _Precision = None,
    run: _Run = None,
    first_stage: _FirstStage = None,
    depth: _Depth = 100,
    limit: _Limit = None,
    split: _Split = None,
    queries: _Queries = None,
    qrels: _Qrels = None,
    text_field: o.TextField = "text",
    encoding: o.Encoding = UTF_8,
    metric: _Metric = None,
    pool: _Pool = False,
    html: _Html = None,
    json: o.Json = False,
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    long: o.Long = "cut",
    max_windows: o.MaxWindows = MAX_WINDOWS,
    instruction: o.Instruction = None,
    batch_tokens: o.BatchTokens = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    first: _First = None,
    keep: _Keep = None,
) -> None:
    """Measure the quality, speed and memory of models and runs on judged queries.

    They are compared with the first stage, whose candidates the models rerank.
    """
    if not model and not run:
        raise InputError("nothing to measure: give a --model, a --run, or both")
    for option, value in (("--precision", precision), ("--first", first)):
        if value and not model:
            raise InputError(f"{option} is for models; give a --model")
    if pool:
        unused: dict[str, object] = {"--run": run, "--first-stage": first_stage, "--metric": metric}
        unused |= {"--html": html, "--first": first, "--keep": keep}
        if given_with_pool := [name for name, value in unused.items() if value]:
            raise InputError(f"--pool has no use for {', '.join(given_with_pool)}; leave it out")
    names = tuple(dict.fromkeys(metric or ev.METRICS))
    metrics = ev.parse_metrics(names)
    if html:
        _check_report(html, (data, queries, qrels, first_stage, *(run or ())))
    collection = load_collection(
        data, split=split, queries=queries, qrels=qrels, text_field=text_field, encoding=encoding
    )
    options: dict[str, Any] = {"revision": revision, "source": source, "max_length": max_length}
    options |= {
        "long": long,
        "max_windows": max_windows,
        "instruction": instruction,
        "batch_tokens": batch_tokens,
        "device": device,
        "threads": threads,
        "offline": offline,
    }
    named = [
        (
            Path(one).name if kind == "auto" else f"{Path(one).name} {kind}",
            {"model": one, "precision": kind, **options},
        )
        for one in dict.fromkeys(model or ())
        for kind in dict.fromkeys(precision or ("auto",))
    ]
    if pool:
        _evaluate_pool(collection, named, limit or MAX_QUERIES, json)
        return
    if first is not None:
        shared = {name: value for name, value in options.items() if name in SHARED}
        named = [(f"{Path(first).name} (first)", {"model": first, **shared}), *named]
    if first_stage:
        collection.first_stage = read_run(first_stage, encoding)
    given = [ev.System(Path(path).name, read_run(path, encoding), is_given=True) for path in run or ()]
    if limit is not None:
        collection.queries = dict(list(collection.queries.items())[:limit])
        collection.qrels = {query: collection.qrels[query] for query in collection.queries}
    texts = collection.texts()
    baseline = ev.first_stage(collection, texts, depth)
    rows = ev.candidates(collection, texts, baseline.run, depth)
    reranked = rerank(named, rows)
    systems = [baseline, *given, *reranked]
    for system in systems:
        ev.measure(system, collection.qrels, list(collection.queries), metrics)
    found = report.Evaluation(collection, texts, names, depth, tuple(systems))
    curves = [
        curve(reranked[0], large, rows, keeps=keep or (), qrels=collection.qrels, metrics=metrics)
        for large in reranked[1:]
        if first is not None
    ]
    if json:
        own = {"cascades": [each.as_object() for each in curves]} if curves else {}
        write_json(report.as_object(found) | own, indent=2)
    else:
        _print(found)
        for each in curves:
            _print_curve(each)
    if html:
        _write_report(html, found)
        if not json:
            console().print(f"report: {printable(html)}")


def _check_report(html: str, inputs: tuple[str | None, ...]) -> None:
    """Raise InputError if the report cannot be written, before the models run."""
    folder = Path(html).absolute().parent
    if not folder.is_dir():
        raise InputError(f"{html}: there is no such folder")
    if Path(html).is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{html} cannot be written: it is a folder, or its folder cannot be written to")
    if any(_same_file(html, path) for path in inputs):
        raise InputError(f"{html} is an input; the report must be another file")


def _write_report(html: str, found: report.Evaluation) -> None:
    text = report.as_html(found)
    try:
        Path(html).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{html} cannot be written: {error.strerror}") from error


def _evaluate_pool(
    collection: Collection, named: list[tuple[str, dict[str, Any]]], limit: int, json: bool
) -> None:
    rows = pool_rows(collection, collection.texts(), limit)
    systems = (bm25_system(rows), *rerank(named, rows))
    results = [measure_pool(system, rows) for system in systems]
    if json:
        write_json(_pool_object(collection.name, len(rows), results), indent=2)
    else:
        _print_pool(collection.name, len(rows), results)


def _same_file(file: str, other: str | None) -> bool:
    return other is not None and Path(file).exists() and Path(other).exists() and Path(file).samefile(other)


def rerank(named: list[tuple[str, dict[str, Any]]], rows: list[Row]) -> list[ev.System]:
    """Rerank the rows with each model, with a progress bar.

    Args:
        named: for each model, its name in tables, and the arguments of ``Reranker``.
        rows: the candidates.
    """
    systems = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} pairs"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        for name, arguments in named:
            task = bar.add_task(name, total=sum(len(row.documents) for row in rows))
            systems.append(ev.rerank(name, arguments, rows, _advance(bar, task)))
    return systems


def _pool_object(collection: str, queries: int, results: list[PoolResult]) -> dict[str, Any]:
    systems = [
        {
            "name": result.name,
            "own_text_first": result.first,
            "interval_95": [result.low, result.high],
            "variance_by_document": result.document_share,
            "variance_by_query": result.query_share,
        }
        for result in results
    ]
    return {"collection": collection, "queries": queries, "systems": systems}


def _print_pool(collection: str, queries: int, results: list[PoolResult]) -> None:
    out = console()
    out.print(
        f"[bold]{printable(collection)}[/bold]: {queries} queries, "
        "each with the relevant texts of all of them"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("system", overflow="fold")
    for name in ("own text first", "95 % interval", "variance by text", "by query"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            printable(result.name),
            f"{result.first:.3f}",
            f"{result.low:.3f} to {result.high:.3f}",
            f"{result.document_share:.0%}",
            f"{result.query_share:.0%}",
        )
    out.print(table)
    out.print(
        "Variance by text: the share of the variance in wrong texts' scores that the text alone explains. It "
        "is small for a model that reads the query.",
        style="dim",
    )


def _print(found: report.Evaluation) -> None:
    collection, out = found.collection, console()
    out.print(
        f"[bold]{printable(collection.name)}[/bold]: {len(collection.queries)} queries, "
        f"{len(found.texts)} documents, the best {found.depth} of {found.baseline.name} reranked"
    )
    for note in collection.notes:
        out.print(f"[dim]note: {printable(note, 500)}[/dim]")
    out.print(_table(found))
    if len(found.systems) > 1:
        out.print(_differences(found))


def _print_curve(found: Curve) -> None:
    out = console()
    out.print(
        f"[bold]{printable(found.first.name)}[/bold], then [bold]{printable(found.large.name)}[/bold] on the "
        "best documents of it"
    )
    out.print(curve_table(found))
    out.print("The speed-up is computed from the time that each model took alone.", style="dim")


def curve_table(found: Curve, keep: int | None = None) -> Table:
    """What each number of documents gives and costs that the large model reads.

    Args:
        found: the curve.
        keep: the number to point out.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    metrics = list(found.points[0].measures) if found.points else []
    alone = found.large.cost.seconds if found.large.cost else None
    for name in ("keep", f"same top {found.top_n}", *metrics, "pairs", "share", "speed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in found.points:
        cells = [str(point.keep), f"{point.agreement:.1%}"]
        cells += [f"{point.measures[name]:.4f}" for name in metrics]
        cells += [str(point.pairs), f"{point.share:.0%}"]
        cells += [f"{alone / point.seconds:.1f}x" if alone and point.seconds else ""]
        table.add_row(*cells, style="bold" if point.keep == keep else None)
    return table


def _advance(bar: Progress, task: TaskID) -> Callable[[int], None]:
    return lambda pairs: bar.update(task, completed=pairs)


def _table(found: report.Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("system", overflow="fold")
    for name in (*found.metrics, "pairs/s", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for system in found.systems:
        cells = [f"{system.measures[name].mean():.4f}" for name in found.metrics]
        cost = system.cost
        cells += [f"{cost.rate:.0f}", f"{cost.memory / 1e6:.0f} MB"] if cost else ["", ""]
        table.add_row(printable(system.name), *cells)
    return table


def _differences(found: report.Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"against {printable(found.baseline.name)}", overflow="fold")
    table.add_column("", no_wrap=True)
    for name in ("difference", "95 % interval", "better", "worse"):
        table.add_column(name, justify="right", no_wrap=True)
    for system in found.systems[1:]:
        for place, name in enumerate(found.metrics):
            c = found.comparison(system, name)
            interval, colour = f"fewer than {ev.MIN_QUERIES} queries", "dim"
            if c.interval:
                low, high = c.interval
                interval = f"{low:+.4f} to {high:+.4f}"
                colour = "green" if low > 0 else "red" if high < 0 else "dim"
            table.add_row(
                printable(system.name) if place == 0 else "",
                name,
                f"{c.difference:+.4f}",
                f"[{colour}]{interval}[/{colour}]",
                str(c.wins),
                str(c.losses),
            )
    return table
