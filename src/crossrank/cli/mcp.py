"""``crossrank mcp``: a Model Context Protocol server for agents."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from crossrank._extras import needs
from crossrank.cli import options as o
from crossrank.models.resolve import BUNDLED


def mcp(
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
    instruction: o.Instruction = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
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
    options: dict[str, Any] = {}
    if not is_url(model):
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
            "progress": True,
        }
    served.make_server(model, api_key=api_key, options=options).run("stdio")
