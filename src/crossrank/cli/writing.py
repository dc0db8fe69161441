"""Write results as tables, tab-separated values or JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

__all__ = ["QUERY_TRUNCATED", "bar", "console", "one_line", "printable", "write_json", "write_tsv"]

QUERY_TRUNCATED = "The query was truncated: it is longer than its share of the model's window."

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_EIGHTHS = " ▏▎▍▌▋▊▉"


def console() -> Console:
    """Standard output as a rich console. Each call makes one, since tests replace sys.stdout."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def bar(score: float, width: int = 12) -> str:
    """A score from 0 to 1 as a bar of ``width`` cells, in eighths of a cell."""
    eighths = round(min(max(score, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def one_line(text: str) -> str:
    """A text on one line that UTF-8 can encode and that cannot control a terminal.

    White space becomes single spaces, and a control character becomes U+FFFD.
    """
    return _CONTROL.sub("\ufffd", " ".join(text.split())).encode("utf-8", "replace").decode("utf-8")


def printable(text: str, width: int = 200) -> str:
    """A text for a cell of a table: one line, at most ``width`` characters, markup escaped."""
    text = one_line(text)
    text = text if len(text) <= width else text[: width - 1] + "…"
    return escape(text)


def write_json(value: Mapping[str, Any] | list[Any], indent: int | None = None) -> None:
    """Write a value as JSON and a line end, on one line unless ``indent`` is given."""
    # UTF-8 cannot encode lone surrogates: they are written as JSON escapes.
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    sys.stdout.write(text + "\n")


def write_tsv(values: list[object]) -> None:
    """Write a line of tab-separated values, with the tabs and line ends in strings replaced by spaces."""
    cells = [one_line(value) if isinstance(value, str) else format_number(value) for value in values]
    sys.stdout.write("\t".join(cells) + "\n")


def format_number(value: object) -> str:
    """A float with 6 decimals, and anything else as ``str`` gives it."""
    return f"{value:.6f}" if isinstance(value, float) else str(value)
