"""A real server process and a real Chromium."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.checkpoints import write_xlm_roberta
from tests.server.process import Server, serving

MINI = ["--model", "crossrank-mini", "--threads", "1"]
_NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
_MAC = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
]

FAILURES = "Failed to load resource"
"""What Chromium's console says of answers that are errors, and of connections that are lost."""

expect.set_options(timeout=20_000)


def _chromium(playwrights: str) -> str:
    for name in (os.environ.get("CROSSRANK_CHROMIUM", ""), *_NAMES, *_MAC, playwrights):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise AssertionError("there is no Chromium: `make test` installs it (tests/browser/chromium.sh)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of a module, since Playwright keeps an event loop while it is there, and other tests have their own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium
        browser = chromium.launch(executable_path=_chromium(chromium.executable_path), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two models."""
    tiny = write_xlm_roberta(tmp_path_factory.mktemp("browser") / "tiny")
    options = [*MINI, "--model", f"tiny={tiny}"]
    with serving(tmp_path_factory.mktemp("server"), *options, holdable=True) as running:
        running.wait_until_ready()
        yield running


@contextmanager
def page_of(browser: Browser, server: Server, *, allowed: str = "-", **options: Any) -> Iterator[Page]:
    """A page that must go without an error, and ask nobody but its server.

    Args:
        browser, server: whose.
        allowed: how what the console may say begins.
        options: of the browser's context, ``locale`` say.
    """
    context = browser.new_context(
        **{
            "locale": "en-US",
            "viewport": {"width": 1280, "height": 860},
            "reduced_motion": "reduce",
            **options,
        }
    )
    page = context.new_page()
    wrong: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("request", lambda request: asked.append(request.url))
    try:
        yield page
    finally:
        context.close()
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("blob:", "data:"))}
    assert hosts <= {urlsplit(server.url).netloc}
    assert [said for said in wrong if not said.startswith(allowed)] == []


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page with its first example ranked."""
    with page_of(browser, server) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        yield page


def fill(page: Page, query: str, documents: list[str], *, split: str = "line") -> None:
    """Enter a query and documents, and rank them."""
    page.fill("#query", query)
    page.check(f"[name=split][value={split}]", force=True)
    page.fill("#documents", ("\n\n" if split == "block" else "\n").join(documents))
    page.click("#run")
    expect(page.locator("#working")).to_be_hidden()
    expect(page.locator("#stop")).to_be_hidden()
    expect(cards(page, 0)).to_have_count(len(documents))


def cards(page: Page, column: int) -> Any:
    """The cards of a column that are there, best first."""
    return page.locator(".column").nth(column).locator("li:not([hidden]) .card")


def texts(page: Page, column: int) -> list[str]:
    found: list[str] = cards(page, column).locator(".text").all_text_contents()
    return found


def slide(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name}").fill(str(value))


def metric(server: Server, name: str) -> float:
    text = server.request("GET", "/metrics")[1]
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until(happens: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
