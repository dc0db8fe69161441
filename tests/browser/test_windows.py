"""The page of a server that reads long documents in windows."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import cards, fill, page_of
from tests.checkpoints import write_xlm_roberta
from tests.server.process import Server, serving

DOCUMENT = " ".join(f"Sentence {i} 😀 has the number {i * i}." for i in range(60))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_xlm_roberta(tmp_path_factory.mktemp("windows") / "tiny")
    options = ["--model", f"tiny={folder}", "--max-length", "64", "--long", "windows", "--max-windows", "100"]
    with serving(tmp_path_factory.mktemp("server"), *options, "--threads", "1") as running:
        running.wait_until_ready()
        yield running


def test_the_window_that_won_is_shown_and_explained(browser: Browser, reader: Server) -> None:
    query, documents = "the number 2500", [DOCUMENT, "short"]
    body = {"query": query, "documents": documents}
    found = httpx.post(f"{reader.url}/compare", json=body).json()["documents"]
    start, end = found[0]["window"]
    assert found[1]["window"] is None
    with page_of(browser, reader) as page:
        page.goto(reader.url)
        expect(page.locator("#found")).to_be_visible()
        fill(page, query, documents)
        card = page.locator(".column.model .card", has_text="characters")
        expect(card).to_have_count(1)
        expect(card.locator(".tag")).to_have_text(f"characters {start:,}–{end:,}")
        text = card.locator(".text").inner_text()
        assert text.removeprefix("… ").startswith(DOCUMENT[start : start + 20])
        assert text.startswith("… ") == (start > 0)
        expect(cards(page, 0).first).to_contain_text("S")
        card.click()
        expect(page.locator("#why-body")).to_contain_text(
            f"characters {start:,} to {end:,} of {len(DOCUMENT):,}"
        )
        first = page.locator("#why-body tbody tr").first
        assert DOCUMENT[start:end].startswith(first.locator("td").first.inner_text()[:20])


def test_windows_are_switched_off_and_on(browser: Browser, reader: Server) -> None:
    with page_of(browser, reader) as page:
        page.goto(reader.url)
        expect(page.locator("#found")).to_be_visible()
        fill(page, "the number 2500", [DOCUMENT, "short"])
        tag = page.locator(".column.model .card .tag")
        expect(page.locator("#windows")).to_be_checked()  # as the server was started
        expect(tag).to_contain_text("characters")
        page.uncheck("#windows")
        expect(page.locator("#changed")).to_be_visible()
        page.click("#run")
        expect(tag).to_have_text("truncated")
        expect(page.locator("#changed")).to_be_hidden()
        page.click("#export summary")
        page.click("[data-export=curl]")
        expect(page.locator("#code-text")).to_contain_text('"long":"cut"')
        page.click("#code-close")
        page.reload()
        expect(tag).to_have_text("truncated")
        expect(page.locator("#windows")).not_to_be_checked()
        page.check("#windows")
        page.click("#run")
        expect(tag).to_contain_text("characters")
