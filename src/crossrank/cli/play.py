"""``crossrank play``: the page of ``crossrank serve``, in the browser."""

from __future__ import annotations

import socket
import threading
import webbrowser
from typing import Annotated

import typer

from crossrank._extras import needs
from crossrank.cli import options as o
from crossrank.cli.serving import server_logs
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS

_HOST, _PORT = "127.0.0.1", 8080


def play(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A model's name or folder, or NAME=either. Can be given several times: the page shows the "
            "models side by side.",
            rich_help_panel="Model options",
            autocompletion=o.model_names,
        ),
    ] = [BUNDLED],  # noqa: B006 - typer wants a list, and copies it
    port: Annotated[
        int | None,
        typer.Option(help=f"The port to listen on; by default {_PORT}, or a free one.", show_default=False),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    long: o.Long = "cut",
    max_windows: o.MaxWindows = MAX_WINDOWS,
    instruction: o.Instruction = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
) -> None:
    """Open a page in the browser to try rankings and to explain them. Ctrl+C stops it."""
    with needs("server", "the server"):
        from crossrank.server import run, settings
    wanted = settings.Settings(
        models=model,
        model_options={
            "source": source,
            "max_length": max_length,
            "long": long,
            "max_windows": max_windows,
            "instruction": instruction,
            "precision": precision,
            "device": device,
            "threads": threads,
            "offline": offline,
        },
        host=_HOST,
        port=_free_port() if port is None else port,
    )

    def show(url: str) -> None:
        page = f"{url}/?models=all" if len(model) > 1 else f"{url}/"
        typer.echo(f"CrossRank is at {page} (Ctrl+C stops it)")
        if browser:  # in a thread, since a text browser in the terminal would not return
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()

    with server_logs("text", "warning"):
        run.run(wanted, listening=show)


def _free_port() -> int:
    """The usual port, so that links stay valid, or 0 (any free port) if it is taken."""
    try:
        socket.create_server((_HOST, _PORT)).close()
    except OSError:
        return 0
    return _PORT
