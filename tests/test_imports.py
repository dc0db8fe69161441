"""What imports what: the order of the modules, and what a command loads."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"

HEAVY = {
    "bm25s",
    "fastapi",
    "httpx",
    "huggingface_hub",
    "matplotlib",
    "scipy",
    "starlette",
    "torch",
    "uvicorn",
}
"""Libraries that take long to import, and that only some commands need."""

MEANING: dict[str, tuple[str, ...]] = {
    "batches": ("crossrank.packing",),
    "devices": ("crossrank.engines", "torch"),
    "engines": ("crossrank.engines", "crossrank._native"),
    "HTTP": ("crossrank.server.http", "fastapi", "httpx", "starlette", "uvicorn"),
    "models": ("crossrank.models.checkpoint", "crossrank.models.files", "crossrank.models.resolve"),
    "networks": ("crossrank.models.hub", "crossrank.models.network", "httpx", "huggingface_hub", "urllib"),
    "order": ("crossrank.ranking",),
    "other frameworks": (),  # a test of its own
    "pairs": ("crossrank.pairs",),
    "queues": (
        "crossrank.server.core.fair",
        "crossrank.server.core.registry",
        "crossrank.server.core.scheduler",
        "crossrank.server.core.turns",
    ),
    "scores": ("crossrank.ranking",),
    "servers": ("crossrank.server",),
    "text": ("crossrank.text", "tokenizers"),
    "tokens": ("crossrank.packing", "crossrank.pairs", "tokenizers"),
    "what is in a file": ("crossrank.models.checkpoint",),
    "what it is for": ("crossrank.models", "crossrank.engines", "crossrank.server"),
    "what the bytes mean": ("crossrank.models.checkpoint", "safetensors"),
    "what the tensors mean": ("crossrank.engines",),
    "where it came from": (
        "crossrank.models.hub",
        "crossrank.models.modelscope",
        "crossrank.models.resolve",
    ),
}
"""The words in the last column of the table in docs/architecture.md, as modules."""


class Imports(NamedTuple):
    """The modules that a module imports: with itself, and within its functions."""

    eager: frozenset[str]
    lazy: frozenset[str]


@cache
def modules() -> dict[str, Path]:
    """The files of src/, by the module's name."""
    found = {}
    for path in SRC.rglob("*.py"):
        parts = path.relative_to(SRC).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _names(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, "relative imports are not the project's style"
    assert node.module
    for alias in node.names:
        name = f"{node.module}.{alias.name}"
        yield name if name in modules() else node.module


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@cache
def imports(module: str) -> Imports:
    """What a module imports when it runs; what only a type checker reads is left out."""
    found: dict[bool, set[str]] = {False: set(), True: set()}

    def visit(nodes: list[ast.AST], lazy: bool) -> None:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                found[lazy].update(_names(node))
            elif isinstance(node, ast.If) and _is_for_types(node):
                visit(list(node.orelse), lazy)
            else:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                visit(list(ast.iter_child_nodes(node)), lazy or inside)

    visit([ast.parse(modules()[module].read_text(encoding="utf-8"))], False)
    return Imports(frozenset(found[False]), frozenset(found[True]))


def circles(graph: Mapping[str, frozenset[str]]) -> set[frozenset[str]]:
    """Groups of modules each of which imports, by way of others, all the rest of its group."""

    @cache
    def reached(start: str) -> frozenset[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module in graph and module not in seen:
                seen.add(module)
                waiting += graph[module]
        return frozenset(seen)

    return {
        frozenset(other for other in reached(module) if module in reached(other))
        for module in graph
        if module in reached(module)
    }


def test_a_circle_is_found() -> None:
    graph = {"a": frozenset({"b"}), "b": frozenset({"c", "os"}), "c": frozenset({"a"}), "d": frozenset({"a"})}
    assert circles(graph) == {frozenset("abc")}


def test_there_is_no_circle() -> None:
    assert circles({module: imports(module).eager for module in modules()}) == set()


def test_there_is_no_circle_of_imports_within_functions_either() -> None:
    assert circles({module: imports(module).eager | imports(module).lazy for module in modules()}) == set()


def rows(page: str) -> list[tuple[list[str], list[str]]]:
    """The table of what a module knows and what it does not: the modules of a row, and its last column."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = re.search(r"^\| (?:module|模块) \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, page
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]
    return [(re.findall(r"`([^`]+)`", first), re.split(r", |、|，", last)) for first, _, last in cells]


def named(name: str) -> list[str]:
    """The modules that a row of the table means by "engines/" or "ranking.py"."""
    module = "crossrank." + name.removesuffix("/").removesuffix(".py").replace("/", ".")
    found = [other for other in modules() if other == module or other.startswith(f"{module}.")]
    assert found, f"docs/architecture.md names {name}, which is not there"
    return found


@pytest.mark.parametrize(("names", "never"), rows("architecture.md"), ids=lambda value: "-".join(value))
def test_a_module_knows_nothing_of_what_the_page_says(names: list[str], never: list[str]) -> None:
    for module in (module for name in names for module in named(name)):
        for word in never:
            others = MEANING[word]
            found = [
                imported
                for imported in imports(module).eager | imports(module).lazy
                for other in others
                if imported == other or imported.startswith(f"{other}.")
            ]
            assert not found, f"{module} is to know nothing of {word}, and imports {found}"


def test_no_integration_knows_of_another() -> None:
    frameworks = {"haystack", "langchain", "llamaindex", "mcp", "mteb", "pyterrier"}
    for name in frameworks:
        module = f"crossrank.integrations.{name}"
        known = imports(module).eager | imports(module).lazy
        assert not known & {f"crossrank.integrations.{other}" for other in frameworks - {name}}


def test_every_word_of_the_table_has_a_meaning() -> None:
    assert set(MEANING) == {word for _, never in rows("architecture.md") for word in never}


def test_both_pages_have_the_same_rows() -> None:
    english, chinese = rows("architecture.md"), rows("architecture.zh-CN.md")
    assert [names for names, _ in english] == [names for names, _ in chinese]
    assert [len(never) for _, never in english] == [len(never) for _, never in chinese]


def test_nothing_edits_the_path_of_modules() -> None:
    edits = re.compile(r"sys\.path(\.(insert|append|extend)|\[.*\] *=| *\+?=[^=])")
    for folder in ("benchmarks", "examples", "src", "tests", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not edits.search(path.read_text(encoding="utf-8")), path


def loaded(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``code``."""
    program = f"import json, sys\n{code}\nprint(); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded_by_command(*arguments: str) -> set[str]:
    code = "from crossrank.cli import main\ntry: main()\nexcept SystemExit as end: assert end.code == 0"
    return loaded(code, *arguments)


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == "crossrank"}


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_loads_no_command_and_no_numpy(argument: str) -> None:
    names = loaded_by_command(argument)
    assert own(names) == {"crossrank", "crossrank.cli", "crossrank.cli.writing", "crossrank.errors"}
    assert not names & (HEAVY | {"numpy", "tokenizers"})


def test_rank_loads_no_server_and_no_other_command() -> None:
    names = loaded_by_command("rank", "a query", "a document", "another")
    assert not names & HEAVY
    assert {name for name in own(names) if name.startswith("crossrank.cli.")} == {
        "crossrank.cli.options",
        "crossrank.cli.rank",
        "crossrank.cli.reading",
        "crossrank.cli.unused",
        "crossrank.cli.writing",
    }
    rest = {name.split(".")[1] for name in own(names) if "." in name}
    assert not rest & {"bulk", "client", "evaluation", "integrations", "ray", "server"}


def test_a_client_needs_no_engine() -> None:
    names = own(loaded("from crossrank.client import Client"))
    assert not [name for name in names if name.startswith(("crossrank.engines", "crossrank.reranker"))]


def test_scipy_is_loaded_where_keywords_are_counted() -> None:
    code = "from crossrank.text.keywords import KeywordIndex"
    assert "scipy" not in loaded(code)
    assert "scipy" in loaded(f"{code}; KeywordIndex(['a word'])")


def test_a_public_name_is_loaded_with_its_first_use() -> None:
    names = loaded("import crossrank; assert 'Reranker' in dir(crossrank)")
    assert own(names) == {"crossrank", "crossrank.errors"}
    assert "crossrank.reranker" in loaded("from crossrank import *; Reranker")
    with pytest.raises(ImportError, match="cannot import name 'Rerankers'"):
        from crossrank import Rerankers  # type: ignore[attr-defined]  # noqa: F401
