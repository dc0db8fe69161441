"""What the page shows, against what the server says."""

from __future__ import annotations

import base64
import csv
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import cards, fill, metric, page_of, slide, texts, until
from tests.server.process import Server

QUERY = "Why is the sky blue?"
DOCUMENTS = [
    "The sky was blue and the sea was calm that day.",
    "Blue Sky is the name of a hotel near the beach.",
    "Air molecules scatter short wavelengths of sunlight far more than long ones.",
    "Cats sleep for most of the day.",
    "Why did he paint the door blue?",
]


def compared(
    server: Server, query: str, documents: list[str], model: str = "crossrank-mini"
) -> list[dict[str, Any]]:
    body = {"query": query, "documents": documents, "model": model}
    status, answer, _ = server.request("POST", "/compare", body)
    assert status == 200
    found: list[dict[str, Any]] = answer["documents"]
    return found


def by(documents: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted(documents, key=lambda document: document[name])


@pytest.fixture
def ranked(page: Page) -> Page:
    fill(page, QUERY, DOCUMENTS)
    return page


def test_the_first_visit_shows_a_trap_and_its_way_out(page: Page) -> None:
    assert page.input_value("#query") == "How do I get my money back for a cancelled flight?"
    expect(cards(page, 0).first).to_contain_text("How much money do pilots get")
    expect(cards(page, 1).first).to_contain_text("can claim a full refund")
    expect(page.locator("#summary")).to_contain_text("4 documents")


def test_both_orders_are_the_servers(ranked: Page, server: Server) -> None:
    expected = compared(server, QUERY, DOCUMENTS)
    for column, rank in ((0, "keyword_rank"), (1, "rank")):
        order = by(expected, rank)
        assert texts(ranked, column) == [DOCUMENTS[document["index"]] for document in order]
        places = cards(ranked, column).locator(".place").all_text_contents()
        assert places == ["1", "2", "3", "4", "5"]
    numbers = cards(ranked, 1).locator(".number").all_text_contents()
    assert [float(n) for n in numbers] == pytest.approx([d["score"] for d in by(expected, "rank")], abs=1e-3)
    numbers = cards(ranked, 0).locator(".number").all_text_contents()
    assert [float(n) for n in numbers] == pytest.approx(
        [d["keyword_score"] for d in by(expected, "keyword_rank")], abs=0.01
    )
    widths = [
        float(each.evaluate("bar => 100 * bar.firstElementChild.clientWidth / bar.clientWidth"))
        for each in cards(ranked, 1).locator(".bar").all()
    ]
    assert widths == pytest.approx([100 * d["score"] for d in by(expected, "rank")], abs=1)


def test_lines_join_each_document_and_say_what_moved(ranked: Page, server: Server) -> None:
    expected = {document["index"]: document for document in compared(server, QUERY, DOCUMENTS)}
    kinds = {}
    for path in ranked.locator(".links path").all():
        kinds[int(path.get_attribute("data-index") or -1)] = path.get_attribute("class")
    assert sorted(kinds) == [0, 1, 2, 3, 4]
    for card in cards(ranked, 1).all():
        document = expected[int(card.get_attribute("data-index") or -1)]
        up = document["keyword_rank"] - document["rank"]
        assert kinds[document["index"]] == ("rise" if up > 0 else "fall" if up < 0 else "level")
        shown = card.locator(".move > [aria-hidden]").text_content()
        assert shown == (f"▲ {up}" if up > 0 else f"▼ {-up}" if up < 0 else "=")
    card = cards(ranked, 0).nth(1)
    index = card.get_attribute("data-index")
    card.hover()
    expect(ranked.locator(f".links path.lit[data-index='{index}']")).to_have_count(1)
    expect(ranked.locator(f".card.lit[data-index='{index}']")).to_have_count(2)


def test_words_of_the_question_are_marked(page: Page) -> None:
    fill(page, "手机电池 sky", ["😀😀 the Sky 电池", "no such words", "手机电池，手机"])
    marks = {
        card.locator(".text").text_content(): card.locator("mark").all_text_contents()
        for card in cards(page, 1).all()
    }
    assert marks == {
        "😀😀 the Sky 电池": ["Sky", "电池"],
        "no such words": [],
        "手机电池，手机": ["手机电池", "手机"],
    }


def test_text_is_never_html(page: Page) -> None:
    evil = ["<img src=x onerror=alert(1)>", "<b>bold</b> & <script>alert(2)</script>", "javascript:alert(3)"]
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    fill(page, "<b>bold</b>", evil)
    assert sorted(texts(page, 1)) == sorted(evil)
    assert page.locator("#results img, #results b, #results script").count() == 0
    cards(page, 1).first.click()
    expect(page.locator("#why table")).to_be_visible()
    assert page.locator("#why img, #why .strip b, #why script").count() == 0


def test_a_script_within_the_page_does_not_run(browser: Browser, server: Server) -> None:
    with page_of(browser, server, allowed="Executing inline script violates") as page:
        page.goto(server.url)
        page.evaluate(
            """() => {
            const script = document.createElement("script");
            script.textContent = "window.evil = 1";
            window.blocked = [];
            const note = (event) => window.blocked.push(event.effectiveDirective);
            addEventListener("securitypolicyviolation", note);
            document.head.append(script);
            }"""
        )
        assert page.evaluate("() => window.evil") is None
        expect(page.locator("#found")).to_be_visible()
        assert page.evaluate("() => window.blocked") == ["script-src-elem"]


def test_sliders_and_the_switch_act_without_a_request(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url)
        fill(page, QUERY, DOCUMENTS)
        page.wait_for_load_state("networkidle")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        expected = by(compared(server, QUERY, DOCUMENTS), "rank")
        slide(page, "top-n", 2)
        expect(cards(page, 1)).to_have_count(2)
        expect(page.locator(".column.model p")).to_contain_text("2 kept")
        assert texts(page, 1) == [DOCUMENTS[document["index"]] for document in expected[:2]]
        expect(page.locator(".keywords .dropped")).to_have_count(3)
        expect(page.locator(".links path")).to_have_count(2)
        slide(page, "top-n", 5)
        threshold = round((expected[0]["score"] + expected[1]["score"]) / 2, 2)
        slide(page, "threshold", threshold)
        expect(cards(page, 1)).to_have_count(1)
        expect(page.locator("#threshold-value")).to_have_text(f"{threshold:.2f}")
        slide(page, "threshold", 0)
        page.check("[name=scale][value=logit]", force=True)
        numbers = cards(page, 1).locator(".number").all_text_contents()
        assert [float(n) for n in numbers] == pytest.approx([d["logit"] for d in expected], abs=0.02)
        slide(page, "threshold", 1)
        expect(cards(page, 1)).to_have_count(0)
        assert [url for url in asked if not url.endswith(".svg")] == []  # the icon of the tab comes late


def test_documents_are_lines_or_blocks(page: Page) -> None:
    page.fill("#documents", "one\n\n  two  \nthree\n \nfour\n")
    expect(page.locator("#count")).to_have_text("4 documents")
    page.check("[name=split][value=block]", force=True)
    expect(page.locator("#count")).to_have_text("3 documents")
    page.fill("#query", "three")
    page.press("#documents", "Control+Enter")
    expect(cards(page, 1)).to_have_count(3)
    assert sorted(texts(page, 1)) == ["four", "one", "two  \nthree"]


@pytest.mark.parametrize(
    ("query", "documents", "said", "focus"),
    [
        (" ", "a", "Enter a query first", "query"),
        ("q", " \n ", "There is nothing to rank", "documents"),
    ],
)
def test_what_is_missing_is_said(page: Page, query: str, documents: str, said: str, focus: str) -> None:
    page.fill("#query", query)
    page.fill("#documents", documents)
    page.click("#run")
    expect(page.locator("#notice")).to_contain_text(said)
    expect(page.locator(f"#{focus}")).to_be_focused()


def test_why_shows_each_sentence_alone_and_taken_out(page: Page, server: Server) -> None:
    document = (
        "Our hotel has a pool 😀. Sunlight is scattered by air. The blue part most of all! Breakfast is at 8."
    )
    fill(page, QUERY, [document, "Cats sleep."])
    card = cards(page, 1).first
    card.click()
    expect(page.locator("#why tbody tr")).to_have_count(4)
    _, found, _ = server.request("POST", "/explain", {"query": QUERY, "document": document})
    for row, sentence in zip(page.locator("#why tbody tr").all(), found["sentences"], strict=True):
        text, alone, fall = row.locator("td").all_text_contents()
        assert text == sentence["text"]
        assert float(alone) == pytest.approx(sentence["score"], abs=1e-3)
        assert float(fall.replace("−", "-")) == pytest.approx(-sentence["score_fall"], abs=2e-3)
    assert page.locator("#why .strip").text_content() == document
    pieces = page.locator("#why .strip > span")
    assert pieces.all_text_contents()[:4] == [sentence["text"] for sentence in found["sentences"]]
    falls = [sentence["logit_fall"] for sentence in found["sentences"]]
    heat = [int(each.evaluate("e => e.style.getPropertyValue('--heat')")) for each in pieces.all()[:4]]
    assert heat.index(max(heat)) == max(range(4), key=lambda i: abs(falls[i]))
    assert [("warm" in (e.get_attribute("class") or "")) for e in pieces.all()[:4]] == [f > 0 for f in falls]
    page.check("#why [name=colour][value=alone]", force=True)
    heat = [int(each.evaluate("e => e.style.getPropertyValue('--heat')")) for each in pieces.all()[:4]]
    assert heat == pytest.approx([40 * sentence["score"] for sentence in found["sentences"]], abs=1)
    page.keyboard.press("Escape")
    expect(page.locator("#why")).to_be_hidden()
    expect(card).to_be_focused()


def test_a_long_document_is_cut_and_the_page_says_where(page: Page, server: Server) -> None:
    page.click("[data-example=long]")
    expect(page.locator("#summary")).to_contain_text("1 truncated")
    card = cards(page, 1).first
    expect(card.locator(".tag.cut")).to_have_text("truncated")
    card.click()
    expect(page.locator("#why table")).to_be_visible()
    text = page.locator("#why .strip").text_content()
    _, found, _ = server.request("POST", "/explain", {"query": page.input_value("#query"), "document": text})
    expect(page.locator("#why .note")).to_contain_text(
        f"first {found['read']:,} of {len(text or ''):,} characters"
    )
    unread = [sentence["text"] for sentence in found["sentences"] if not sentence["read"]]
    assert page.locator("#why .strip > .unread").all_text_contents() == unread
    assert page.locator("#why tbody tr", has_text="not read").count() == len(unread) > 3
    answer = "Whoever wants to move out"
    expect(page.locator("#why .strip > .warm", has_text=answer)).to_be_in_viewport()
    row = page.locator("#why tbody tr.decisive")
    expect(row).to_contain_text(answer)
    expect(row).to_be_in_viewport(ratio=1)
    assert int(row.locator("td").first.evaluate("e => getComputedStyle(e).fontWeight")) > 500
    # Of the documented example the answer is the best sentence by itself as well.
    assert max(found["sentences"], key=lambda each: each["score"])["text"].startswith(answer)


def test_an_answer_beyond_the_window_is_pointed_out(page: Page) -> None:
    filler = "The committee met on a rainy day and agreed on nothing at all. "
    fill(page, "What is the capital of France?", [filler * 60 + "Paris is the capital of France.", "Cats."])
    page.locator(".column.model .tag.cut").locator("xpath=ancestor::button").click()
    expect(page.locator("#why .note")).to_contain_text("lies beyond the window: shorter documents")


def test_several_models_stand_side_by_side(page: Page, server: Server) -> None:
    page.check("#models input[value=tiny]")
    fill(page, QUERY, DOCUMENTS)
    assert page.locator(".column h3").all_text_contents() == ["Keywords (BM25)", "crossrank-mini", "tiny"]
    for column, model in ((1, "crossrank-mini"), (2, "tiny")):
        order = by(compared(server, QUERY, DOCUMENTS, model), "rank")
        assert texts(page, column) == [DOCUMENTS[document["index"]] for document in order]
    expect(page.locator(".links path")).to_have_count(10)
    cards(page, 2).first.click()
    expect(page.locator("#why .facts")).to_contain_text("model tiny")
    with page.expect_request("**/explain") as asked:
        page.keyboard.press("Escape")
        cards(page, 2).nth(1).click()
    assert json.loads(asked.value.post_data or "")["model"] == "tiny"
    page.keyboard.press("Escape")
    for name in ("crossrank-mini", "tiny"):
        page.uncheck(f"#models input[value={name}]")
    page.click("#run")
    expect(page.locator("#notice")).to_contain_text("Choose a model")


def test_a_link_shows_all_models_side_by_side(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(f"{server.url}/?models=all")
        fill(page, QUERY, DOCUMENTS)
        assert page.locator(".column h3").all_text_contents() == [
            "Keywords (BM25)",
            "crossrank-mini",
            "tiny",
        ]


def test_two_models_and_their_scores_fit_a_small_screen(browser: Browser, server: Server) -> None:
    with page_of(browser, server, viewport={"width": 1280, "height": 720}) as page:
        page.goto(server.url)
        page.check("#models input[value=tiny]")
        fill(page, QUERY, DOCUMENTS)
        columns = page.locator("#columns")
        assert columns.evaluate("e => e.scrollWidth - e.clientWidth") == 0
        right = columns.evaluate("e => e.getBoundingClientRect().right")
        for number in cards(page, 2).locator(".number").all():
            assert number.evaluate("e => e.getBoundingClientRect().right") <= right
            inside = (
                "e => e.getBoundingClientRect().right <= e.closest('.card').getBoundingClientRect().right"
            )
            assert number.evaluate(inside)


def test_what_is_kept_and_moved_is_said_of_each_model(page: Page, server: Server) -> None:
    page.check("#models input[value=tiny]")
    fill(page, QUERY, DOCUMENTS)
    orders = [by(compared(server, QUERY, DOCUMENTS, model), "rank") for model in ("crossrank-mini", "tiny")]
    places = {document["index"]: document["rank"] for document in orders[0]}
    for card, document in zip(cards(page, 2).all(), orders[1], strict=True):
        up = places[document["index"]] - document["rank"]
        shown = card.locator(".move > [aria-hidden]").text_content()
        assert shown == (f"▲ {up}" if up > 0 else f"▼ {-up}" if up < 0 else "=")
        words = card.locator(".move").get_attribute("title") or ""
        assert words.endswith("crossrank-mini")
        path = page.locator(f".links >> nth=1 >> path[data-index='{document['index']}']")
        kind = "rise" if up > 0 else "fall" if up < 0 else "level"
        assert path.get_attribute("class") == kind
    threshold = 0.9
    slide(page, "threshold", threshold)
    kept = [{d["index"] for d in order if d["score"] >= threshold} for order in orders]
    assert len(kept[0]) != len(kept[1])
    for column in (1, 2):
        expect(page.locator(".column").nth(column).locator("p")).to_contain_text(
            f"{len(kept[column - 1])} kept"
        )
    expect(page.locator(".keywords .dropped")).to_have_count(len(DOCUMENTS) - len(kept[0] | kept[1]))


def test_a_link_holds_the_whole_state_and_no_log_sees_it(browser: Browser, server: Server) -> None:
    secret = "zebracorn documents"
    with page_of(browser, server) as page:
        page.goto(server.url)
        page.check("#models input[value=tiny]")
        fill(page, secret, ["One is here.\nAnd more.", "Two.", "Three."], split="block")
        slide(page, "top-n", 2)
        slide(page, "threshold", 0.01)
        page.check("[name=scale][value=logit]", force=True)
        cards(page, 2).first.click()
        expect(page.locator("#why tbody tr").first).to_be_visible()
        title = page.locator("#why .facts").text_content()
        page.keyboard.press("Escape")
        cards(page, 2).first.click()
        page.wait_for_function(  # the address follows
            "async () => (await (await import('/page/state.js')).decodeState(location.hash))?.why"
        )
        link = page.url
    assert link.startswith(f"{server.url}/#1.")
    with page_of(browser, server) as page:
        page.goto(link)
        expect(page.locator("#why tbody tr").first).to_be_visible()
        assert page.locator("#why .facts").text_content() == title
        assert page.input_value("#query") == secret
        assert page.input_value("#documents") == "One is here.\nAnd more.\n\nTwo.\n\nThree."
        assert page.input_value("#top-n") == "2"
        assert page.input_value("#threshold") == "0.01"
        assert page.is_checked("[name=scale][value=logit]")
        assert page.is_checked("#models input[value=tiny]")
        expect(page.locator(".column")).to_have_count(3)
    assert "zebracorn" not in server.log.read_text()
    assert link.partition("#")[2] not in server.log.read_text()


@pytest.mark.parametrize("fragment", ["#1.AAAA", "#1.", "#1.garbage", "#1.q1YqLE0tqlSyUkrOzy1ILM"])
def test_a_link_that_is_broken_is_called_so(browser: Browser, server: Server, fragment: str) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url + "/" + fragment)
        expect(page.locator("#notice")).to_contain_text("This link is damaged")
        expect(page.locator("#empty")).to_be_visible()
        expect(page.locator("#found")).to_be_hidden()
        page.click("[data-example=bread]")
        expect(cards(page, 1)).to_have_count(4)
        expect(page.locator("#notice")).to_be_hidden()
        page.evaluate("hash => { location.hash = hash; }", fragment)
        expect(page.locator("#notice")).to_contain_text("This link is damaged")
        expect(page.locator("#empty")).to_be_hidden()
        expect(cards(page, 1)).to_have_count(4)


def test_a_link_that_would_become_large_is_refused(browser: Browser, server: Server) -> None:
    """48 MB in a link of 64,000 characters kept a browser busy for minutes."""
    state = json.dumps({"query": "q", "documents": "a\n" * 24_000_000}).encode()
    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(state) + compressor.flush()
    fragment = "#1." + base64.urlsafe_b64encode(data).decode().rstrip("=")
    with page_of(browser, server) as page:
        page.goto(server.url + "/" + fragment)
        expect(page.locator("#notice")).to_contain_text("This link is damaged")
        assert page.input_value("#documents") == ""


def test_another_fragment_is_a_first_visit(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url + "/#other")
        expect(cards(page, 1)).to_have_count(4)
        expect(page.locator("#notice")).to_be_hidden()


def test_models_of_a_link_that_are_not_served_are_named(page: Page, server: Server) -> None:
    state = {"query": "q", "documents": "one\ntwo", "models": ["tiny", "gone/model"]}
    script = "async (state) => (await import('/page/state.js')).encodeState(state)"
    link = server.url + "/" + page.evaluate(script, state)
    page.evaluate("link => { location.href = link; }", link)  # into a page that is open
    for _ in range(2):
        expect(page.locator("#notice")).to_contain_text("Some models of this link are not available")
        expect(page.locator("#notice")).to_contain_text("gone/model")
        expect(page.locator(".column h3")).to_have_text(["Keywords (BM25)", "tiny"])
        expect(cards(page, 1)).to_have_count(2)
        page.goto("about:blank")
        page.goto(link)


def test_what_an_example_or_a_file_replaces_is_a_step_back(page: Page) -> None:
    fill(page, "my question", ["my first", "my second", "my third"])
    page.fill("#documents", "mine, not yet ranked\nand another")
    page.click("[data-example=bread]")
    expect(cards(page, 1)).to_have_count(4)
    page.go_back()
    expect(page.locator("#documents")).to_have_value("mine, not yet ranked\nand another")
    expect(page.locator("#query")).to_have_value("my question")
    expect(cards(page, 1)).to_have_count(2)
    page.go_forward()
    expect(page.locator("#query")).to_have_value("Is it safe to eat moldy bread?")
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "", "buffer": b"from a file"})
    expect(page.locator("#documents")).to_have_value("from a file")
    page.click("#run")
    expect(cards(page, 1)).to_have_count(1)
    page.go_back()
    expect(cards(page, 1)).to_have_count(4)


