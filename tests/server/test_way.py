"""The way of a query, as docs/architecture.md tells it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["architecture.md", "architecture.zh-CN.md"])
def test_it_is_as_short_as_it_says_and_its_functions_are_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    steps = re.findall(r"^\| (\d+) \| `(?:\w+\.)?(\w+)` \| `([\w/.]+)` \|", text, re.MULTILINE)
    assert [int(number) for number, _, _ in steps] == list(range(1, 16))
    files = {file for _, _, file in steps if file.startswith(("core/", "http/"))}
    assert len(files) <= 8
    source = ROOT / "src" / "crossrank"
    for _, name, file in steps:
        folder = source / "server" if file in files else source
        path = folder / file if file.endswith(".py") else folder / file / "base.py"
        assert f"def {name}(" in path.read_text("utf-8"), name
