"""``crossrank score``: the scores of query-document pairs, in input order."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from crossrank.cli import options as o
from crossrank.cli.reading import STDIN, read_pairs
from crossrank.cli.writing import bar, console, printable, write_json, write_tsv
from crossrank.data.lines import UTF_8
from crossrank.errors import InputError
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS
from crossrank.ranking import ScoredPair


def score(
    file: Annotated[
        str,
        typer.Argument(help='TSV (query, tab, document), or JSON Lines with "query" and "document".'),
    ] = STDIN,
    encoding: o.Encoding = UTF_8,
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
) -> None:
    """Score the pairs of FILE, by default standard input, in order."""
    form = o.output_format(json, jsonl, tsv)
    pairs = read_pairs(file, encoding)
    if not pairs:
        raise InputError(f"no pairs in {'standard input' if file == STDIN else file}")
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
        long=long,
        max_windows=max_windows,
    )
    scored = reranker.score_pairs([(pair.query, pair.document) for pair in pairs])
    if form in (o.Format.JSON, o.Format.JSONL):
        rows = [
            {"query": pair.query, "document": pair.document, **_as_object(found)}
            # A line's own fields never hide CrossRank's.
            | {key: value for key, value in pair.fields.items() if key not in ScoredPair.__slots__}
            for pair, found in zip(pairs, scored, strict=True)
        ]
        if form is o.Format.JSON:
            write_json({"model": model, "results": rows}, indent=2)
        else:
            for row in rows:
                write_json(row)
        return
    name = "logit" if raw else "score"
    shown = [found.logit if raw else found.score for found in scored]
    if form is o.Format.TSV:
        write_tsv([name, "query", "document"])
        for pair, number in zip(pairs, shown, strict=True):
            write_tsv([number, pair.query, pair.document])
        return
    table = Table(name, "", "query", "document", box=box.SIMPLE_HEAD, pad_edge=False)
    for pair, number, found in zip(pairs, shown, scored, strict=True):
        cells = [f"{number:.4f}", f"[cyan]{bar(found.score)}[/cyan]"]
        texts = ((pair.query, found.query_truncated), (pair.document, found.truncated))
        cells += [printable(text) + (" [dim](truncated)[/dim]" if cut else "") for text, cut in texts]
        table.add_row(*cells)
    console().print(table)


def _as_object(found: ScoredPair) -> dict[str, Any]:
    fields = asdict(found)
    if found.window is None:
        del fields["window"]
    return fields
