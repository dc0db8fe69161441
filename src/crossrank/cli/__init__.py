"""The command line: one module for each command."""

from __future__ import annotations

import errno
import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from crossrank import __version__
from crossrank.cli import bulk, demo, doctor, evaluate, explain, models, play, rank, score, serve, verify
from crossrank.errors import CrossRankError, DeadlineError, EngineError, OverloadedError, UnavailableError

__all__ = ["app", "main"]

app = typer.Typer(
    name="crossrank",
    help="Rerank search results with cross-encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(rank.rank)
app.command()(score.score)
app.command()(explain.explain)
app.command("eval")(evaluate.evaluate)
app.command()(bulk.bulk)
# Options without a variable's name of their own have CROSSRANK_ and theirs.
app.command(context_settings={"auto_envvar_prefix": "CROSSRANK"})(serve.serve)
app.command()(play.play)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command()(verify.verify)
app.add_typer(models.app, name="models")


_NOT_THE_USERS = (EngineError, OverloadedError, DeadlineError, UnavailableError)
"""What went wrong without a mistake of the user's."""

_THE_SYSTEMS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Nor are these: a full disk, a broken one, and limits of the system."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"crossrank {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Rerank search results with cross-encoders."""


def _is_usage_error(error: Exception) -> bool:
    # typer's usage errors are click's, or those of its own copy of click: the method tells.
    return callable(getattr(error, "format_message", None))


def _open_what_is_closed() -> None:
    """Standard streams that the caller has closed (>&-), as some job schedulers do: nothing is in them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the end


def _forget_output() -> None:
    """Keep Python from flushing what could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(encoding="utf-8")
    # Only CrossRank's own messages: other libraries' logging is not a user's business.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("crossrank")
    logger.addHandler(handler)
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except CrossRankError as error:
        code = 1 if isinstance(error, _NOT_THE_USERS) else 2
        print("error:", " ".join(str(error).split()), file=sys.stderr)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        _forget_output()  # the reader has gone (| head): leave quietly
        code = 1  # typer's own choice, where the pipe breaks within a command
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {name}{error.strerror or error}", file=sys.stderr)
        _forget_output()
        code = 1 if error.errno in _THE_SYSTEMS else 2
    except Exception as error:
        if not _is_usage_error(error):
            raise
        code = 2
        message = error.format_message()  # type: ignore[attr-defined]
        if message:  # a command without arguments has printed its help
            print(f"error: {message} (see --help)", file=sys.stderr)
    finally:
        logger.removeHandler(handler)
    sys.exit(code)
