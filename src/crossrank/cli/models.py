"""``crossrank models``: list the models on this machine, describe, fetch and remove them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.filesize import decimal
from rich.table import Table

from crossrank._facts import ModelFacts, model_facts
from crossrank.cli import options as o
from crossrank.cli.unused import warn_of_unused_options
from crossrank.cli.writing import console, one_line, printable, write_json
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.content import cache_folder
from crossrank.models.resolve import BUNDLED, Source, cached_folder, resolve, stored_models
from crossrank.models.resolve import remove as remove_model
from crossrank.models.weight_cache import PreparedFile, prepared_files

__all__ = ["app"]

app = typer.Typer(help="List, describe, fetch and remove models.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        help="A model's name, such as BAAI/bge-reranker-v2-m3.",
        show_default=False,
        autocompletion=o.model_names,
    ),
]


@app.command("list")
def list_models(
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON array, with sizes in bytes.")
    ] = False,
) -> None:
    """List the bundled model, those in ./models and in the hub's cache, and prepared weights."""
    found, prepared = stored_models(), prepared_files()
    if as_json:
        rows = [{**asdict(model), "path": str(model.path.absolute())} for model in found]
        rows += [_as_object(file) for file in prepared]
        write_json(rows, indent=2)
        return
    table = Table("model", "place", "size", "revision", "folder", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    table.columns[4].overflow = "fold"

    def add(*cells: str) -> None:
        table.add_row(*(printable(cell, 4096) for cell in cells))

    for model in found:
        size = decimal(model.size) if model.complete else f"{decimal(model.size)}, incomplete"
        add(model.name, model.place, size, (model.revision or "")[:8], str(model.path))
    for file in prepared:
        size = decimal(file.size) if file.state == "current" else f"{decimal(file.size)}, {file.state}"
        add(file.model, "prepared", size, file.precision, str(file.path))
    console().print(table)


@app.command()
def pull(
    context: typer.Context, name: Name, revision: o.Revision = None, source: o.SourceOption = "hub"
) -> None:
    """Fetch or update a model, and print its folder. An interrupted pull resumes where it stopped."""
    warn_of_unused_options("models pull", context)
    typer.echo(resolve(name, revision=revision, source=cast("Source", source), progress=True, refresh=True))


@app.command()
def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="A model's name or folder.", autocompletion=o.model_names)
    ] = BUNDLED,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
) -> None:
    """Say what a model is, and which engine would run it here. The model must be on this machine."""
    warn_of_unused_options("models show", context)
    folder = resolve(name, revision=revision, source=cast("Source", source), offline=True)
    facts = model_facts(Checkpoint(folder, name=Path(name).name))
    if as_json:
        write_json(asdict(facts), indent=2)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    sizes = ", ".join(f"{label} {number:,}" for label, number in facts.sizes.items())
    runs = f"{facts.engine} on {facts.device} in {facts.precision}" if facts.engine else "nothing here"
    for label, text in (
        ("model", facts.name),
        ("folder", facts.folder),
        ("family", facts.family),
        ("weights", f"{facts.parameters / 1e6:,.1f} million"),
        ("sizes", sizes),
        ("encoder", facts.encoder),
        ("window", f"{facts.max_tokens:,} tokens; {facts.default_max_length:,} by default (max_length)"),
        ("template", facts.template.replace("\n", "\\n")),
        ("prompt", facts.prompt or ""),
        ("instruction", facts.instruction or ("none by default" if facts.instruction == "" else "")),
        ("head", facts.head),
        ("score", facts.label_rule),
        ("licence", facts.licence or "the folder does not say"),
        ("engine", f"{runs}: {facts.reason}"),
        ("memory", _memory(facts)),
    ):
        if text:
            table.add_row(label, printable(text, 4096))
    console().print(table)


@app.command()
def path(
    context: typer.Context, name: Name, revision: o.Revision = None, source: o.SourceOption = "hub"
) -> None:
    """Print the folder of a model that is on this machine; nothing is fetched."""
    warn_of_unused_options("models path", context)
    typer.echo(resolve(name, revision=revision, source=cast("Source", source), offline=True))


@app.command()
def remove(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False
) -> None:
    """Delete a model from the hub's cache."""
    folder, size = cached_folder(name)
    if not yes:
        typer.confirm(f"Delete {folder} ({decimal(size)})?", abort=True, err=True)
    typer.echo(f"{decimal(remove_model(name))} freed", err=True)


@app.command()
def clean(
    everything: Annotated[
        bool, typer.Option("--all", help="Also delete those in use; the next start prepares them again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Delete prepared weights whose model has changed or is gone, and leftovers of crashes."""
    files = [file for file in prepared_files() if everything or file.state != "current"]
    if not files:
        typer.echo(f"nothing to delete in {cache_folder()}", err=True)
        return
    for file in files:
        typer.echo(one_line(f"{file.model} ({file.path.name}): {file.state}, {decimal(file.size)}"), err=True)
    if not yes:
        typer.confirm(f"Delete these from {cache_folder()}?", abort=True, err=True)
    for file in files:
        file.path.unlink(missing_ok=True)
    typer.echo(f"{decimal(sum(file.size for file in files))} freed", err=True)


def _memory(facts: ModelFacts) -> str:
    if facts.memory is None:
        return ""
    free = "" if facts.free is None or facts.device != "cpu" else f"; {decimal(facts.free)} are free here"
    return f"{decimal(facts.memory)} for the weights in {facts.precision}{free}"


def _as_object(file: PreparedFile) -> dict[str, Any]:
    """Prepared weights as an object with the fields of a model and some of its own."""
    return {
        "name": file.model,
        "place": "prepared",
        "path": str(file.path.absolute()),
        "size": file.size,
        "revision": None,
        "complete": file.state != "unfinished",
        "precision": file.precision,
        "state": file.state,
        "source": str(file.source) if file.source else None,
    }
