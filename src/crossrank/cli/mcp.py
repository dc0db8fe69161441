"""``crossrank mcp``: a Model Context Protocol server for agents."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from crossrank._extras import needs
from crossrank.cascade import KEEP
from crossrank.cli import options as o
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS


def mcp(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model's name or folder, or the address of a `crossrank serve`.",
            rich_help_panel="Model options",
            autocompletion=o.model_names,
        ),
    ] = BUNDLED,
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    long: o.Long = "cut",
    max_windows: o.MaxWindows = MAX_WINDOWS,
    instruction: o.Instruction = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    first: o.First = None,
    keep: o.Keep = KEEP,
    api_key: Annotated[
        str | None,
        typer.Option(
            help="The key of a server. Other users see a command's options: prefer the variable.",
            envvar="CROSSRANK_API_KEY",
        ),
    ] = None,
) -> None:
    """Give agents the tool `rerank` by the Model Context Protocol, on standard input and output."""
    with needs("mcp", "the MCP server"):
        from crossrank.integrations import mcp as served
        from crossrank.integrations.ranker import is_url
    windows: dict[str, Any] = {"long": long, "max_windows": max_windows}
    if is_url(model):
        # What is not given here is the server's choice.
        options = {name: value for name, value in windows.items() if o.is_given(context, name)}
    else:
        api_key = None  # the variable may be set for other commands
        options = {
            "revision": revision,
            "source": source,
            "max_length": max_length,
            "instruction": instruction,
            "precision": precision,
            "device": device,
            "threads": threads,
            "offline": offline,
            "first": first,
            "keep": keep,
            "progress": True,
        } | windows
    served.make_server(model, api_key=api_key, options=options).run("stdio")
