"""The curve of docs/integrations*.md, on a little of its data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.full  # FAISS, in a process of its own
MARKS = "".join(
    f"<!-- {key} -->\n{old}<!-- end {key} -->\n\n"
    for key, old in (("questions", "old\n"), ("Cranfield", ""), ("note", "old\nold\n"))
)
ANSWERS = {
    "What gas did Joseph Priestley's experiment of 1774 release?": "oxygen",
    "Who isolated the element in Uppsala?": "Carl Wilhelm Scheele",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(ROOT / "tests/data/cranfield", folder / "cranfield")
    for name, language in (("xquad/xquad.en", "en"), ("xquad/xquad.zh", "zh"), ("cmrc2018/dev", "zh")):
        articles = []
        for title in ("Oxygen", "Kenya"):
            page = ROOT / f"examples/documents/{language}/{title.lower()}.md"
            context = page.read_text(encoding="utf-8").split("\n\n", 1)[1]
            asked = [
                {"question": question, "answers": [{"text": answer, "answer_start": context.index(answer)}]}
                for question, answer in ANSWERS.items()
                if answer in context
            ]
            articles.append({"title": title, "paragraphs": [{"context": context, "qas": asked}]})
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps({"data": articles}), encoding="utf-8")
    return folder


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks.candidates", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_tables_and_picture_go_into_the_pages(data: Path, tmp_path: Path) -> None:
    for name in ("integrations.md", "integrations.zh-CN.md"):
        (tmp_path / name).write_text(f"# A page\n\n{MARKS}the end\n", encoding="utf-8")
    done = run(str(data), "--queries", "3", "--counts", "4", "1", "2", "--write", str(tmp_path))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "integrations.md").read_text(encoding="utf-8")
    assert page.startswith("# A page\n\n<!-- questions -->\n| candidates |")
    assert page.endswith("the end\n")
    assert "old" not in page
    rows = re.findall(
        r"^\| (\d) \| (0\.\d\d|1\.00) \| (0\.\d\d|1\.00) \| (?:0\.\d{3}|1\.000) \| \d+ \|$", page, re.M
    )
    assert [count for count, *_ in rows] == ["1", "2", "4"] * 2
    found = [float(found) for _, found, _ in rows]
    # More candidates hold more; the first of one is right where that one is.
    assert found[:3] == sorted(found[:3])
    assert found[3:] == sorted(found[3:])
    assert rows[0][1] == rows[0][2]
    assert re.search(r"^crossrank-mini, \w+, native engine, \d+ cores of ", page, re.M)
    chinese = (tmp_path / "integrations.zh-CN.md").read_text(encoding="utf-8")
    assert chinese.count("| 只有第一阶段 |") == 2
    picture = (tmp_path / "candidates.svg").read_text(encoding="utf-8")
    assert picture.count("<svg") == 1
    assert len(picture) > 10_000
    assert "questions: 2 queries" in done.stdout or "questions: 3 queries" in done.stdout


def test_a_page_without_marks_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "integrations.md").write_text("# A page\n", encoding="utf-8")
    done = run(str(data), "--queries", "1", "--counts", "1", "--write", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("has no marks <!-- questions --> and <!-- end questions -->")
    assert "Traceback" not in done.stderr


def test_the_pages_have_the_marks_and_the_same_figures() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("integrations.md", "integrations.zh-CN.md")]
    figures = [re.findall(r"^\| (\d+ \| [\d. |]+) \|$", page, re.M) for page in pages]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 16
    for page in pages:
        for key in ("questions", "Cranfield", "note"):
            assert page.count(f"<!-- {key} -->") == page.count(f"<!-- end {key} -->") == 1
        assert "candidates.svg" in page
