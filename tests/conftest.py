"""What the whole suite shares, and which tests are its core."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import anyio
import pytest

# anyio brings a pytest plugin, so pytest rewrites its modules, and anyio imports them late: in a running
# server, whose threads parse at the same time, which Python 3.11 does not bear (SystemError: AST constructor
# recursion depth mismatch). So the one that serves files is imported here.
_ = anyio.open_file

# Nothing is told to anybody: neither by the hub's library nor by Haystack or LangChain.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"

ROOT = Path(__file__).resolve().parents[1]
NOT_CORE = frozenset(
    {
        "datasets",
        "faiss",
        "haystack",
        "haystack_integrations",
        "ir_datasets",
        "langchain_classic",
        "langchain_core",
        "llama_index",
        "matplotlib",
        "mcp",
        "modelscope",
        "mteb",
        "pandas",
        "playwright",
        "pyarrow",
        "pyterrier",
        "ray",
        "sentence_transformers",
        "torch",
        "transformers",
    }
)
"""Libraries that the core of the tests does without. With ``--core`` it is as if they were not installed.
Files of tests that import one are left out, and so are tests with the mark ``full``, which need one, or
another environment, in a way that is not seen here."""


class _WithoutThem(PathFinder):
    """Finds what is installed, but for those libraries."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname in NOT_CORE else super().find_spec(fullname, path, target)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--core", action="store_true", help="only tests that need no torch, Ray, browser and such"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: not of the core of the tests, see tests/conftest.py")
    if config.getoption("--core"):
        sys.meta_path[sys.meta_path.index(PathFinder)] = _WithoutThem


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--core"):
        return None
    path = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    return True if path.suffix == ".py" and path.is_file() and _needs(path) & NOT_CORE else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--core"):
        full = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]


@cache
def _needs(path: Path) -> frozenset[str]:
    """The libraries that a file of tests imports, itself or by way of this repository's modules."""
    found: set[str] = set()
    seen, waiting = {path}, [path]  # modules may import one another
    while waiting:
        names = _names(waiting.pop())
        found.update(name.partition(".")[0] for name in names)
        own = {module for name in names if (module := _own(name)) is not None} - seen
        seen |= own
        waiting += own
    return frozenset(found)


@cache
def _names(path: Path) -> frozenset[str]:
    """The modules that a file imports, and what it takes from them."""
    found: set[str] = set()
    for node in _imports(ast.parse(path.read_text(encoding="utf-8")), path.is_relative_to(ROOT / "tests")):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        else:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(str(node.module))
    return frozenset(found)


def _imports(tree: ast.AST, also_in_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """A test imports in a function what it needs; another module what it can do without."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif also_in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(node, also_in_functions)


def _own(name: str) -> Path | None:
    """The file of a module of this repository."""
    folder = ROOT / ("src" if name.partition(".")[0] == "crossrank" else ".") / name.replace(".", "/")
    files = (folder.with_suffix(".py"), folder / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared weights of the tests' models do not go into the user's cache."""
    os.environ["CROSSRANK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> None:
    """Small models are faster on one thread, and far faster where the cores are busy."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
