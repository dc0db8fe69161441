"""The pictures of the documentation, taken from the page itself.

``make screenshots`` writes them to docs/images; otherwise they go to a folder that nobody keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import cards, page_of
from tests.server.process import Server, serving

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"


def save(page: Page, folder: Path, name: str) -> None:
    """A picture of 256 colours, which is small."""
    path = folder / f"{name}.png"
    page.evaluate("() => document.fonts.ready.then(() => true)")
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < 200_000


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as people start it."""
    with serving(tmp_path_factory.mktemp("plain")) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize(("locale", "suffix"), [("en-US", ""), ("zh-CN", ".zh-CN")])
def test_the_pictures_of_the_documentation(
    browser: Browser, plain: Server, tmp_path: Path, locale: str, suffix: str
) -> None:
    folder = Path(os.environ.get("CROSSRANK_SCREENSHOTS") or tmp_path)
    folder.mkdir(exist_ok=True)
    wide: dict[str, Any] = {"viewport": {"width": 1280, "height": 760}, "device_scale_factor": 1.5}
    with page_of(browser, plain, locale=locale, color_scheme="light", **wide) as page:
        page.goto(plain.url)
        expect(cards(page, 1)).to_have_count(4)
        save(page, folder, f"playground{suffix}")
        page.click("[data-example=long]")
        expect(cards(page, 1)).to_have_count(3)
        cards(page, 1).first.click()
        expect(page.locator("#why table")).to_be_visible()
        save(page, folder, f"playground-why{suffix}")
    narrow: dict[str, Any] = {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 1.5}
    with page_of(browser, plain, locale=locale, color_scheme="dark", **narrow) as page:
        page.goto(plain.url)
        expect(cards(page, 1)).to_have_count(4)
        page.evaluate("() => { document.getElementById('results').scrollIntoView(); }")
        save(page, folder, f"playground-phone{suffix}")


def test_the_documentation_has_its_pictures() -> None:
    for page, suffix in (("playground.md", ""), ("playground.zh-CN.md", ".zh-CN")):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for name in ("playground", "playground-why", "playground-phone"):
            assert f"images/{name}{suffix}.png" in text
            with Image.open(IMAGES / f"{name}{suffix}.png") as picture:
                assert picture.format == "PNG"
