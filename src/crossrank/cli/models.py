"""``crossrank models``: what is on this machine, and what is fetched to it or removed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from crossrank.cli import options as o
from crossrank.models import Source, cached_folder, resolve, stored_models
from crossrank.models import remove as remove_model

__all__ = ["app"]

app = typer.Typer(help="List, fetch and remove models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A model's name, BAAI/bge-reranker-v2-m3 say.", show_default=False)]


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array; sizes in bytes.")] = False,
) -> None:
    """Show the bundled model, those in ./models, and those in the hub's cache."""
    found = stored_models()
    if as_json:
        rows = [{**asdict(model), "path": str(model.path.absolute())} for model in found]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table("model", "place", "size", "revision", "folder", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    table.columns[4].overflow = "fold"
    for model in found:
        size = decimal(model.size) if model.complete else f"{decimal(model.size)}, incomplete"
        table.add_row(model.name, model.place, size, (model.revision or "")[:8], str(model.path))
    Console().print(table)


@app.command()
def pull(name: Name, revision: o.Revision = None, source: o.SourceOption = "hub") -> None:
    """Fetch a model, or bring it up to date, and print its folder. A broken pull goes on where it ended."""
    typer.echo(resolve(name, revision=revision, source=cast("Source", source), progress=True, refresh=True))


@app.command()
def path(name: Name, revision: o.Revision = None, source: o.SourceOption = "hub") -> None:
    """Print the folder of a model that is on this machine; nothing is fetched."""
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
