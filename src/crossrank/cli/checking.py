"""Whether scores are right ones: the reports of ``verify --golden`` and ``verify --server``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from crossrank._extras import needs
from crossrank.cli.writing import console, printable, write_json
from crossrank.errors import EngineError, InputError, ModelError
from crossrank.evaluation.findings import Finding, Level
from crossrank.evaluation.golden import Compared, Published, compare, published_scores
from crossrank.reranker import Reranker

__all__ = ["check", "compare_published", "compared_with", "print_findings"]

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


def print_findings(out: Console, findings: Iterable[Finding]) -> None:
    """Print a line for each finding, and one below it that says what to do."""
    for finding in findings:
        colour = _COLOURS[finding.level]
        out.print(
            f"[{colour}]{finding.level.value:<8}[/{colour}] [bold]{printable(finding.subject)}[/bold]: "
            f"{printable(finding.found, 400)}",
            soft_wrap=True,
        )
        if finding.cure:
            out.print(f"         → {printable(finding.cure, 400)}", soft_wrap=True)


def compared_with(reranker: Reranker, known: Sequence[Published]) -> list[Compared]:
    """Each published score beside the model's own."""
    pairs = [pair for published in known for pair in published.pairs]
    logits = reranker.logits(pairs)
    ends = np.cumsum([len(published.pairs) for published in known])[:-1]
    return [
        row
        for published, own in zip(known, np.split(logits, ends), strict=True)
        for row in compare(published, own, reranker.engine.precision)
    ]


def compare_published(
    model: str, load: Callable[..., Reranker], precisions: Sequence[str], *, json: bool
) -> bool:
    """Print how far a model is from its published scores in each precision, and return whether all are right.

    Raises:
        InputError: none are known of it.
        ModelError, EngineError: as ``Reranker``.
    """
    known = published_scores(model)
    reports: list[dict[str, Any]] = []
    for precision in precisions:
        reranker = load(precision=precision)
        rows = compared_with(reranker, known)
        engine = reranker.engine
        right = all(row.right for row in rows)
        reports.append(
            {
                "precision": engine.precision,
                "engine": engine.name,
                "device": engine.device,
                "right": right,
                "scores": [{**asdict(row), "right": row.right} for row in rows],
            }
        )
        if not json:
            _print_compared(model, reranker, rows)
    if json:
        write_json({"model": model, "comparisons": reports}, indent=2)
    return all(report["right"] for report in reports)


def _print_compared(model: str, reranker: Reranker, rows: Sequence[Compared]) -> None:
    engine, out = reranker.engine, console()
    out.print(
        f"[bold]{printable(model)}[/bold] on {engine.device} ({engine.name} engine) in {engine.precision}, "
        "against published scores"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("query", "document", "kind"):
        table.add_column(title, no_wrap=True)
    for title in ("published", "here", "logits differ by", "tolerance"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        table.add_row(
            printable(row.query, 30),
            printable(row.document, 40),
            row.kind,
            f"{row.published:.5g}",
            f"{row.found:.5g}",
            f"{row.difference:.4f}",
            f"{row.tolerance:.2f}",
            "" if row.right else "[red]too far[/red]",
        )
    out.print(table)
    for source in dict.fromkeys(row.source for row in rows):
        out.print(f"Published in: {printable(source)}", soft_wrap=True)
    wrong = sum(not row.right for row in rows)
    worst = max(row.difference for row in rows)
    if wrong:
        out.print(f"[red]{wrong} of {len(rows)} scores are not right in {engine.precision}.[/red]")
    else:
        out.print(
            f"[green]All {len(rows)} scores are right in {engine.precision}: "
            f"logits differ by {worst:.4f} at most.[/green]"
        )


def check(
    server: str,
    model: str,
    load: Callable[..., Reranker] | None,
    *,
    dialect: str | None,
    api_key: str | None,
    timeout: float,
    max_length: int | None,
    json: bool,
) -> bool:
    """Print what a server's scores are and what is wrong with them, and return whether nothing is.

    Args:
        server: its address.
        model: the model that it should have, and its own name of it.
        load: loads the same model here; None: compare with published scores.
        dialect: the API to ask it in; None: the first that works.
        api_key, timeout: as ``Client``.
        max_length: tokens of a pair here; None: as many as the model reads.
        json: write JSON.

    Raises:
        InputError: there is nothing to compare with, or an option is out of range.
        ServiceError: the server does not answer, or speaks no API that is known.
    """
    with needs("client", "the client"):
        from crossrank.client.dialects import DialectClient
    from crossrank.evaluation.server import check_server, local_reference, published_reference

    with DialectClient(server, api_key=api_key, model=model, timeout=timeout) as client:
        client.find([] if dialect is None else [dialect])
        reason = ""
        try:
            if load is None:
                reference = published_reference(model)
            else:
                reference = local_reference(_load_whole(load, max_length))
        except (ModelError, EngineError) as error:
            reason = str(error)
            try:
                reference = published_reference(model)
            except InputError as unknown:
                raise InputError(f"{model} does not load here ({reason}), and {unknown}") from None
        report = check_server(client, reference)
    if json:
        findings = [{**asdict(finding), "level": finding.level.value} for finding in report.findings]
        write_json(
            {
                "server": server,
                "dialect": report.dialect,
                "model": model,
                "reference": report.reference,
                "ok": report.right,
                "findings": findings,
            },
            indent=2,
        )
        return report.right
    out = console()
    out.print(
        f"[bold]{printable(server)}[/bold] ({report.dialect}) beside {printable(report.reference)}"
        + (f" [dim]({printable(model)} does not load here: {printable(reason)})[/dim]" if reason else ""),
        soft_wrap=True,
    )
    print_findings(out, report.findings)
    out.print(
        "[green]Nothing is wrong with its scores.[/green]"
        if report.right
        else "[red]Its scores, or their order, are wrong.[/red]"
    )
    return report.right


def _load_whole(load: Callable[..., Reranker], max_length: int | None) -> Reranker:
    """The model with as many tokens as it reads, as a server may read more of them than is usual here."""
    reranker = load(max_length=max_length)
    checkpoint = reranker.checkpoint
    if max_length is None and checkpoint is not None and checkpoint.max_length > reranker.max_length:
        reranker.close()
        reranker = load(max_length=checkpoint.max_length)
    return reranker
