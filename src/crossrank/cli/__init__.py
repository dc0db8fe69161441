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


class _Later(TyperCommand):
    """A command that is imported when it is used: the help of all of them needs no more than a line of each.

    Args:
        name: of the command.
        where: "module:object" within this package; the object is a function or a ``typer.Typer``.
        help: the first line of the command's own help.
        settings: of the command's context.
    """

    def __init__(self, name: str, where: str, help: str, **settings: Any) -> None:  # noqa: A002 - typer's name
        super().__init__(name, help=help)
        self._where = where
        self._settings = settings

    def load(self, parent: Any = None) -> Any:
        """The command itself, to be run in the context ``parent``."""
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
            _drop_words_for_flags(context)
        return command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **options: Any) -> Any:
        return self.load(parent).make_context(info_name, args, parent, **options)


_COMMANDS = (
    _Later("rank", "rank:rank", "Order documents by how well they answer QUERY, best first."),
    _Later("score", "score:score", "Score the pairs of FILE (- or nothing: standard input), in their order."),
    _Later("explain", "explain:explain", "Show which sentences of DOCUMENT carry its score for QUERY."),
    _Later(
        "eval",
        "evaluate:evaluate",
        "Measure models and runs on judged queries, beside the first stage: quality, speed, memory.",
    ),
    _Later("bulk", "bulk:bulk", "Rerank every query of FILE, in its order, in little memory."),
    _Later(
        "serve",
        "serve:serve",
        "Serve rerank APIs over HTTP: those of Cohere, Jina, TEI, vLLM, Xinference and infinity.",
        # Options without a variable's name of their own have CROSSRANK_ and theirs.
        auto_envvar_prefix="CROSSRANK",
    ),
    _Later(
        "play",
        "play:play",
        "Open a page to try rankings on, and to see why they are as they are. Ctrl+C ends it.",
    ),
    _Later("demo", "demo:demo", "Rerank a few Chinese and English examples, beside their keyword order."),
    _Later(
        "doctor",
        "doctor:doctor",
        "Say what would run here and what is in its way; exit 1 if the main job cannot run.",
    ),
    _Later("verify", "verify:verify", "Say what each precision costs against fp32: logits, scores, order."),
    _Later("models", "models:app", "List, fetch and remove models."),
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
    if isinstance(command, _Later):
        command = command.load(parent)
    context = command.context_class(command, parent=parent, **command.context_settings)
    yield context
    for inner in getattr(command, "commands", {}).values():
        yield from _contexts(inner, context)


def _drop_words_for_flags(context: Any) -> None:
    """Leave the word for a flag's type out of the help."""
    for parameter in (*context.command.params, context.command.get_help_option(context)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""


def _variables(root: Any) -> Iterator[str]:
    """The environment variables that options read."""
    for context in _contexts(root):
        prefix = context.command.context_settings.get("auto_envvar_prefix")
        for parameter in context.command.params:
            named = parameter.envvar or (f"{prefix}_{parameter.name.upper()}" if prefix else [])
            yield from [named] if isinstance(named, str) else named


def _warn_of_unknown(root: Any) -> None:
    set_here = [
        name
        for name in sorted(os.environ)
        if name.startswith("CROSSRANK_") and name not in _VARIABLES and not _KUBERNETES.fullmatch(name)
    ]
    if not set_here:
        return  # most often: no command is imported for it
    variables = {*_VARIABLES, *_variables(root)}
    for name in set_here:
        if name not in variables:
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
        _drop_words_for_flags(command.context_class(command, **command.context_settings))
        _warn_of_unknown(command)
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
