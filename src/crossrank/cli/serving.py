"""Logging for the commands that start a server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["server_logs"]


@contextmanager
def server_logs(form: str, level: str) -> Iterator[None]:
    """Log as a server does ("text" or "json") while the block runs, instead of as the other commands do."""
    from crossrank.server.http import logs

    logger = logging.getLogger("crossrank")
    before, logger.handlers = logger.handlers, []
    logs.set_up("json" if form == "json" else "text", level)
    try:
        yield
    finally:
        logger.handlers = before
