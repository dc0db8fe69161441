"""The page's files and headers; what it does in a browser is in tests/browser."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from crossrank.server.http.playground import FOLDER
from tests.server.asgi import Response, app_of, ask
from tests.server.serving import fake

FILES = sorted(path.name for path in FOLDER.iterdir())


def get(path: str, method: str = "GET", **settings: Any) -> Response:
    async def main() -> Response:
        async with app_of(fake(), **settings) as (app, _):
            return await ask(app, path, method=method)

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_it_is_open_and_its_policy_is_strict(path: str) -> None:
    found = get(path, api_keys=["k"])
    assert found.status == 200
    policy = dict(part.split(" ", 1) for part in found.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "etag" in found.headers
    kinds = {"html": "text/html", "css": "text/css", "js": "javascript", "svg": "image/svg+xml"}
    assert kinds[path.rpartition(".")[2] if "." in path else "html"] in found.headers["content-type"]


def test_a_key_is_asked_for_what_the_page_asks() -> None:
    for path in ("/info", "/compare", "/explain", "/pages", "/docs"):
        assert get(path, api_keys=["k"]).status == 401


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page"]
)
def test_there_is_nothing_else(path: str) -> None:
    assert get(path).status in (307, 404)
    assert get("/", "POST").status == 405
    assert get("/", "HEAD").status == 200


def test_it_is_small_and_asks_no_other_host() -> None:
    texts = {name: (FOLDER / name).read_text(encoding="utf-8") for name in FILES}
    assert sum(len(text.encode()) for text in texts.values()) < 150_000
    for name, text in texts.items():
        urls = re.findall(r"https?://[^\s\"'`<>)]+", text)
        assert [url for url in urls if url != "http://www.w3.org/2000/svg"] == [], name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, name


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