def test_a_step_back_is_one_where_the_address_takes_its_time(page: Page) -> None:
    fill(page, "my question", ["my first", "my second"])
    page.evaluate(
        """() => {
            const whole = Response.prototype.arrayBuffer;
            Response.prototype.arrayBuffer = async function () {
                const bytes = await whole.call(this);
                await new Promise((resolve) => setTimeout(resolve, 1000));
                return bytes;
            };
        }"""
    )
    page.click("[data-example=bread]")
    page.click("[data-example=flight]")  # while the other one is on its way
    expect(page.locator("#query")).to_have_value("How do I get my money back for a cancelled flight?")
    expect(cards(page, 1)).to_have_count(4)
    page.go_back()
    expect(page.locator("#query")).to_have_value("Is it safe to eat moldy bread?")
    page.go_back()
    expect(page.locator("#query")).to_have_value("my question")
    expect(cards(page, 1)).to_have_count(2)
    page.go_forward()
    expect(page.locator("#query")).to_have_value("Is it safe to eat moldy bread?")
    expect(cards(page, 1)).to_have_count(4)


def test_a_step_is_not_kept_in_the_address_of_another(page: Page) -> None:
    fill(page, "my question", ["my first", "my second"])
    page.click("[data-example=bread]")
    expect(cards(page, 1)).to_have_count(4)
    # The state is packed for the address, and that is done just when the user has gone back.
    page.evaluate(
        """() => {
            const whole = Response.prototype.arrayBuffer;
            Response.prototype.arrayBuffer = async function () {
                Response.prototype.arrayBuffer = whole;
                const bytes = await this.arrayBuffer();
                await new Promise((resolve) => addEventListener("popstate", resolve, { once: true }));
                return bytes;
            };
            const slider = document.getElementById("threshold");
            slider.value = 0.3;
            slider.dispatchEvent(new Event("input"));
            setTimeout(() => history.back(), 1000);
        }"""
    )
    expect(page.locator("#query")).to_have_value("my question")
    expect(cards(page, 1)).to_have_count(2)
    page.reload()
    expect(page.locator("#query")).to_have_value("my question")
    expect(cards(page, 1)).to_have_count(2)


