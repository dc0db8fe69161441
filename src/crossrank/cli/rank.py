"""``crossrank rank``: order documents by how well they answer a query."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from crossrank.cascade import KEEP
from crossrank.cli import options as o
from crossrank.cli.reading import read_documents
from crossrank.cli.writing import QUERY_TRUNCATED, bar, console, printable, write_json, write_tsv
from crossrank.data.lines import UTF_8
from crossrank.errors import InputError
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS
from crossrank.ranking import RankedDocument, Ranking, check_options

_SERVER = "Server options"

_MODEL_PARAMETERS = (
    "revision",
    "source",
    "max_length",
    "batch_tokens",
    "precision",
    "device",
    "threads",
    "offline",
    "first",
    "keep",
)
"""Parameters that only load a model, so that they have no effect with --server."""

_SERVER_PARAMETERS = ("api_key", "timeout")
"""Parameters that have no effect without --server."""


def rank(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="The query.", show_default=False)],
    documents: Annotated[
        list[str] | None, typer.Argument(help="The documents, if not from --file.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help='A file with a document a line, or JSON with "text"; - is standard input.'
        ),
    ] = None,
    text_field: o.TextField = "text",
    encoding: o.Encoding = UTF_8,
    top_n: Annotated[int | None, typer.Option("--top-n", "-n", help="Max documents to show.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Min score of documents to show.")] = None,
    raw: o.Raw = False,
    json: o.Json = False,
    jsonl: o.Jsonl = False,
    tsv: o.Tsv = False,
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
    server: Annotated[
        str | None,
        typer.Option(
            help="Use the `crossrank serve` at this address; -m is then the name of one of its models.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="The server's key. Other users see a command's options: prefer the variable.",
            envvar="CROSSRANK_API_KEY",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the server's answer.", rich_help_panel=_SERVER)
    ] = 60.0,
) -> None:
    """Order documents by how well they answer QUERY, best first."""
    form = o.output_format(json, jsonl, tsv)
    check_options(top_n, threshold)
    candidates: list[Any] = list(documents or [])
    if file is None:
        _refuse(context, ("text_field",), "is for the documents of --file")
    else:
        candidates += read_documents(file, text_field, encoding)
    if not candidates:
        raise InputError("no documents: give them after the query, or with --file FILE")
    if server is not None:
        _refuse(context, _MODEL_PARAMETERS, "is an option of the server, which must be started with it")
        served = model if o.is_given(context, "model") else None
        windows = {
            "long": long if o.is_given(context, "long") else None,
            "max_windows": max_windows if o.is_given(context, "max_windows") else None,
        }
        with o.open_client(server, api_key=api_key, model=served, timeout=timeout, **windows) as client:
            ranking = client.rank(
                query, candidates, instruction=instruction, top_n=top_n, threshold=threshold
            )
            if form is o.Format.JSON and served is None:
                model = client.models()[0]
    else:
        _refuse(context, _SERVER_PARAMETERS, "is for a server; give its address with --server")
        reranker = o.open_reranker(
            model,
            revision=revision,
            source=source,
            max_length=max_length,
            instruction=instruction,
            batch_tokens=batch_tokens,
            precision=precision,
            device=device,
            threads=threads,
            offline=offline,
            first=first,
            keep=keep,
            long=long,
            max_windows=max_windows,
        )
        ranking = reranker.rank(query, candidates, top_n=top_n, threshold=threshold)
    _write(ranking, form, raw, query, model)


def _refuse(context: typer.Context, names: tuple[str, ...], reason: str) -> None:
    """Raise InputError if one of the parameters was given on the command line."""
    for name in names:
        if o.is_given(context, name):
            option = "--from" if name == "source" else f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {reason}")


def _write(ranking: Ranking, form: o.Format, raw: bool, query: str, model: str) -> None:
    if form is o.Format.JSON:
        results = [_as_object(hit) for hit in ranking]
        write_json({"query": query, "model": model, "results": results}, indent=2)
    elif form is o.Format.JSONL:
        for hit in ranking:
            write_json(_as_object(hit))
    elif form is o.Format.TSV:
        # Which of two models scored a hit; the other columns keep their places.
        names = ["rank", "index", "logit" if raw else "score", "text"]
        write_tsv([*names, "model"] if _has_models(ranking) else [*names])
        for hit in ranking:
            cells = [hit.rank, hit.index, hit.logit if raw else hit.score, hit.text]
            write_tsv([*cells, hit.model] if hit.model else cells)
    else:
        console().print(_table(ranking, raw))
        if any(hit.query_truncated for hit in ranking):
            console().print(QUERY_TRUNCATED)


def _as_object(hit: RankedDocument) -> dict[str, Any]:
    # A document's own fields never hide CrossRank's.
    own: dict[str, Any] = {"rank": hit.rank, "index": hit.index, "score": hit.score, "logit": hit.logit}
    own |= {"truncated": hit.truncated, "query_truncated": hit.query_truncated, "text": hit.text}
    own |= {"blank": True} if hit.blank else {}
    own |= {"model": hit.model} if hit.model else {}
    own |= {"window": hit.window} if hit.window else {}
    return own | {key: value for key, value in hit.fields.items() if key not in own}


def _has_models(ranking: Ranking) -> bool:
    """Whether hits say which model scored them, as there are two."""
    return any(hit.model for hit in ranking)


def _table(ranking: Ranking, raw: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("logit" if raw else "score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("index", justify="right")
    if _has_models(ranking):
        table.add_column("model", no_wrap=True)
    table.add_column("document", overflow="fold")
    for hit in ranking:
        number = f"{hit.logit:.4f}" if raw else f"{hit.score:.4f}"
        text, note = hit.text, " [dim](truncated)[/dim]" if hit.truncated else ""
        if hit.window is not None:
            start, end = hit.window
            text = text[start:end]
            note += f" [dim](characters {start} to {end} of {len(hit.text)})[/dim]"
        note += " [dim](no letter or digit: ranked last)[/dim]" if hit.blank else ""
        row = [str(hit.rank), number, f"[cyan]{bar(hit.score)}[/cyan]", str(hit.index)]
        row += [printable(hit.model)] if hit.model else []
        table.add_row(*row, printable(text) + note)
    return table
