"""What commands that start a server share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from crossrank.errors import InputError

__all__ = ["needs_server", "server_logs"]


@contextmanager
def needs_server() -> Iterator[None]:
    """Around imports of ``crossrank.server``: a library that is missing is named, with what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("crossrank"):
            raise
        raise InputError(
            f"the server needs {error.name}, which is not installed: pip install 'crossrank[server]'"
        ) from error


@contextmanager
def server_logs(form: str, level: str) -> Iterator[None]:
    """Log as a server does ("text" or "json"), and not as other commands, while the block runs."""
    from crossrank.server import logs

    logger = logging.getLogger("crossrank")
    before, logger.handlers = logger.handlers, []
    logs.set_up("json" if form == "json" else "text", level)
    try:
        yield
    finally:
        logger.handlers = before
