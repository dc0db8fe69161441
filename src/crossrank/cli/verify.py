"""``crossrank verify``: what a precision costs, and whether scores are right ones, here and on a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, cast

import typer
from rich import box
from rich.table import Table

from crossrank.cli import options as o
from crossrank.cli.reading import Pair, read_pairs
from crossrank.cli.writing import console, printable, write_json
from crossrank.engines import Precision, choose_engine
from crossrank.errors import InputError
from crossrank.evaluation.verify import TOP, Cost, Question, Verification, sample_questions
from crossrank.evaluation.verify import verify as measure
from crossrank.models.resolve import BUNDLED
from crossrank.reranker import Reranker

__all__ = ["group"]

_SERVER = "Server options"


def verify(
    context: typer.Context,
    pairs: Annotated[
        str | None,
        typer.Option(
            "--pairs",
            help='TSV (query, tab, document), or JSON Lines with "query", "document" and, if known, '
            '"label"; - is standard input. By default, a few real questions that come with CrossRank.',
        ),
    ] = None,
    golden: Annotated[
        bool,
        typer.Option("--golden", help="Compare with the scores that the model's authors published."),
    ] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="A precision to compare with fp32, or to compare in. Can be given several times; by default "
            "all of them, with --golden the one that is used here, and with --server fp32.",
            autocompletion=o.PRECISIONS,
        ),
    ] = None,
    json: o.Json = False,
    model: o.Model = BUNDLED,
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    batch_tokens: o.BatchTokens = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    server: Annotated[
        str | None,
        typer.Option(
            help="Compare any rerank server at this address with the model here, or with published scores.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(
            help="The API to ask it in: tei, rerank, v1, v2, ollama or score; by default what works.",
            autocompletion=o.one_of("tei", "rerank", "v1", "v2", "ollama", "score"),
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
        float, typer.Option(help="Seconds to wait for each of the server's answers.", rich_help_panel=_SERVER)
    ] = 120.0,
) -> None:
    """Measure what each precision costs against fp32, or whether scores are right; else exit 1."""
    if pairs is not None and (golden or server is not None):
        raise InputError(f"--pairs is not for {'--golden' if server is None else '--server'}")
    if server is None:
        for name in ("dialect", "timeout", "api_key"):
            if o.is_given(context, name):
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} is for a server; give its address with --server")
    elif not o.is_given(context, "model"):
        raise InputError("which model does the server have? Name it with --model")
    for name in precision or ():
        choose_engine(device, cast(Precision, name))  # report mistakes before anything is scored
    load = partial(
        o.open_reranker,
        model,
        revision=revision,
        source=source,
        batch_tokens=batch_tokens,
        device=device,
        threads=threads,
        offline=offline,
    )
    if server is not None:
        if len(precision or ()) > 1:
            raise InputError("--precision is given twice; the model here is compared with in one precision")
        from crossrank.cli.checking import check

        local = None if golden else partial(load, precision=(precision or ["fp32"])[0])
        right = check(
            server,
            model,
            local,
            dialect=dialect,
            api_key=api_key,
            timeout=timeout,
            max_length=max_length,
            json=json,
        )
    elif golden:
        from crossrank.cli.checking import compare_published

        right = compare_published(
            model, partial(load, max_length=max_length), precision or ["auto"], json=json
        )
    else:
        right = True
        _costs(model, partial(load, max_length=max_length), pairs, precision, json=json)
    if not right:
        raise typer.Exit(1)


def _costs(
    model: str,
    load: Callable[..., Reranker],
    pairs: str | None,
    precisions: list[str] | None,
    *,
    json: bool,
) -> None:
    questions = sample_questions() if pairs is None else group(read_pairs(pairs))
    if not questions:
        raise InputError(f"no pairs in {pairs}")
    found = measure(lambda name: load(precision=name), questions, precisions)
    if json:
        write_json({"model": model, **asdict(found)}, indent=2)
        return
    out = console()
    out.print(
        f"[bold]{printable(model)}[/bold] on {found.device} ({found.engine} engine), "
        f"{found.pairs} pairs of {found.questions} queries, against fp32"
    )
    out.print(_table(found))


def group(pairs: list[Pair]) -> list[Question]:
    """Group pairs by query, in the order in which the queries first appear.

    Raises:
        InputError: a label is negative or not a number, or only some of the pairs have one.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.query, []).append(pair)
    labelled = sum("label" in pair.fields for pair in pairs)
    if labelled not in (0, len(pairs)):
        raise InputError(f'{labelled} of {len(pairs)} pairs have a "label"; all of them must, or none')
    return [
        Question(query, tuple(pair.document for pair in own), tuple(map(_label, own)) if labelled else None)
        for query, own in groups.items()
    ]


def _label(pair: Pair) -> float:
    label = pair.fields["label"]
    if not isinstance(label, (int, float)) or not 0 <= label < 1e9:
        raise InputError(
            f'a "label" of the query {pair.query!r} is {label!r}; it must be a number, 0 or more'
        )
    return float(label)


def _table(found: Verification) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    columns: list[tuple[str, Cost | None]] = [
        ("fp32", None),
        *((cost.precision, cost) for cost in found.costs),
    ]
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[str, list[float | None]]] = [
        ("logit, largest difference", [c.logit_max if c else None for _, c in columns]),
        ("logit, mean difference", [c.logit_mean if c else None for _, c in columns]),
        ("score, largest difference", [c.score_max if c else None for _, c in columns]),
        ("score, mean difference", [c.score_mean if c else None for _, c in columns]),
        ("Kendall's tau-b", [c.tau if c else None for _, c in columns]),
        *((f"top-{k} agreement", [c.agreement[k] if c else None for _, c in columns]) for k in TOP),
        ("nDCG@10", [c.ndcg if c else found.ndcg for _, c in columns]),
    ]
    for title, values in rows:
        if any(value is not None for value in values):
            table.add_row(title, *("" if value is None else f"{value:.4f}" for value in values))
    return table