def export(page: Page, name: str) -> Path:
    page.click("#export summary")
    with page.expect_download() as download:
        page.click(f"[data-export={name}]")
    return Path(download.value.path())


def code(page: Page, name: str) -> str:
    page.click("#export summary")
    page.click(f"[data-export={name}]")
    text = page.locator("#code-text").text_content()
    assert text
    page.keyboard.press("Escape")
    return text


def test_a_query_that_was_cut_is_called_the_query(page: Page) -> None:
    fill(page, "long " * 1000, ["one", "two"])
    expect(page.locator("#summary")).to_contain_text("query truncated")
    expect(page.locator(".tag.cut")).to_have_count(0)
    fill(page, QUERY, ["one", "two"])
    expect(page.locator("#summary")).not_to_contain_text("truncated")


def test_what_is_shown_can_be_taken_along(page: Page, server: Server) -> None:
    documents = ['He said "blue", and left', "the sky\tis 蓝色的 😀", "=1+1", "Air scatters sunlight."]
    fill(page, QUERY, documents)
    slide(page, "top-n", 3)
    expected = by(compared(server, QUERY, documents), "rank")[:3]
    found = json.loads(export(page, "json").read_text(encoding="utf-8"))
    assert (found["query"], found["top_n"]) == (QUERY, 3)
    (ranking,) = found["rankings"]
    assert [hit["text"] for hit in ranking["results"]] == [documents[d["index"]] for d in expected]
    assert [hit["score"] for hit in ranking["results"]] == pytest.approx(
        [d["score"] for d in expected], abs=1e-3
    )
    rows = list(csv.DictReader(io.StringIO(export(page, "csv").read_bytes().decode("utf-8-sig"), newline="")))
    assert [row["text"] for row in rows] == [documents[d["index"]].replace("=1", "'=1") for d in expected]
    assert [float(row["logit"]) for row in rows] == pytest.approx([d["logit"] for d in expected], abs=1e-2)
    with Image.open(export(page, "png")) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2000
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 50


