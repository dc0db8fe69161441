"""Links lead somewhere, the reference is complete, and both languages have the same sections and tables."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs.build import OUTSIDE, ROOT, sources, stage

DOCS = ROOT / "docs"
ENGLISH = sorted(path for path in sources("en") if path.with_suffix(".zh-CN.md").exists())
PAGES = sorted({*sources("en"), *sources("zh-CN")})
# What a caller may import. Every other module is internal.
PUBLIC = [
    "crossrank",
    "crossrank.client",
    "crossrank.errors",
    "crossrank.integrations.haystack",
    "crossrank.integrations.langchain",
    "crossrank.integrations.llamaindex",
    "crossrank.integrations.mcp",
    "crossrank.integrations.mteb",
    "crossrank.integrations.pyterrier",
    "crossrank.loading",
    "crossrank.ray",
    "crossrank.server.settings",
    "crossrank.text.keywords",
    "crossrank.text.sentences",
]


# Names of other modules that public ones take or give.
BESIDE = {
    "crossrank.engines.base.Engine",
    "crossrank.engines.fake.FakeEngine",
    "crossrank.packing.Pack",
    "crossrank.pairs.PairEncoder",
}


def tree(module: str) -> ast.Module:
    """What a module's file says; it need not be possible to import it."""
    path = ROOT / "src" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text("utf-8"))


def exported(module: str) -> list[str]:
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError(f"{module} has no __all__")


def referenced(page: Path) -> list[str]:
    return re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    names = referenced(DOCS / "reference.md")
    assert len(set(names)) == len(names)
    shown = {(name.rpartition(".")[0], name.rpartition(".")[2]) for name in names}
    for module in PUBLIC:
        missing = [
            name
            for name in exported(module)
            # What a package exports may be shown where it is written.
            if not any(where.startswith(module) and which == name for where, which in shown)
        ]
        assert missing == [], module


def test_what_the_reference_names_is_public_and_there() -> None:
    for name in referenced(DOCS / "reference.md"):
        module, _, attribute = name.rpartition(".")
        assert module in PUBLIC or module.startswith("crossrank.ray.") or name in BESIDE, name
        assert attribute in exported(module), name


def test_examples_import_only_what_is_public() -> None:
    public = {f"crossrank.{name}" for name in exported("crossrank")} | {
        # A package's name may be shown where it is written.
        f"{module}.{name.rpartition('.')[2]}"
        for name in referenced(DOCS / "reference.md")
        for module in PUBLIC
        if name.startswith(f"{module}.")
    }
    for path in (ROOT / "examples").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "crossrank":
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                assert names <= public, path.name


def test_public_names_have_docstrings() -> None:
    for name in referenced(DOCS / "reference.md"):
        module, _, attribute = name.rpartition(".")
        for node in tree(module).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == attribute:
                assert ast.get_docstring(node), name


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.stem)
def test_both_languages_have_the_same_sections_and_tables(page: Path) -> None:
    chinese = page.with_suffix(".zh-CN.md")
    shapes = []
    for path in (page, chinese):
        text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        heads = [len(head) for head in re.findall(r"^(#+) ", text, re.MULTILINE)]
        shapes.append((heads, len(re.findall(r"^\|", text, re.MULTILINE)), referenced(path)))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.stem)
def test_each_page_leads_to_its_translation(page: Path) -> None:
    chinese = page.with_suffix(".zh-CN.md")
    assert f"\n[中文]({chinese.name})\n" in page.read_text("utf-8")
    assert f"\n[English]({page.name})\n" in chinese.read_text("utf-8")


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_links_lead_somewhere(language: str, tmp_path: Path) -> None:
    stage(language, tmp_path / language)
    pages = {path.name for path in (tmp_path / language).glob("*.md")}
    assert {"index.md", "reference.md", "serving.md"} <= pages
    for path in (tmp_path / language).glob("*.md"):
        text = path.read_text("utf-8")
        assert not re.search(r"\]\((?!http)(?:\.\./|[^)]*zh-CN\.md)", text), path.name


def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "nowhere.md"
    monkeypatch.setattr("docs.build.sources", lambda language: {page: "nowhere"})
    monkeypatch.setattr(Path, "read_text", lambda self, *_: "# A\n\n[b](missing.md)\n")
    with pytest.raises(ValueError, match=r"docs/nowhere\.md: missing\.md does not exist"):
        stage("en", tmp_path / "en")


@pytest.mark.parametrize("config", ["mkdocs.yml", "mkdocs.zh-CN.yml"])
def test_every_page_is_in_the_menu(config: str) -> None:
    menu = re.findall(r": ([\w-]+)\.md$", (ROOT / config).read_text("utf-8"), re.MULTILINE)
    assert sorted(menu) == sorted(sources("en").values())
    assert set(OUTSIDE.values()) <= set(menu)


def lines_of_prose(text: str) -> list[str]:
    """Without code, tables, and lines that are one link or written by a benchmark."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!-- (?:measured|speed): begin -->.*?<!-- \w+: end -->", "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if not line.startswith(("|", "!["))]


def width(line: str) -> int:
    """Columns in a terminal: a Chinese character takes two."""
    return sum(2 if "\u2e80" <= character <= "\uffef" else 1 for character in line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_fit_into_a_window(page: Path) -> None:
    long = [line for line in lines_of_prose(page.read_text("utf-8")) if width(line) > 120]
    assert long == []


@pytest.mark.skipif(find_spec("zensical") is None, reason="needs the extra docs")
def test_the_site_builds_without_warnings_or_the_network() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "build.py")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "reference.html", "zh-CN/index.html", "zh-CN/reference.html"):
        assert (ROOT / "build" / "site" / page).is_file()
    reference = (ROOT / "build" / "site" / "zh-CN" / "reference.html").read_text("utf-8")
    for name in referenced(DOCS / "reference.md"):
        assert f'id="{name}"' in reference, name
