"""The page of a server with a first model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import fill, page_of
from tests.checkpoints import write_xlm_roberta
from tests.server.process import Server, serving


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_xlm_roberta(tmp_path_factory.mktemp("cascade") / "tiny")
    options = ["--model", f"tiny={folder}", "--first", "crossrank-mini", "--keep", "2", "--threads", "1"]
    with serving(tmp_path_factory.mktemp("server"), *options) as running:
        running.wait_until_ready()
        yield running


def test_documents_of_the_first_model_say_so(browser: Browser, two: Server) -> None:
    with page_of(browser, two) as page:
        page.goto(two.url)
        expect(page.locator("#found")).to_be_visible()
        fill(page, "capital of France", ["Paris is the capital.", "Lyon is a city.", "tea", "a pot"])
        column = page.locator(".column.model").first
        expect(column.locator(".card")).to_have_count(4)
        expect(column.locator(".card .tag")).to_have_text(["crossrank-mini", "crossrank-mini"])
        expect(column.locator(".card").nth(2)).to_contain_text("crossrank-mini")
