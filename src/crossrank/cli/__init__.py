"""The command line: one module for each command, imported when the command runs."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from crossrank import __version__
from crossrank.cli.writing import one_line
from crossrank.errors import CrossRankError, DeadlineError, EngineError, OverloadedError, UnavailableError

__all__ = ["app", "main"]


class _LazyCommand(TyperCommand):
    """A command that is imported when it runs. The help of all commands needs only a line of each.

    Args:
        name: the command's name.
        where: "module:object" within this package; the object is a function or a ``typer.Typer``.
        help: the first line of the command's own help.
        settings: settings of the command's context.
    """

    def __init__(self, name: str, where: str, help: str, **settings: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(name, help=help)
        self._where = where
        self._settings = settings

    def load(self, parent: Any = None) -> Any:
        """Import the command, which is to run in the context ``parent``."""
        module, _, name = self._where.partition(":")
        target = getattr(import_module(f"{__name__}.{module}"), name)
        alone = typer.Typer(add_completion=False)
        if isinstance(target, typer.Typer):
            alone.add_typer(target, name=self.name)
            command: Any = cast(TyperGroup, get_command(alone)).commands[str(self.name)]
        else:
            alone.command(self.name, context_settings=self._settings)(target)
            command = get_command(alone)
        for context in _contexts(command, parent):
            _simplify_types(context)
        return command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **options: Any) -> Any:
        context = self.load(parent).make_context(info_name, args, parent, **options)
        if context.resilient_parsing:  # the shell completes a command that is not finished
            return context
        import_module(f"{__name__}.unused").warn_of_unused_options(self.name, context)
        return context


_COMMANDS = (
    _LazyCommand("rank", "rank:rank", "Order documents by how well they answer QUERY, best first."),
    _LazyCommand("score", "score:score", "Score the pairs of FILE, by default standard input, in order."),
    _LazyCommand(
        "explain",
        "explain:explain",
        "Show how much each sentence of DOCUMENT contributes to its score for QUERY.",
    ),
    _LazyCommand(
        "eval",
        "evaluate:evaluate",
        "Measure the quality, speed and memory of models and runs on judged queries.",
    ),
    _LazyCommand(
        "cascade",
        "cascade:cascade",
        "Measure how many documents of a query the large model must read after the small one.",
    ),
    _LazyCommand("bulk", "bulk:bulk", "Rerank every query of FILE, in order and in little memory."),
    _LazyCommand(
        "serve",
        "serve:serve",
        "Serve rerank APIs over HTTP: those of Cohere, Jina, TEI, vLLM, Xinference and infinity.",
        # Every option is an environment variable, too: CROSSRANK_ and the option's name.
        auto_envvar_prefix="CROSSRANK",
    ),
    _LazyCommand(
        "play",
        "play:play",
        "Open a page in the browser to try rankings and to explain them. Ctrl+C stops it.",
    ),
    _LazyCommand(
        "mcp",
        "mcp:mcp",
        "Give agents the tool `rerank` by the Model Context Protocol, on standard input and output.",
    ),
    _LazyCommand(
        "demo", "demo:demo", "Rerank a few Chinese and English examples, and compare with keyword order."
    ),
    _LazyCommand(
        "doctor",
        "doctor:doctor",
        "Report what can run here, and what prevents the rest; exit 1 if it cannot, or scores are wrong.",
    ),
    _LazyCommand(
        "verify",
        "verify:verify",
        "Measure what each precision costs against fp32, or whether scores are right; else exit 1.",
    ),
    _LazyCommand("models", "models:app", "List, describe, fetch and remove models."),
)


class _Commands(TyperGroup):
    """All commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for command in _COMMANDS:
            self.add_command(command)


app = typer.Typer(
    name="crossrank",
    cls=_Commands,
    help="Rerank search results with cross-encoders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_FAILURES = (EngineError, OverloadedError, DeadlineError, UnavailableError)
"""Errors that are not a mistake of the user's, and exit with code 1."""

_SYSTEM_FAILURES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)
"""System errors that are not a mistake of the user's: a full or broken disk, and limits of the system."""


