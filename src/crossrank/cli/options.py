"""Options that several commands share, and the reranker or the client that they describe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossrank import Reranker
from crossrank.cascade import check_keep
from crossrank.data.lines import check_encoding
from crossrank.errors import InputError
from crossrank.models.resolve import stored_models

if TYPE_CHECKING:
    from crossrank.client import Client

__all__ = [
    "PRECISIONS",
    "BatchTokens",
    "Device",
    "Encoding",
    "First",
    "Format",
    "Instruction",
    "Json",
    "Jsonl",
    "Keep",
    "Long",
    "MaxLength",
    "MaxWindows",
    "Model",
    "Offline",
    "PrecisionOption",
    "Raw",
    "Revision",
    "SourceOption",
    "TextField",
    "Threads",
    "Tsv",
    "is_given",
    "model_names",
    "one_of",
    "open_client",
    "open_reranker",
    "output_format",
    "parse_keep",
]


def one_of(*values: str) -> Callable[[str], list[str]]:
    """What completes an option in a shell: those of its values that begin with what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def model_names(incomplete: str) -> list[str]:
    """The models on this machine whose names begin with what is typed. For none, the shell offers files."""
    return sorted({model.name for model in stored_models() if model.name.startswith(incomplete)})


PRECISIONS = one_of("auto", "fp32", "bf16", "int8", "fp16")

_MODEL = "Model options"
_OUTPUT = "Output options"

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A model's name, or a folder.",
        rich_help_panel=_MODEL,
        autocompletion=model_names,
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Commit, branch or tag of a hub model.", rich_help_panel=_MODEL)
]
SourceOption = Annotated[
    str,
    typer.Option(
        "--from",
        help="Where models are fetched from: hub or modelscope.",
        rich_help_panel=_MODEL,
        autocompletion=one_of("hub", "modelscope"),
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Max tokens of a pair; by default 512, or the model's limit.", rich_help_panel=_MODEL),
]
BatchTokens = Annotated[
    int | None, typer.Option(help="Max tokens that the model computes at a time.", rich_help_panel=_MODEL)
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, fp32, bf16, int8 (CPU) or fp16 (GPU).",
        rich_help_panel=_MODEL,
        autocompletion=PRECISIONS,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel=_MODEL,
        autocompletion=one_of("auto", "cpu", "cuda", "mps"),
    ),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", rich_help_panel=_MODEL)]
Instruction = Annotated[
    str | None,
    typer.Option(
        help="What the model is told to look for, if it takes an instruction; by default its own.",
        rich_help_panel=_MODEL,
    ),
]
First = Annotated[
    str | None,
    typer.Option(
        help="A smaller model that reads all documents; the model (-m) reads only the best of them.",
        rich_help_panel=_MODEL,
        autocompletion=model_names,
    ),
]


def parse_keep(value: str | float) -> float:
    """Parse a number of documents, or a share of them.

    Raises:
        typer.BadParameter: it is neither.
    """
    text = str(value)
    try:
        keep = int(text) if text.isdecimal() else float(text)
        check_keep(keep)
    except ValueError as error:  # an InputError is one
        message = f"{text[:100]!r} is neither a number such as 20 nor a share such as 0.2"
        raise typer.BadParameter(message) from error
    return keep


Keep = Annotated[
    float,
    typer.Option(
        help="With --first, how many documents of a query the model reads; or a share, such as 0.2.",
        rich_help_panel=_MODEL,
        parser=parse_keep,
        metavar="<number>",
    ),
]
Long = Annotated[
    str,
    typer.Option(
        help="What becomes of a document that does not fit: cut; or windows: the best part of it counts.",
        rich_help_panel=_MODEL,
        autocompletion=one_of("cut", "windows"),
    ),
]
MaxWindows = Annotated[
    int,
    typer.Option(
        help="With --long windows, max windows of a document that are read.", rich_help_panel=_MODEL
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.", rich_help_panel=_MODEL)]

Encoding = Annotated[
    str,
    typer.Option(
        help="The encoding of text files, such as gb18030 or big5.",
        callback=check_encoding,
    ),
]
TextField = Annotated[str, typer.Option(help="The field of a document that has its text.")]
Raw = Annotated[
    bool,
    typer.Option("--raw", help="Show logits instead of scores from 0 to 1.", rich_help_panel=_OUTPUT),
]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON object.", rich_help_panel=_OUTPUT)]
Jsonl = Annotated[bool, typer.Option("--jsonl", help="Write a JSON object a line.", rich_help_panel=_OUTPUT)]
Tsv = Annotated[bool, typer.Option("--tsv", help="Write tab-separated values.", rich_help_panel=_OUTPUT)]


class Format(Enum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    TSV = "tsv"


def output_format(json: bool, jsonl: bool, tsv: bool) -> Format:
    """The format that was chosen; a table by default.

    Raises:
        typer.BadParameter: more than one was chosen.
    """
    wanted = [f for f, on in ((Format.JSON, json), (Format.JSONL, jsonl), (Format.TSV, tsv)) if on]
    if len(wanted) > 1:
        raise typer.BadParameter(f"--{wanted[0].value} and --{wanted[1].value} exclude each other")
    return wanted[0] if wanted else Format.TABLE


def is_given(context: typer.Context, name: str, *, variables: bool = False) -> bool:
    """Whether a parameter was given on the command line, or, with ``variables``, in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", *(["ENVIRONMENT"] if variables else []))


def open_reranker(model: str, **options: Any) -> Reranker:
    """Load a model with options of ``Reranker``, which checks them; on a terminal, with a progress bar."""
    return Reranker(model, progress=sys.stderr.isatty(), **options)


def open_client(
    server: str, *, api_key: str | None, model: str | None, timeout: float, **windows: Any
) -> Client:
    """Open a client of a server, which the caller must close; ``windows`` are its other options.

    Raises:
        InputError: an option is out of range, or a library that the client needs is not installed.
    """
    try:
        from crossrank.client import Client
    except ModuleNotFoundError as error:
        raise InputError(str(error)) from error
    return Client(server, api_key=api_key, model=model, timeout=timeout, **windows)
