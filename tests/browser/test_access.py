"""For everybody: two languages, light and dark, keyboard and screen reader, phone width."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import FAILURES, cards, fill, page_of, texts
from tests.server.process import Server

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def check(page: Page) -> None:
    """No violation of WCAG AA, by axe-core."""
    found = Axe().run(page, options=RULES)
    assert found.response["passes"]
    assert found.violations_count == 0, found.generate_report()


# Every two of language, scheme and width meet in one of these.
@pytest.mark.parametrize(
    ("locale", "scheme", "options"),
    [("en-US", "light", {}), ("zh-CN", "dark", {}), ("en-US", "dark", PHONE), ("zh-CN", "light", PHONE)],
    ids=["en-light-desktop", "zh-dark-desktop", "en-dark-phone", "zh-light-phone"],
)
def test_axe_finds_nothing(
    browser: Browser, server: Server, locale: str, scheme: str, options: dict[str, Any]
) -> None:
    with page_of(browser, server, locale=locale, color_scheme=scheme, **options) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        page.click("[data-example=long]")
        expect(page.locator(".column.model .tag.cut")).to_have_count(1)
        page.locator("#threshold").fill("0.1")
        check(page)
        page.locator(".column.model .tag.cut").locator("xpath=ancestor::button").click()
        expect(page.locator("#why table")).to_be_visible()
        check(page)
        page.check("#why [name=colour][value=alone]", force=True)
        page.locator("#why .strip").evaluate("strip => { strip.scrollTop = strip.scrollHeight; }")
        check(page)
        page.keyboard.press("Escape")
        page.click("#export summary")
        check(page)
        page.click("[data-export=python]")
        check(page)
        page.keyboard.press("Escape")
        page.fill("#query", "")
        page.click("#run")
        expect(page.locator("#notice")).to_be_visible()
        check(page)


def test_it_speaks_chinese_and_english(browser: Browser, server: Server) -> None:
    with page_of(browser, server, locale="zh-TW") as page:
        page.goto(server.url)
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(page.locator("#run")).to_contain_text("排序")
        expect(page.locator("#query")).to_have_value("手机电池怎么保养才耐用？")
        expect(page.locator("#summary")).to_contain_text("4 篇文档")
        page.click("#language")
        expect(page.locator("html")).to_have_attribute("lang", "en")
        expect(page.locator("#run")).to_contain_text("Rank")
        expect(page.locator("#summary")).to_contain_text("4 documents")
        expect(page.locator(".keywords h3")).to_have_text("Keywords (BM25)")
        page.reload()
        expect(page.locator("#run")).to_contain_text("Rank")
        english, chinese = page.evaluate("async () => (await import('/page/i18n.js')).keys()")
        assert english == chinese
        for attribute in ("data-t", "data-label"):
            for element in page.locator(f"[{attribute}]").all():
                assert element.get_attribute(attribute) in english


def test_light_and_dark_follow_the_system_or_the_switch(browser: Browser, server: Server) -> None:
    def background(page: Page) -> str:
        return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    with page_of(browser, server, color_scheme="dark") as page:
        page.goto(server.url)
        dark = background(page)
        page.emulate_media(color_scheme="light")
        light = background(page)
        assert dark != light
        page.click("#theme")
        expect(page.locator("#theme")).to_contain_text("Light")
        page.click("#theme")
        expect(page.locator("#theme")).to_contain_text("Dark")
        assert background(page) == dark
        page.reload()
        assert background(page) == dark
        expect(page.locator("#found")).to_be_visible()


def test_the_keyboard_alone_is_enough(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#results")).to_be_focused()
        assert "#results" not in page.url
        page.focus("#query")
        page.keyboard.press("Control+A")
        page.keyboard.type("capital of France")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
        expect(page.locator("#documents")).to_be_focused()
        page.keyboard.press("Control+A")
        page.keyboard.type("Paris is the capital.\n\nCats sleep.\n\nLyon is a city.")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#status")).to_contain_text("3 documents ranked")
        expect(page.locator("#status")).to_contain_text("First: Paris is the capital.")
        page.locator(".column.model .card").first.focus()
        for key, place in (
            ("ArrowDown", 1),
            ("ArrowDown", 2),
            ("ArrowDown", 2),
            ("Home", 0),
            ("End", 2),
            ("ArrowUp", 1),
        ):
            page.keyboard.press(key)
            expect(cards(page, 1).nth(place)).to_be_focused()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        expect(cards(page, 1).nth(1)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#why-title")).to_be_focused()
        page.keyboard.press("Escape")
        expect(cards(page, 1).nth(1)).to_be_focused()
        page.focus("#top-n")
        page.keyboard.press("ArrowLeft")
        expect(cards(page, 1)).to_have_count(2)
        page.focus("#export summary")
        page.keyboard.press("Enter")
        expect(page.locator("[data-export=link]")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("[data-export=link]")).to_be_hidden()
        expect(page.locator("#export summary")).to_be_focused()


def test_a_column_stays_within_reach_of_tab_when_fewer_are_kept(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        cards(page, 1).first.focus()
        page.keyboard.press("End")
        page.locator("#top-n").fill("1")
        stops = page.locator(".column.model li:not([hidden]) .card[tabindex='0']")
        expect(stops).to_have_count(1)
        page.locator("#top-n").fill("4")
        expect(stops).to_have_count(1)
        page.locator(".column.keywords .card[tabindex='0']").focus()
        page.keyboard.press("Tab")
        expect(stops).to_be_focused()


def test_left_and_right_go_to_the_same_document(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        fill(page, "blue sky", [f"Passage {i}, {'blue ' * (i % 4)}{'sky ' * (i % 3)}" for i in range(200)])
        expect(cards(page, 1)).to_have_count(200)
        card = cards(page, 1).first
        index = card.get_attribute("data-index")
        card.focus()
        page.keyboard.press("ArrowLeft")
        partner = page.locator(f".column.keywords .card[data-index='{index}']")
        expect(partner).to_be_focused()
        expect(partner).to_be_in_viewport()
        expect(page.locator(".column.keywords .card[tabindex='0']")).to_have_count(1)
        page.keyboard.press("ArrowLeft")
        expect(partner).to_be_focused()
        page.keyboard.press("ArrowRight")
        expect(card).to_be_focused()


def test_rank_is_within_reach_on_a_low_window(browser: Browser, server: Server) -> None:
    with page_of(browser, server, viewport={"width": 1366, "height": 600}) as page:
        page.goto(server.url)
        page.check("#models input[value=tiny]")
        fill(page, "sky", [f"Passage {i}" for i in range(300)])
        for y in (0, 5000):
            page.evaluate("y => scrollTo(0, y)", y)
            expect(page.locator("#run")).to_be_in_viewport(ratio=1)
        page.set_viewport_size({"width": 1000, "height": 600})
        assert page.locator("#form").evaluate("e => e.scrollHeight - e.clientHeight") == 0


def test_the_focus_is_never_lost(browser: Browser, server: Server) -> None:
    with page_of(browser, server, allowed=FAILURES) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        for name in ("link", "curl", "python"):
            page.focus("#export summary")
            page.keyboard.press("Enter")
            page.focus(f"[data-export={name}]")
            page.keyboard.press("Enter")
            expect(page.locator("#code")).to_be_visible()
            page.keyboard.press("Escape")
            expect(page.locator("#code")).to_be_hidden()
            expect(page.locator("#export summary")).to_be_focused()
        page.route("**/compare", lambda route: route.fulfill(status=500, json={"message": "no"}))
        page.click("#run")
        expect(page.locator("#notice")).to_contain_text("The server failed")
        page.focus("[data-way=again]")
        page.keyboard.press("Enter")
        expect(page.locator("#results")).to_be_focused()
        page.unroute("**/compare")
        page.route("**/compare", lambda route: route.fulfill(status=429, json={"message": "full"}))
        page.click("#run")
        page.focus("[data-way=give_up]")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("Stopped")
        expect(page.locator("#results")).to_be_focused()


def test_what_changes_elsewhere_is_announced(browser: Browser, server: Server) -> None:
    with page_of(browser, server) as page:
        page.goto(server.url)
        expect(page.locator("#status")).to_contain_text("4 documents ranked")
        page.focus("#top-n")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#status")).to_have_text("3 kept")
        page.locator("#threshold").fill("1")
        expect(page.locator("#status")).to_have_text("0 kept")
        page.fill("#documents", "one\ntwo")
        expect(page.locator("#status")).to_contain_text("2 documents")
        page.check("#models input[value=tiny]")
        page.click("#run")
        expect(page.locator("#status")).to_contain_text("2 documents ranked")
        page.locator("#threshold").fill("0")
        page.locator("#top-n").fill("1")
        expect(page.locator("#status")).to_have_text("crossrank-mini: 1 kept; tiny: 1 kept")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_ranking_of_other_texts_is_seen_as_such(browser: Browser, server: Server, scheme: str) -> None:
    with page_of(browser, server, allowed=FAILURES, color_scheme=scheme) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        changed = page.locator("#changed")
        expect(changed).to_be_hidden()
        texts = page.input_value("#documents")
        page.fill("#documents", texts + "\none more")
        expect(changed).to_contain_text("The texts or options have changed")
        expect(page.locator("#found")).to_have_class("old")
        expect(page.locator("#status")).to_contain_text("The texts or options have changed")
        check(page)
        page.fill("#documents", texts + "\n ")
        expect(changed).to_be_hidden()
        page.fill("#query", "another")
        expect(changed).to_be_visible()
        page.click("#run")
        expect(changed).to_be_hidden()
        expect(page.locator("#found")).to_have_class("")
        page.set_input_files("#file", {"name": "a.txt", "mimeType": "", "buffer": b"one\ntwo"})
        expect(changed).to_be_visible()
        page.route("**/compare", lambda route: route.fulfill(status=429, json={"message": "full"}))
        page.click("#run")
        page.click("[data-way=give_up]")
        expect(changed).to_be_visible()


def test_a_phone_shows_one_ranking_at_a_time(browser: Browser, server: Server) -> None:
    with page_of(browser, server, **PHONE) as page:
        page.goto(server.url)
        expect(page.locator("#found")).to_be_visible()
        fill(page, "capital of France", ["Lyon is a city in France. " * 9, "Paris is the capital."])
        expect(page.locator(".column.model")).to_be_visible()
        expect(page.locator(".column.keywords")).to_be_hidden()
        expect(page.locator(".links").first).to_be_hidden()
        expect(page.locator("#results")).to_be_in_viewport()
        page.locator("#tabs label").first.click()
        expect(page.locator(".column.keywords")).to_be_visible()
        expect(page.locator(".column.model")).to_be_hidden()
        assert len(texts(page, 0)) == 2
        page.set_viewport_size({"width": 320, "height": 640})
        cards(page, 0).first.click()
        expect(page.locator("#why table")).to_be_visible()
        for selector in ("html", "#why"):
            wide = page.locator(selector).evaluate("e => e.scrollWidth - e.clientWidth")
            assert wide == 0, selector


def test_the_cards_move_to_their_places_unless_that_is_unwanted(browser: Browser, server: Server) -> None:
    count = "document.getAnimations().filter((each) => each.effect.target.tagName === 'LI').length"
    watch = f"""() => {{
        window.moving = 0;
        const observer = new MutationObserver(() => (window.moving += {count}));
        observer.observe(document.getElementById("columns"), {{ childList: true }});
        }}"""
    for motion, moves in (("no-preference", True), ("reduce", False)):
        with page_of(browser, server, reduced_motion=motion) as page:
            page.goto(server.url)
            expect(page.locator("#found")).to_be_visible()
            page.evaluate(watch)
            page.click("[data-example=bread]")
            expect(cards(page, 1).first).to_contain_text("Throw the whole loaf away")
            assert (page.evaluate("() => window.moving") > 0) is moves
