"""What the server writes to stderr: a line for each request, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

__all__ = ["LogFormat", "requests", "set_up"]

LogFormat = Literal["text", "json"]

requests = logging.getLogger("crossrank.server.requests")
"""Its records have ``fields``: a dictionary of what is known of a request."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        parts = [_time(record), record.levelname.lower(), _one_line(record.getMessage())]
        parts += [f"{key}={_one_line(str(value))}" for key, value in fields.items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"


def _one_line(text: str) -> str:
    """Control characters as escapes: what a client sends does not make lines of its own."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up(form: LogFormat, level: str) -> None:
    """Send crossrank's and uvicorn's messages to stderr, in one form. Call it once, before the server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name, least in (("crossrank", level), ("uvicorn", "warning")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(max(logging.getLevelName(level.upper()), logging.getLevelName(least.upper())))
        logger.propagate = False
