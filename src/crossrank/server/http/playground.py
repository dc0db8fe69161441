"""/: the page on which people see why a ranking is right. Plain files; what they show, the API gives."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["FOLDER", "add_playground", "is_page"]

FOLDER = Path(__file__).parents[1] / "page"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Ask each time whether it has changed: an update of the server is an update of the page.
    "cache-control": "no-cache",
}


class _Files(StaticFiles):
    """The files, with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def is_page(path: str) -> bool:
    """Whether a path is of the page: anybody may load it; what it asks of the API needs the key."""
    return path == "/" or path.startswith("/page/")


def add_playground(app: FastAPI) -> None:
    """Serve the page at / and its files below /page/."""
    files = _Files(directory=FOLDER)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    app.add_api_route("/", index, methods=["GET"], include_in_schema=False)
    app.mount("/page", files)