_VARIABLES = ("CROSSRANK_CACHE", "CROSSRANK_ISA", "CROSSRANK_NUM_THREADS")
"""Environment variables that are not an option of a command."""

_KUBERNETES = re.compile(r"CROSSRANK_(\w+_)?(SERVICE_(HOST|PORT)|PORT)(_\w+)?")
"""Variables that Kubernetes sets for Services that are called crossrank, or crossrank-something."""


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
    """Messages on one line, so that text quoted from files cannot control the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record))


def _contexts(command: Any, parent: Any = None) -> Iterator[Any]:
    """The context of a command, and those of its subcommands."""
    if isinstance(command, _LazyCommand):
        command = command.load(parent)
    context = command.context_class(command, parent=parent, **command.context_settings)
    yield context
    for inner in getattr(command, "commands", {}).values():
        yield from _contexts(inner, context)


def _simplify_types(context: Any) -> None:
    """Show in the help what a user gives.

    A flag has no type, which would be ``--json <bool>``; of an option that can be given several times, the
    type is that of one value, not ``<list[str]>``. An argument's name is in capitals, as the texts have it.
    """
    for parameter in (*context.command.params, context.command.get_help_option(context)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.metavar is None and parameter.param_type_name == "argument":
            parameter.metavar = parameter.name.upper()
        elif parameter.metavar is None and hasattr(parameter, "display_type"):  # of newer versions of typer
            shown = re.sub(r"list\[(.+)\]", r"\1", parameter.display_type(context))
            parameter.metavar = shown.replace(" range", "")


def _variables(root: Any) -> Iterator[str]:
    """The environment variables that options read."""
    for context in _contexts(root):
        prefix = context.command.context_settings.get("auto_envvar_prefix")
        for parameter in context.command.params:
            named = parameter.envvar or (f"{prefix}_{parameter.name.upper()}" if prefix else [])
            yield from [named] if isinstance(named, str) else named


def _warn_of_unknown_variables(root: Any) -> None:
    """Warn of variables that are named like CrossRank's but have no effect, such as misspelt ones."""
    set_here = [
        name
        for name in sorted(os.environ)
        if name.startswith("CROSSRANK_") and name not in _VARIABLES and not _KUBERNETES.fullmatch(name)
    ]
    if not set_here:
        return  # the usual case, in which no command needs to be imported
    variables = {*_VARIABLES, *_variables(root)}
    for name in set_here:
        if name not in variables:
            close = difflib.get_close_matches(name, variables, n=1)
            advice = f"; is {close[0]} meant?" if close else ""
            print(f"warning: {name} is set and has no effect{advice}", file=sys.stderr)


def _is_usage_error(error: Exception) -> bool:
    # They are click's, or those of typer's own copy of click; both have this method.
    return callable(getattr(error, "format_message", None))


def _replace_closed_streams() -> None:
    """Open /dev/null for standard streams that the caller has closed (>&-), as some job schedulers do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - until the end


def _discard_output() -> None:
    """Keep Python from flushing output that could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2."""
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and "utf" not in stream.encoding.lower():
            # A message must be printed even if it names a path that is not UTF-8.
            stream.reconfigure(encoding="utf-8", errors=stream.errors if stream is sys.stdout else "replace")
    # Show only CrossRank's own log messages, not those of other libraries.
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logger = logging.getLogger("crossrank")
    logger.addHandler(handler)
    try:
        command = get_command(app)
        _simplify_types(command.context_class(command, **command.context_settings))
        if "_CROSSRANK_COMPLETE" not in os.environ:  # which the shell sets when it asks how a command goes on
            _warn_of_unknown_variables(command)
        code = command(standalone_mode=False) or 0
        sys.stdout.flush()
    except CrossRankError as error:
        code = 1 if isinstance(error, _FAILURES) else 2
        print("error:", one_line(str(error)), file=sys.stderr)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        _discard_output()  # the reader has closed the pipe (| head): exit quietly
        code = 1  # as typer does if the pipe breaks within a command
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        print("error:", one_line(f"{name}{error.strerror or error}"), file=sys.stderr)
        _discard_output()
        code = 1 if error.errno in _SYSTEM_FAILURES else 2
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
