"""``crossrank explain``: how much each sentence of a document contributes to its score."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from crossrank.cli import options as o
from crossrank.cli.reading import read_text
from crossrank.cli.writing import QUERY_TRUNCATED, bar, console, one_line, printable, write_json, write_tsv
from crossrank.data.lines import UTF_8
from crossrank.errors import InputError
from crossrank.explain import DEFAULT_SENTENCES, ExplainedSentence, Explanation
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS

# Styles of sentences, by how far the score falls without them: from not at all to the most.
_HEAT = ("", "on color(153)", "on color(111)", "on color(75)")
_INK = "color(16) "


def explain(
    query: Annotated[str, typer.Argument(help="The query.", show_default=False)],
    document: Annotated[
        str | None, typer.Argument(help="The document, if not from --file.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", help="A text file that is one document; - is standard input."),
    ] = None,
    max_sentences: Annotated[
        int, typer.Option(help="Max sentences to explain, from the document's start.")
    ] = DEFAULT_SENTENCES,
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
    """Show how much each sentence of DOCUMENT contributes to its score for QUERY.

    "alone" is the sentence's own score. "without" is how much the document's score changes without it.
    """
    form = o.output_format(json, jsonl, tsv)
    if (document is None) == (file is None):
        raise InputError("one document is explained: give it after the query, or with --file FILE")
    text = read_text(file, encoding) if file is not None else document
    assert text is not None
    reranker = o.open_reranker(
        model,
        revision=revision,
        source=source,
        max_length=max_length,
        long=long,
        max_windows=max_windows,
        instruction=instruction,
        batch_tokens=batch_tokens,
        precision=precision,
        device=device,
        threads=threads,
        offline=offline,
    )
    found = reranker.explain(query, text, max_sentences=max_sentences)
    if form is o.Format.JSON:
        write_json({"model": model, **asdict(found)}, indent=2)
    elif form is o.Format.JSONL:
        for sentence in found.sentences:
            write_json(asdict(sentence))
    elif form is o.Format.TSV:
        write_tsv(["start", "end", *(("logit", "logit_fall") if raw else ("score", "score_fall")), "text"])
        for sentence in found.sentences:
            alone, fall = _numbers(sentence, raw)
            write_tsv([sentence.start, sentence.end, alone, "" if fall is None else fall, sentence.text])
    else:
        _print(found, raw)


def _numbers(sentence: ExplainedSentence, raw: bool) -> tuple[float, float | None]:
    if raw:
        return sentence.logit, sentence.logit_fall
    return sentence.score, sentence.score_fall


def _print(found: Explanation, raw: bool) -> None:
    out = console()
    whole = f"logit {found.logit:.4f}" if raw else f"score {found.score:.4f}"
    out.print(f"[bold]{printable(found.query)}[/bold]  {whole}\n")
    out.print(_strip(found), "")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("alone", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("without", justify="right", no_wrap=True)
    table.add_column("sentence", overflow="fold")
    for sentence in found.sentences:
        alone, fall = _numbers(sentence, raw)
        note = "" if sentence.read == len(sentence.text) else " [dim](truncated)[/dim]"
        note = note if sentence.read else " [dim](not read)[/dim]"
        table.add_row(
            f"{alone:.4f}",
            f"[cyan]{bar(sentence.score)}[/cyan]",
            "" if fall is None else f"{-fall:+.4f}",
            printable(sentence.text) + note,
        )
    out.print(table)
    if found.query_truncated:
        out.print(QUERY_TRUNCATED)
    if found.window is not None:
        start, end = found.window
        out.print(
            f"The score is that of the best window, characters {start} to {end} of {len(found.document)}."
        )
    elif found.read < len(found.document):
        out.print(
            f"The model read the first {found.read} of {len(found.document)} characters; "
            "the rest was truncated."
        )
    if found.sentences_left_out:
        out.print(f"{found.sentences_left_out} more sentences were not explained (see --max-sentences).")


def _strip(found: Explanation) -> Text:
    """The document's sentences. The darker a sentence is, the more the score falls without it."""
    largest = max((sentence.logit_fall or 0.0 for sentence in found.sentences), default=0.0)
    strip, end = Text(), 0
    for sentence in found.sentences:
        if 0 < end < sentence.start:
            strip.append(" ")
        end = sentence.end
        share = max(0.0, sentence.logit_fall or 0.0) / largest if largest > 0 else 0.0
        heat = _HEAT[min(3, int(share * 4))]
        style = (_INK + heat if heat else "") if sentence.read else "dim"
        strip.append(one_line(sentence.text), style)
    return strip
