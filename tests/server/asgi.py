"""An application asked without a network: over ASGI, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

from crossrank.engines.fake import FakeEngine
from crossrank.server.core.model import ModelSpec
from crossrank.server.core.registry import Registry
from crossrank.server.http.app import create_app
from crossrank.server.settings import Settings
from tests.server.serving import registry

__all__ = ["Asked", "Response", "app_of", "ask"]


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Asked:
    """A request on its way: its body may come in parts, and its client may go.

    ``response`` is there once the application has ended; None where it sent nothing.
    """

    def __init__(self, app: ASGIApp, method: str, path: str, headers: Mapping[str, str]) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._sent: list[Message] = []
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }

        async def send(message: Message) -> None:
            self._sent.append(message)

        self.task: asyncio.Task[None] = asyncio.ensure_future(app(scope, self._incoming.get, send))

    def send(self, body: bytes, more: bool = False) -> None:
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def go(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def response(self) -> Response | None:
        await asyncio.wait_for(self.task, 30)
        if not self._sent:
            return None
        start, *rest = self._sent
        headers = {key.decode(): value.decode() for key, value in start["headers"]}
        return Response(start["status"], headers, b"".join(part.get("body", b"") for part in rest))


async def ask(
    app: ASGIApp,
    path: str,
    body: object = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a whole request; bytes as they are, anything else as JSON. POST, or GET without a body."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    asked = Asked(app, method or ("GET" if body is None else "POST"), path, headers or {})
    asked.send(data)
    response = await asked.response()
    assert response is not None
    return response


@asynccontextmanager
async def app_of(
    *models: ModelSpec | FakeEngine, options: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[ASGIApp, Registry]]:
    """An application over a started registry of fake engines."""
    async with registry(*models, **(options or {})) as served:
        yield create_app(Settings(**settings), served), served


def body_of(
    path: str, documents: Sequence[str] = ("one", "two and more"), **fields: object
) -> dict[str, Any]:
    """A good request for a path."""
    if path.endswith("/predict"):
        return {"inputs": [["which?", document] for document in documents], **fields}
    name = "texts" if path in ("/rerank", "/tei/rerank") else "documents"
    query = "queries" if "score" in path else "query"
    return {query: "which?", name: list(documents), **fields}
