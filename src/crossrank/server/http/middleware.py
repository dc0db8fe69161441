"""Around every request: its id, its key, the page that sent it, its line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossrank.server.http.auth import Keys
from crossrank.server.http.browsers import Browsers
from crossrank.server.http.dialects import Dialect, Dialects
from crossrank.server.http.dialects.openai import openai_error
from crossrank.server.http.endpoint import CLIENT_GONE, fault_response
from crossrank.server.http.faults import FAULTS, Fault
from crossrank.server.http.limits import network_of
from crossrank.server.http.logs import requests
from crossrank.server.http.playground import is_page

__all__ = ["OPEN_PATHS", "Edge", "path_fault"]

OPEN_PATHS = frozenset(["/health", "/health/live", "/v1/cluster/auth"])
"""What programs may ask without a key; people may load the page."""

_QUIET = OPEN_PATHS | {"/metrics"}
"""What is asked every few seconds, and logged only at the level debug, as the page's files are."""


class Edge:
    """Pure ASGI, so that it costs next to nothing.

    Args:
        app: what answers.
        keys: who may ask; /health and the page everybody may.
        browsers: which pages may ask; None: all.
        dialects: whose error a path without a key gets; see ``path_fault``.
    """

    def __init__(self, app: ASGIApp, keys: Keys, dialects: Dialects, browsers: Browsers | None) -> None:
        self._app = app
        self._keys = keys
        self._browsers = browsers
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        scope = {**scope, "path": _without_slash(scope["path"])}
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        notes = scope["crossrank"] = {"request_id": request_id}
        status = 500
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                if status == CLIENT_GONE:
                    return
                MutableHeaders(scope=message)["x-request-id"] = request_id
            elif status == CLIENT_GONE:
                return
            await send(message)

        try:
            page = is_page(scope["path"])
            if scope["path"] not in OPEN_PATHS and not page:
                scope["crossrank.client"] = self._keys.check(headers.get("authorization")) or network_of(
                    scope.get("client")
                )
            if self._browsers is not None:
                self._browsers.check(scope["method"], headers, is_page=page)
            # HEAD is GET whose body uvicorn keeps back.
            asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            await self._app(asked, receive, send_with_id)
        except asyncio.CancelledError:
            # Only a server that stops, and has waited as long as it may, cancels a request.
            if started:
                raise
            fault = Fault("unavailable", "the server is stopping; try again later", retry_after=1.0)
            notes["error"] = str(fault)
            response = path_fault(self._dialects.of_path(scope["path"]), fault, request_id)
            await response(scope, receive, send_with_id)
        except Fault as fault:
            notes["error"] = str(fault)
            response = path_fault(self._dialects.of_path(scope["path"]), fault, request_id)
            await response(scope, receive, send_with_id)
        finally:
            client = headers.get("x-client-name")
            fields = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * (time.monotonic() - begun), 1),
                **({"client": client[:128]} if client else {}),
                **notes,
            }
            quiet = scope["path"] in _QUIET or scope["path"].startswith("/page/")
            level = logging.DEBUG if quiet else logging.INFO
            requests.log(level, "request", extra={"fields": fields})


def path_fault(dialect: Dialect | None, fault: Fault, request_id: str) -> Response:
    """The response to a fault on a path of a dialect, or of none."""
    if dialect is None:
        status = FAULTS[fault.kind].status
        return fault_response(openai_error(fault, status), status, fault)
    status = dialect.status(fault)
    return fault_response(dialect.error(fault, status, request_id), status, fault)


def _without_slash(path: str) -> str:
    """The path that a client means whose base URL ends in a slash."""
    return path[:-1] if path.endswith("/") and path not in ("/", "/page/") else path


def _request_id(given: str | None) -> str:
    """The client's own, if it is plain; or a new one."""
    if given and len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
