"""Around every request: its id, its key, the page that sent it, its error, its line in the log, its trace."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossrank.server.http.auth import Keys
from crossrank.server.http.browsers import Browsers
from crossrank.server.http.dialects import Context, Dialects
from crossrank.server.http.endpoint import fault_response
from crossrank.server.http.faults import Fault, fault_of, forget_frames
from crossrank.server.http.limits import ClientGone, network_of
from crossrank.server.http.logs import requests
from crossrank.server.http.playground import is_page
from crossrank.server.http.tracing import Tracer

__all__ = ["OPEN_PATHS", "Edge"]

_logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset(["/health", "/health/live", "/ping", "/v1/cluster/auth"])
"""What programs may ask without a key; people may load the page."""

_QUIET = OPEN_PATHS | {"/metrics"}
"""What is asked every few seconds, and logged only at the level debug, as the page's files are."""


_CLIENT_GONE = 499
"""What the log says of a request whose client went away; nobody reads it (the number is nginx')."""


class Edge:
    """Pure ASGI, so that it costs next to nothing.

    A prefix on which nothing depends becomes the scope's root path, which routes leave out.

    Args:
        keys: who may ask; /health and the page everybody may.
        browsers: which pages may ask; None: all.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, dialects: Dialects, browsers: Browsers | None, tracer: Tracer
    ) -> None:
        self._app = app
        self._keys = keys
        self._browsers = browsers
        self._dialects = dialects
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, now = time.monotonic(), time.time_ns()
        path, headers = _without_slash(scope["path"]), Headers(scope=scope)
        given = headers.get("x-request-id")
        named = bool(given and len(given) <= 128 and given.isascii() and given.isprintable())
        request_id = given if given and named else uuid.uuid4().hex
        context = Context(request_id, named, self._dialects.of_path(path))
        prefix = self._dialects.prefix(path)
        plain = path.removeprefix(prefix)
        scope = {**scope, "path": path, "root_path": prefix, "crossrank": context}
        status, started = 500, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            page = is_page(plain)
            if plain not in OPEN_PATHS and not page:
                key = self._keys.check(headers.get("authorization"))
                context.client = key or network_of(scope.get("client"))
            if self._browsers is not None:
                self._browsers.check(scope["method"], headers, is_page=page)
            # HEAD is GET whose body uvicorn keeps back.
            asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
            await self._app(asked, receive, send_with_id)
        except ClientGone:
            status, context.notes["gone"] = _CLIENT_GONE, True
        except (Exception, asyncio.CancelledError) as error:
            if started:
                raise
            fault = _fault_of(error, context)
            context.notes["error"] = str(fault)
            await fault_response(context, fault)(scope, receive, send_with_id)
            forget_frames(error)
        finally:
            client = headers.get("x-client-name")
            fields = {
                "method": scope["method"],
                "path": path,
                "status": status,
                "ms": round(1000 * (time.monotonic() - begun), 1),
                **({"client": client[:128]} if client else {}),
                "request_id": request_id,
                **context.notes,
            }
            quiet = plain in _QUIET or plain.startswith("/page/")
            requests.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})
            if "dialect" in context.notes:
                self._tracer.record(path, headers, now, status, request_id, context.answer)


def _fault_of(error: BaseException, context: Context) -> Fault:
    if not isinstance(error, Exception):
        # Only a server that stops, and has waited as long as it may, cancels a request.
        return Fault("unavailable", "the server is stopping; try again later", retry_after=1.0)
    fault = fault_of(error)
    if fault.kind == "internal" and fault is not error:
        _logger.error(
            "a request failed", exc_info=error, extra={"fields": {"request_id": context.request_id}}
        )
    return fault


def _without_slash(path: str) -> str:
    """The path that a client means whose base URL ends in a slash."""
    return path[:-1] if path.endswith("/") and path not in ("/", "/page/") else path
