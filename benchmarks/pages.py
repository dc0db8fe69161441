"""Figures go into pages between marks, so that a page shows what was measured and nothing else."""

from __future__ import annotations

import re
from pathlib import Path


def between(path: Path, mark: str, text: str) -> None:
    """Put a text between a page's two marks."""
    content = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {mark}: begin -->\n).*?(<!-- {mark}: end -->)", re.DOTALL)
    if not pattern.search(content):
        raise SystemExit(f"{path} has no place for the figures: <!-- {mark}: begin --> and end")
    path.write_text(pattern.sub(lambda m: f"{m[1]}{text}\n{m[2]}", content), encoding="utf-8")
    print(f"{path} written")
