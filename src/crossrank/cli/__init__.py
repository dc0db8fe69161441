"""The command line: one module for each command."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from crossrank import __version__
from crossrank.cli import bulk, demo, doctor, evaluate, explain, models, play, rank, score, serve, verify
from crossrank.cli.writing import one_line
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


_VARIABLES = ("CROSSRANK_CACHE", "CROSSRANK_ISA", "CROSSRANK_NUM_THREADS")
"""Environment variables that are read elsewhere than by an option."""

_KUBERNETES = re.compile(r"CROSSRANK_(\w+_)?(SERVICE_(HOST|PORT)|PORT)(_\w+)?")
"""What Kubernetes sets for Services that are called crossrank, or crossrank-something."""


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


class _OneLine(logging.Formatter):
    """What is quoted from files does not command the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record))


def _contexts(command: Any, parent: Any = None) -> Iterator[Any]:
    """A command and those within it, each in its context."""
    context = command.context_class(command, parent=parent, **command.context_settings)
    yield context
    for inner in getattr(command, "commands", {}).values():
        yield from _contexts(inner, context)


def _prepare(root: Any) -> set[str]:
    """Leave the word for a flag's type out of the help; the environment variables that options read."""
    variables = set(_VARIABLES)
    for context in _contexts(root):
        command = context.command
        prefix = command.context_settings.get("auto_envvar_prefix")
        for parameter in (*command.params, command.get_help_option(context)):
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
            named = parameter.envvar or (f"{prefix}_{parameter.name.upper()}" if prefix else [])
            variables.update([named] if isinstance(named, str) else named)
    return variables


def _warn_of_unknown(variables: set[str]) -> None:
    for name in sorted(os.environ):
        if name.startswith("CROSSRANK_") and name not in variables and not _KUBERNETES.fullmatch(name):
            close = difflib.get_close_matches(name, variables, n=1)
            advice = f"; is {close[0]} meant?" if close else ""
            print(f"warning: {name} is set and has no effect{advice}", file=sys.stderr)


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
            # A path that is not UTF-8 must not be the end of the message that names it.
            stream.reconfigure(encoding="utf-8", errors=stream.errors if stream is sys.stdout else "replace")
    # Only CrossRank's own messages: other libraries' logging is not a user's business.
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logger = logging.getLogger("crossrank")
    logger.addHandler(handler)
    try:
        command = get_command(app)
        _warn_of_unknown(_prepare(command))
        code = command(standalone_mode=False) or 0
        sys.stdout.flush()
    except CrossRankError as error:
        code = 1 if isinstance(error, _NOT_THE_USERS) else 2
        print("error:", one_line(str(error)), file=sys.stderr)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        _forget_output()  # the reader has gone (| head): leave quietly
        code = 1  # typer's own choice, where the pipe breaks within a command
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        print("error:", one_line(f"{name}{error.strerror or error}"), file=sys.stderr)
        _forget_output()
        code = 1 if error.errno in _THE_SYSTEMS else 2
    except Exception as error:
        if not _is_usage_error(error):
            raise
        code = 2
        message = error.format_message()  # type: ignore[attr-defined]
        if message:  # a command without arguments has printed its help
            print("error:", one_line(f"{message} (see --help)"), file=sys.stderr)
    finally:
        logger.removeHandler(handler)
    sys.exit(code)