def test_no_text_of_a_csv_is_a_formula(page: Page) -> None:
    evil = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "plain = text", "'quoted'"]
    fill(page, QUERY, evil)
    rows = list(csv.DictReader(io.StringIO(export(page, "csv").read_bytes().decode("utf-8-sig"), newline="")))
    assert sorted(row["text"] for row in rows) == sorted(
        [*("'" + text for text in evil[:4]), "plain = text", "'quoted'"]
    )
    assert any(row["logit"].startswith("-") for row in rows)


def test_a_picture_says_what_the_page_says(page: Page) -> None:
    page.evaluate(
        """() => {
        window.written = [];
        const write = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            window.written.push(text);
            return write.call(this, text, ...rest);
        };
        }"""
    )
    fill(page, QUERY, [f"Passage {i} of the sky" for i in range(1000)])
    with Image.open(export(page, "png")) as picture:
        assert picture.format == "PNG"
    written = page.evaluate("() => window.written")
    assert "CrossRank: top 30 of 1,000 documents" in written
    long = "Sunlight is scattered by air molecules, so the sky is blue. " * 60
    # The long one is first by keywords, too; of the others some move and some do not.
    fill(page, QUERY, [*DOCUMENTS[:2], "Dogs bark at night.", *DOCUMENTS[3:], long])
    slide(page, "top-n", 5)
    page.evaluate("() => { window.written = []; }")
    export(page, "png")
    written = page.evaluate("() => window.written")
    assert "CrossRank" in written
    drawn = [" ".join(text.split()) for text in written]
    parts = ".number, .move > [aria-hidden], .tag:not([hidden])"
    shown = [
        " ".join(card.locator(parts).all_text_contents())
        for column in (0, 1)
        for card in cards(page, column).all()
    ]
    for words in ("not kept", "▲", "=", "truncated"):
        assert any(words in row for row in shown), words
    assert [row for row in shown if row not in drawn] == []


