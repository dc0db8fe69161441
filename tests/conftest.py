"""What the whole suite shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import pytest
import torch

# anyio brings a pytest plugin, so pytest rewrites its modules, and anyio imports them late: in a running
# server, whose threads parse at the same time, which Python 3.11 does not bear (SystemError: AST constructor
# recursion depth mismatch). So the one that serves files is imported here.
_ = anyio.open_file

# Nothing is told to anybody: neither by the hub's library nor by Haystack or LangChain.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Packed weights of the tests' models are no business of the user's cache."""
    os.environ["CROSSRANK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Small models are faster on one thread, and far faster where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
