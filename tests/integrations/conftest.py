"""One small model, in this process and behind a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossrank import Reranker
from tests.checkpoints import write_xlm_roberta
from tests.server.process import Server, serving

KEY = "a-key"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("integrations") / "tiny")


@pytest.fixture(scope="session")
def reranker(folder: Path) -> Reranker:
    return Reranker(folder, device="cpu", precision="fp32", threads=1)


@pytest.fixture(scope="session")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--model", f"tiny={folder}", "--precision", "fp32", "--threads", "1", "--api-key", KEY]
    with serving(tmp_path_factory.mktemp("served"), *options) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def key() -> str:
    """What the server asks for."""
    return KEY