@pytest.mark.parametrize("threshold", [0, 0.3])
def test_curl_and_python_give_the_same_result(page: Page, server: Server, threshold: float) -> None:
    documents = [
        'It\'s "blue" \\ $HOME `ls`',
        "the sky 蓝色的 😀",
        "Air molecules scatter short wavelengths of sunlight far more than long ones.",
        "Cats.",
    ]
    fill(page, QUERY, documents)
    slide(page, "top-n", 3)
    slide(page, "threshold", threshold)
    kept = [d for d in by(compared(server, QUERY, documents), "rank")[:3] if d["score"] >= threshold]
    assert kept
    done = subprocess.run(["bash", "-euc", code(page, "curl")], capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)["results"]
    assert [hit["index"] for hit in results] == [document["index"] for document in kept]
    assert [hit["relevance_score"] for hit in results] == pytest.approx([d["score"] for d in kept], abs=1e-3)
    command = [sys.executable, "-W", "error", "-c", code(page, "python")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == [documents[document["index"]] for document in kept]
    assert [float(line.split(" ")[2]) for line in lines] == pytest.approx(
        [d["score"] for d in kept], abs=1e-3
    )


def test_a_link_can_be_copied(browser: Browser, server: Server) -> None:
    with page_of(browser, server, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        page.click("#export summary")
        page.click("[data-export=link]")
        page.click("#code-copy")
        expect(page.locator("#code-copy")).to_have_text("Copied")
        assert page.evaluate("() => navigator.clipboard.readText()") == page.url


def test_a_thousand_documents(page: Page) -> None:
    documents = [f"Passage {i} of the sky, and {'blue ' * (i % 4)}more" for i in range(1000)]
    fill(page, "blue sky", documents)
    expect(cards(page, 1)).to_have_count(1000)
    expect(page.locator(".links path")).to_have_count(1000)
    first = cards(page, 1).first
    first.focus()
    page.keyboard.press("End")
    expect(cards(page, 1).nth(999)).to_be_focused()
    expect(cards(page, 1).nth(999)).to_be_in_viewport()
    slide(page, "top-n", 10)
    expect(cards(page, 1)).to_have_count(10)
    cards(page, 1).first.click()
    expect(page.locator("#why table")).to_be_visible()


def test_a_running_request_can_be_stopped_and_the_server_sees_it(page: Page, server: Server) -> None:
    before = metric(server, "crossrank_cancelled_total")
    page.fill("#query", "sky")
    page.fill("#documents", "\n".join(f"{i} " + "The sky is blue. " * 20 for i in range(100)))
    with server.held():
        page.click("#run")
        expect(page.locator("#working")).to_contain_text("Ranking 100 documents")
        until(lambda: metric(server, "te_queue_size") > 0)
        page.click("#stop")
        expect(page.locator("#notice")).to_contain_text("Stopped")
        expect(page.locator("#stop")).to_be_hidden()
        until(lambda: metric(server, "crossrank_cancelled_total") == before + 1)
        assert metric(server, "te_queue_size") == 0
    page.fill("#documents", "one\ntwo")
    page.click("[data-way=again]")
    expect(cards(page, 1)).to_have_count(2)
    expect(page.locator("#notice")).to_be_hidden()


def test_a_new_request_takes_the_place_of_a_running_one(page: Page, server: Server) -> None:
    before = metric(server, "crossrank_cancelled_total")
    page.fill("#documents", "\n".join(f"{i} " + "The sky is blue. " * 20 for i in range(100)))
    with server.held():
        page.click("#run")
        until(lambda: metric(server, "te_queue_size") > 0)
        page.fill("#documents", "one\ntwo")
        page.click("#run")
        until(lambda: metric(server, "crossrank_cancelled_total") == before + 1)
    expect(cards(page, 1)).to_have_count(2)
    assert sorted(texts(page, 1)) == ["one", "two"]
    expect(page.locator("#notice")).to_be_hidden()
