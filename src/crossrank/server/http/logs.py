"""What the server writes to stderr: a line for each request, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

from crossrank.server.http.faults import shortened

__all__ = ["LogFormat", "requests", "set_up"]

LogFormat = Literal["text", "json"]

requests = logging.getLogger("crossrank.server.requests")
"""Its records have ``fields``: a dictionary of what is known of a request."""

_LONGEST_FIELD, _LONGEST_MESSAGE, _LONGEST_TRACEBACK = 300, 2000, 20_000
"""Characters; what is longer loses its middle. A field may hold what a client sent; 200 frames fit."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shortened(record.getMessage(), _LONGEST_MESSAGE),
        }
        line |= {key: _plain(value) for key, value in getattr(record, "fields", {}).items()}
        if record.exc_info:
            line["traceback"] = shortened(self.formatException(record.exc_info), _LONGEST_TRACEBACK)
        return _escaped(json.dumps(line, ensure_ascii=False))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        message = shortened(record.getMessage(), _LONGEST_MESSAGE)
        parts = [_time(record), record.levelname.lower(), _escaped(message)]
        parts += [f"{key}={_quoted(value)}" for key, value in fields.items()]
        lines = [" ".join(parts)]
        if record.exc_info:
            traceback = shortened(self.formatException(record.exc_info), _LONGEST_TRACEBACK)
            lines += [f"    {_escaped(line)}" for line in traceback.splitlines()]
        return "\n".join(lines)


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"


def _plain(value: object) -> object:
    """A field's value, of at most so many characters."""
    if value is None or isinstance(value, (int, float)):
        return value
    return shortened(str(value), _LONGEST_FIELD)


def _quoted(value: object) -> str:
    """A field's value as one word, or in quotes: what a client sends makes no fields of its own."""
    text = str(_plain(value))
    word = text and text.isprintable() and not set(text) & set(' "=')
    return text if word else _escaped(json.dumps(text, ensure_ascii=False))


def _escaped(text: str) -> str:
    """Characters that are not printable as escapes: what a client sends makes no lines of its own."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(char: str) -> str:
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def set_up(form: LogFormat, level: str) -> None:
    """Send crossrank's and uvicorn's messages to stderr, in one form. Call it once, before the server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name, least in (("crossrank", level), ("uvicorn", "warning")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(max(logging.getLevelName(level.upper()), logging.getLevelName(least.upper())))
        logger.propagate = False
