"""The report of ``crossrank eval`` fits a phone's screen, and the paper that it is printed on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.checkpoints import write_xlm_roberta

LONG = "a_name_without_a_space_" * 8
METRICS = ["nDCG@10", "MRR@10", "P@1", "R@100", "MAP@100"]

BEYOND = """() => [...document.querySelectorAll("body, body *")]
    .filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1 || (
        !(e instanceof SVGElement) && e.scrollWidth > e.clientWidth + 1 && e.clientWidth))
    .map((e) => `${e.tagName} ${e.textContent.slice(0, 60)}`)"""
"""Elements that end beyond the page, or that have more in them than they show."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_xlm_roberta(folder / LONG)
    rows = [
        {"id": f"{n}", "query": f"query {n} {LONG}", "documents": ["a b", LONG, "c"], "labels": [n % 2, 0, 1]}
        for n in range(12)
    ]
    (folder / f"{LONG}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{LONG}.run").write_text(
        "".join(f"{n} Q0 {n}/{d} 1 {n * d % 5} x\n" for n in range(12) for d in range(3))
    )
    command = [sys.executable, "-m", "crossrank", "eval", "--data", f"{LONG}.jsonl", "--html", "report.html"]
    command += ["--model", f"./{LONG}", "--run", f"{LONG}.run", "--threads", "1"]
    command += [part for name in METRICS for part in ("--metric", name)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return folder / "report.html"


@pytest.mark.parametrize(
    ("width", "media"), [(375, "screen"), (1280, "screen"), (680, "print"), (1000, "print")]
)
def test_a_report_fits_its_page(browser: Browser, report: Path, width: int, media: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.emulate_media(media=media)
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.locator("details").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND) == []
    page.close()


def test_on_a_narrow_screen_every_number_has_its_name(browser: Browser, report: Path) -> None:
    page = browser.new_page(viewport={"width": 375, "height": 800})
    page.goto(report.as_uri())
    for row in page.locator("table tr").all()[1:]:
        names = row.locator("td").evaluate_all("all => all.map((e) => e.dataset.name ?? '')")
        assert names == ["", *METRICS, "pairs/s", "peak memory"]
    page.close()
