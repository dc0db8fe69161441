"""``crossrank score``: the scores of query-document pairs, in input order."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from crossrank.cli import options as o
from crossrank.cli.reading import STDIN, read_pairs
from crossrank.cli.writing import bar, console, printable, write_json, write_tsv
from crossrank.errors import InputError
from crossrank.models import BUNDLED
from crossrank.ranking import sigmoid


def score(
    file: Annotated[
        str,
        typer.Argument(help='TSV (query, tab, document), or JSON Lines with "query" and "document".'),
    ] = STDIN,
    raw: o.Raw = False,
    json: o.Json = False,
    jsonl: o.Jsonl = False,
    tsv: o.Tsv = False,
    model: o.Model = BUNDLED,
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    batch_tokens: o.BatchTokens = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
) -> None:
    """Score the pairs of FILE (- or nothing: standard input), in their order."""
    form = o.output_format(json, jsonl, tsv)
    pairs = read_pairs(file)
    if not pairs:
        raise InputError(f"no pairs in {'standard input' if file == STDIN else file}")
    reranker = o.open_reranker(
        model,
        revision=revision,
        source=source,
        max_length=max_length,
        batch_tokens=batch_tokens,
        precision=precision,
        device=device,
        threads=threads,
        offline=offline,
    )
    logits = reranker.logits([(pair.query, pair.document) for pair in pairs])
    scores = sigmoid(logits)
    if form in (o.Format.JSON, o.Format.JSONL):
        rows = [
            {"query": pair.query, "document": pair.document, "score": float(s), "logit": float(x)}
            | {key: value for key, value in pair.fields.items() if key not in ("score", "logit")}
            for pair, s, x in zip(pairs, scores, logits, strict=True)
        ]
        if form is o.Format.JSON:
            write_json({"model": model, "results": rows}, indent=2)
        else:
            for row in rows:
                write_json(row)
        return
    shown = logits if raw else scores
    name = "logit" if raw else "score"
    if form is o.Format.TSV:
        write_tsv([name, "query", "document"])
        for pair, number in zip(pairs, shown, strict=True):
            write_tsv([float(number), pair.query, pair.document])
        return
    table = Table(name, "", "query", "document", box=box.SIMPLE_HEAD, pad_edge=False)
    for pair, number, s in zip(pairs, shown, scores, strict=True):
        table.add_row(
            f"{number:.4f}", f"[cyan]{bar(float(s))}[/cyan]", *map(printable, (pair.query, pair.document))
        )
    console().print(table)
