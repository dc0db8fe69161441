"""``crossrank cascade``: how many documents a large model must read after a small one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from crossrank.cascade import SHARED
from crossrank.cli import options as o
from crossrank.cli.evaluate import curve_table, rerank
from crossrank.cli.writing import console, printable, write_json
from crossrank.data.lines import UTF_8
from crossrank.data.rows import Document, Row, read_rows
from crossrank.errors import InputError
from crossrank.evaluation import measure as ev
from crossrank.evaluation.cascade import TOP_N, Curve, curve
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS

_MUCH = 0.8
"""Share of the pairs from which a cascade saves about as much as its small model costs."""

_METRIC = "nDCG@10"


def cascade(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="The large model: a name, or a folder.",
            rich_help_panel="Model options",
            show_default=False,
            autocompletion=o.model_names,
        ),
    ],
    queries: Annotated[
        str,
        typer.Option(
            help='The queries: JSON Lines or Parquet with "query" and "documents" a row; "labels" if known.',
            show_default=False,
        ),
    ],
    tune: Annotated[bool, typer.Option("--tune", help="Measure which number suits --keep.")] = False,
    first: Annotated[
        str,
        typer.Option(
            help="The small model: a name, or a folder.",
            rich_help_panel="Model options",
            autocompletion=o.model_names,
        ),
    ] = BUNDLED,
    top_n: Annotated[
        int, typer.Option("--top-n", "-n", min=1, help="Results that must be those of the large model alone.")
    ] = TOP_N,
    agreement: Annotated[float, typer.Option(help="Share of the queries for which they must be.")] = 0.99,
    limit: Annotated[int | None, typer.Option(min=1, help="Max queries, from the first.")] = None,
    text_field: o.TextField = "text",
    encoding: o.Encoding = UTF_8,
    json: o.Json = False,
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
) -> None:
    """Measure how many documents of a query the large model must read after the small one.

    Both models read all documents here, which takes as long as without a cascade.
    """
    if not tune:
        raise InputError("say what to do: --tune measures which number suits --keep")
    if not 0 < agreement <= 1:
        raise InputError(f"--agreement is {agreement}; it must be above 0, and 1 at most")
    rows = list(islice(_rows(queries, text_field, encoding), limit))
    if not any(row.documents for row in rows):
        raise InputError(f"{queries}: there are no documents to rank")
    labelled = all(row.labels is not None for row in rows)
    metrics = ev.parse_metrics([_METRIC]) if labelled else None
    qrels = {
        str(row.id): {str(i): label for i, label in enumerate(row.labels or ())} for row in rows if labelled
    }
    own: dict[str, Any] = {"model": model, "revision": revision, "source": source, "max_length": max_length}
    own |= {"instruction": instruction, "batch_tokens": batch_tokens, "precision": precision}
    own |= {"device": device, "threads": threads, "offline": offline}
    own |= {"long": long, "max_windows": max_windows}
    firsts = {name: value for name, value in own.items() if name in SHARED} | {"model": first}
    small, large = rerank([(Path(first).name, firsts), (Path(model).name, own)], rows)
    found = curve(small, large, rows, top_n=top_n, agreement=agreement, qrels=qrels, metrics=metrics)
    keep = found.least(agreement)
    if json:
        write_json({"keep": keep, "queries": len(found.needed), **found.as_object()}, indent=2)
        return
    _print(found, keep, agreement)


def _rows(path: str, text_field: str, encoding: str) -> Iterator[Row]:
    """The rows of a file, with ids that occur once."""
    for number, row in enumerate(read_rows(path, text_field=text_field, encoding=encoding)):
        documents = tuple(Document(i, document.text) for i, document in enumerate(row.documents))
        yield row._replace(id=number, documents=documents)


def _print(found: Curve, keep: int, agreement: float) -> None:
    out = console()
    small, large, count = printable(found.first.name), printable(found.large.name), len(found.needed)
    out.print(f"[bold]{small}[/bold], then [bold]{large}[/bold]: {count} queries")
    out.print(curve_table(found, keep))
    reached = next(point for point in found.points if point.keep == keep)
    out.print(
        f"Use [bold]keep={keep}[/bold]: the top {found.top_n} is that of {large} alone for "
        f"{reached.agreement:.1%} of the queries, and {large} reads {reached.share:.0%} of the pairs."
    )
    if reached.share > _MUCH:
        out.print(f"{small} saves little here: {large} must read nearly all documents.")
    if agreement > 1 - 1 / count:
        out.print(f"With {count} queries, {agreement:.0%} of them are all of them: more would say more.")
