"""What goes wrong is said in words, with a way on."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, Response, Route, expect

from tests.browser.conftest import FAILURES, MINI, cards, fill, metric, page_of, until
from tests.checkpoints import write_xlm_roberta
from tests.hub import Hub
from tests.server.process import Server, serving

# More than the engine takes in one pack, but not so much that a slow machine would refuse it at once.
MANY = [f"{i} " + "The sky is blue. " * 20 for i in range(100)]
LARGE = {"query": "sky", "texts": MANY}


@contextmanager
def at_work(server: Server) -> Iterator[None]:
    """A request of somebody else's that the server is busy with, to the end of the block."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with server.held(), closing(connection):
        connection.request("POST", "/rerank", json.dumps(LARGE))
        until(lambda: metric(server, "te_queue_size") > 0)
        yield


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with narrow limits and a key."""
    limits = ["--max-concurrent-requests", "1", "--max-documents", "5", "--max-document-chars", "2000000"]
    env = {"CROSSRANK_API_KEY": "opensesame"}
    with serving(tmp_path_factory.mktemp("strict"), *MINI, *limits, "--timeout", "4", env=env) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def guest(browser: Browser, strict: Server) -> Iterator[Page]:
    """A page of the strict server, not yet with its key."""
    with page_of(browser, strict, allowed=FAILURES) as page:
        page.goto(strict.url)
        expect(page.locator("#notice")).to_contain_text("This server requires an API key")
        yield page


def enter(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.press("#key", "Enter")


def test_a_key_is_asked_for_and_kept_in_the_tab_only(guest: Page, strict: Server) -> None:
    expect(guest.locator("#key")).to_be_focused()
    enter(guest, "wrong")
    expect(guest.locator("#notice")).to_contain_text("Invalid API key")
    enter(guest, "opensesame")
    expect(cards(guest, 1)).to_have_count(4)
    expect(guest.locator("#notice")).to_be_hidden()
    cards(guest, 1).first.click()
    expect(guest.locator("#why table")).to_be_visible()
    shown = guest.url
    guest.keyboard.press("Escape")
    guest.wait_for_url(lambda url: url != shown)  # or the explanation would come back
    guest.reload()
    expect(cards(guest, 1)).to_have_count(4)
    assert "sesame" not in json.dumps(
        guest.evaluate("() => [{...localStorage}, location.href, document.cookie]")
    )
    assert "sesame" not in strict.log.read_text()
    other = guest.context.new_page()
    other.goto(strict.url)
    expect(other.locator("#notice")).to_contain_text("This server requires an API key")
    guest.click("#export summary")
    guest.click("[data-export=curl]")
    command = guest.locator("#code-text").text_content() or ""
    assert "$CROSSRANK_API_KEY" in command
    assert "sesame" not in command
    env = {"CROSSRANK_API_KEY": "opensesame", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-euc", command], env=env, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["results"]) == 4


def test_what_the_server_refuses_is_told_in_its_words(guest: Page) -> None:
    enter(guest, "opensesame")
    expect(cards(guest, 1)).to_have_count(4)
    guest.fill("#documents", "\n".join("abcdef"))
    guest.click("#run")
    expect(guest.locator("#notice")).to_contain_text("The server rejected the request")
    expect(guest.locator("#notice")).to_contain_text("6 > maximum allowed batch size 5")
    guest.fill("#documents", "\n".join("abcde"))
    guest.click("[data-way=again]")
    expect(cards(guest, 1)).to_have_count(5)


def test_a_busy_server_is_asked_again_by_itself(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, *MINI, "--max-concurrent-requests", "1", holdable=True) as server:
        server.wait_until_ready()
        with page_of(browser, server, allowed=FAILURES) as page:
            page.goto(server.url)
            expect(cards(page, 1)).to_have_count(4)
            with at_work(server):
                page.fill("#documents", "one\ntwo")
                page.click("#run")
                expect(page.locator("#notice")).to_contain_text("The server is busy")
                expect(page.locator("#notice")).to_contain_text("retrying in 1 s")
                expect(page.locator("#notice")).to_contain_text("--max-concurrent-requests")
            expect(cards(page, 1)).to_have_count(2)
            expect(page.locator("#notice")).to_be_hidden()
            with at_work(server):
                page.click("#run")
                page.click("[data-way=give_up]")
                expect(page.locator("#notice")).to_contain_text("Stopped")
                cards(page, 1).first.click()
                expect(page.locator("#why [role=alert]")).to_contain_text("The server is busy")
            until(lambda: metric(server, "crossrank_concurrent_requests") == 0)
            page.click("#why-body .main")
            expect(page.locator("#why table")).to_be_visible()


def test_two_models_take_turns_where_the_server_takes_one_request(browser: Browser, tmp_path: Path) -> None:
    tiny = write_xlm_roberta(tmp_path / "tiny")
    options = [*MINI, "--model", f"tiny={tiny}", "--max-concurrent-requests", "1"]
    with serving(tmp_path, *options) as server:
        server.wait_until_ready()
        with page_of(browser, server, allowed=FAILURES) as page:
            page.goto(server.url)
            expect(cards(page, 1)).to_have_count(4)
            page.check("#models input[value=tiny]")
            asked: list[tuple[str, int]] = []

            def note(response: Response) -> None:
                if response.url.endswith("/compare"):
                    asked.append((model_of(response.request), response.status))

            page.on("response", note)
            fill(page, "sky", MANY[:20])
            expect(cards(page, 2)).to_have_count(20)
            assert asked == [("crossrank-mini", 200), ("tiny", 200)]
            # An answer that is there is not asked for again when the next one has to wait.
            asked.clear()
            page.route("**/compare", lambda route: busy_once(route, "tiny", asked))
            page.click("#run")
            expect(page.locator("#notice")).to_contain_text("The server is busy")
            expect(page.locator("#notice")).to_be_hidden()
            assert asked == [("crossrank-mini", 200), ("tiny", 429), ("tiny", 200)]


def model_of(request: Request) -> str:
    return str(json.loads(request.post_data or "")["model"])


def busy_once(route: Route, model: str, asked: list[tuple[str, int]]) -> None:
    """Answer the first request for a model with 429."""
    if model_of(route.request) == model and model not in [name for name, _ in asked]:
        route.fulfill(status=429, json={"error": {"message": "full"}})
    else:
        route.continue_()


def test_a_model_that_is_loading_is_waited_for(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with Hub() as hub:
        hub.add("some/model", write_xlm_roberta(tmp_path / "model"))
        hub.stall["model.safetensors"] = 100
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        options = ["--model", "some/model", "--threads", "1"]
        with (
            serving(tmp_path, *options, env=env) as server,
            page_of(browser, server, allowed=FAILURES, locale="zh-CN") as page,
        ):
            page.goto(server.url)
            expect(page.locator("#notice")).to_contain_text("模型尚未就绪")
            expect(page.locator("#notice")).to_contain_text("some/model is loading")
            hub.stall.clear()  # or what goes on from there would stand still again
            hub.resume.set()
            expect(cards(page, 1)).to_have_count(4)
            expect(page.locator("#notice")).to_be_hidden()


def test_a_lost_connection_is_found_again(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, *MINI, holdable=True) as server:
        server.wait_until_ready()
        port = str(server.port)
        with page_of(browser, server, allowed=FAILURES) as page:
            page.goto(server.url)
            expect(cards(page, 1)).to_have_count(4)
            page.fill("#documents", "\n".join(MANY))
            with server.held():
                page.click("#run")
                until(lambda: metric(server, "te_queue_size") > 0)
                server.signal(signal.SIGKILL)
                server.process.wait()  # or it might answer yet
            expect(page.locator("#notice")).to_contain_text("The server does not answer")
            expect(page.locator("#notice")).to_contain_text("Your texts are still here")
            page.fill("#documents", "one\ntwo")  # what was asked stays what it was: this is for the next time
            cards(page, 1).first.click()
            expect(page.locator("#why [role=alert]")).to_contain_text("The server does not answer")
            page.keyboard.press("Escape")
            page.click("[data-way=give_up]")
            expect(page.locator("#notice")).to_contain_text("Stopped")
            page.click("#run")
            expect(page.locator("#notice")).to_contain_text("The server does not answer")
            (tmp_path / "again").mkdir()
            with serving(tmp_path / "again", *MINI, "--port", port) as again:
                again.wait_until_ready()
                expect(cards(page, 1)).to_have_count(2)
                expect(page.locator("#notice")).to_be_hidden()
                fill(page, "q", ["a", "b", "c"])


def test_a_request_that_takes_too_long_says_what_helps(guest: Page) -> None:
    enter(guest, "opensesame")
    expect(cards(guest, 1)).to_have_count(4)
    guest.fill("#query", "sky " * 5000)
    guest.fill("#documents", "\n".join("The sky. " * 100_000 for _ in range(5)))
    guest.route(
        "**/compare",
        lambda route: route.continue_(headers={**route.request.headers, "x-request-timeout": "0.001"}),
    )
    guest.click("#run")
    expect(guest.locator("#notice")).to_contain_text("The request timed out")
    guest.unroute("**/compare")
    guest.fill("#query", "sky")
    guest.fill("#documents", "one\ntwo")
    guest.click("[data-way=again]")
    expect(cards(guest, 1)).to_have_count(2)


HTML = "<html><body>nginx</body></html>"


@pytest.mark.parametrize(
    ("status", "said", "tries"),
    [
        (502, "The server does not answer", 2),
        (503, "The model is not ready yet", 2),
        (429, "The server is busy", 2),
        (413, "The server rejected the request", 1),
        (500, "The server failed", 1),
        (200, "The server failed", 1),
    ],
)
def test_what_a_proxy_says_is_understood(
    browser: Browser, server: Server, status: int, said: str, tries: int
) -> None:
    """An answer that is not JSON: it is tried again where the server's own would be, and only there."""
    with page_of(browser, server, allowed=FAILURES) as page:
        page.goto(server.url)
        expect(cards(page, 1)).to_have_count(4)
        asked: list[str] = []

        def answer(route: Route) -> None:
            asked.append(route.request.url)
            if len(asked) == 1:
                route.fulfill(status=status, content_type="text/html", body=HTML)
            else:
                route.continue_()

        page.route("**/compare", answer)
        page.fill("#documents", "one\ntwo")
        page.click("#run")
        expect(page.locator("#notice")).to_contain_text(said)
        expect(page.locator("#notice")).not_to_contain_text("SyntaxError")
        if status != 502:
            expect(page.locator("#notice")).to_contain_text(f"HTTP {status}")
        if tries > 1:
            expect(cards(page, 1)).to_have_count(2)
            expect(page.locator("#notice")).to_be_hidden()
        else:
            page.wait_for_timeout(1500)
            expect(page.locator("#notice")).to_contain_text(said)
        assert len(asked) == tries
