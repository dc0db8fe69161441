from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from crossrank import InputError, ModelNotFoundError, Reranker, ServiceError, UnavailableError
from crossrank.engines.fake import FakeEngine
from crossrank.integrations.ranker import Ranker
from tests.integrations import DOCUMENTS, LONG, QUERY
from tests.server.process import Server


@pytest.fixture(params=["reranker", "name", "url"])
def ranker(request: pytest.FixtureRequest, folder: Path, reranker: Reranker, key: str) -> Ranker:
    if request.param == "reranker":
        return Ranker(reranker)
    if request.param == "name":
        return Ranker(folder, options={"precision": "fp32", "threads": 1, "device": "cpu"})
    server: Server = request.getfixturevalue("server")
    return Ranker(server.url.upper(), api_key=key, options={"model": "tiny"})


def test_all_three_rank_alike(ranker: Ranker, reranker: Reranker) -> None:
    documents = [*DOCUMENTS, LONG]
    expected = reranker.rank(QUERY, documents, top_n=4, threshold=0.1)
    assert ranker.sync.rank(QUERY, documents, top_n=4, threshold=0.1) == expected
    assert list(ranker.sync.rank_many([(QUERY, documents)], top_n=4, threshold=0.1)) == [expected]
    assert asyncio.run(ranker.rank(QUERY, documents, top_n=4, threshold=0.1)) == expected
    assert asyncio.run(ranker.rank(QUERY, [])) == reranker.rank(QUERY, [])


def test_every_event_loop_has_a_client_that_is_closed_with_it(server: Server, key: str) -> None:
    ranker = Ranker(server.url, api_key=key)
    clients: list[Any] = []

    async def twice() -> None:
        for _ in range(2):
            await ranker.rank(QUERY, DOCUMENTS[:2])
            clients.append(await ranker._client())

    asyncio.run(twice())
    asyncio.run(twice())
    assert clients[0] is clients[1] is not clients[2] is clients[3]
    assert all(client._http.is_closed for client in clients)
    clients.clear()
    gc.collect()  # an open connection would warn, and warnings are errors
    assert not ranker._clients


def test_the_event_loop_is_free_meanwhile(reranker: Reranker) -> None:
    """The engine goes on only when the loop has said so."""
    free = threading.Event()

    class Waiting(FakeEngine):
        def logits(self, pack: Any) -> Any:
            assert free.wait(10)
            return super().logits(pack)

    ranker = Ranker(Reranker.from_parts(reranker.encoder, Waiting()))

    async def both() -> int:
        ranking = asyncio.ensure_future(ranker.rank(QUERY, DOCUMENTS))
        await asyncio.sleep(0)
        free.set()
        return len(await ranking)

    assert asyncio.run(both()) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("crossrank-mini", {"api_key": "k"}, "api_key is for a server, but crossrank-mini is a model"),
        (
            "crossrank-mini",
            {"options": {"precison": "fp32"}},
            "Reranker has no option precison; it has device",
        ),
        ("crossrank-mini", {"options": {"model": "x"}}, "Reranker has no option model"),
        (
            "http://127.0.0.1:9",
            {"options": {"precision": "fp32"}},
            "Client has no option precision; it has model",
        ),
        ("http://127.0.0.1:9", {"options": {"api_key": "k"}}, "Client has no option api_key"),
        ("http://", {}, "'http://' is not an address"),
        ("crossrank-mini", {"options": {"threads": 0}}, "threads is 0"),
        ("crossrank-mini", {"options": [1]}, r"options is \[1\]; it must be a dictionary"),
        ("crossrank-mini", {"options": {1: 2}}, "Reranker has no option 1; it has device"),
        ("http://127.0.0.1:9", {"api_key": 1}, "api_key is of type int; it must be a string"),
        (None, {}, "model is None; it must be a Reranker, a name, a folder or a server's URL"),
        (123, {}, "model is 123"),
        (b"crossrank-mini", {}, "model is b'crossrank-mini'"),
        ("localhost:8124", {}, "'localhost:8124' is not a model's name; .* 'http://localhost:8124'"),
        ("127.0.0.1:80/x", {}, "'http://127.0.0.1:80/x'"),
    ],
)
def test_what_does_not_go_together_is_said(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ranker(model, **options)


def test_a_rerankers_options_are_its_own(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="threads: a Reranker takes no options here"):
        Ranker(reranker, options={"threads": 1})


def test_a_copy_shares_the_model(ranker: Ranker) -> None:
    assert copy.deepcopy(ranker).sync is ranker.sync


def test_a_pickle_is_opened_again(ranker: Ranker, reranker: Reranker) -> None:
    if ranker.model is reranker:
        with pytest.raises(InputError, match="a Reranker object cannot be saved"):
            pickle.dumps(ranker)
    else:
        again = pickle.loads(pickle.dumps(ranker))
        assert again.sync.rank(QUERY, DOCUMENTS) == reranker.rank(QUERY, DOCUMENTS)


FRAMEWORKS = (
    "haystack",
    "langchain_core",
    "llama_index",
    "mcp",
    "mteb",
    "pyterrier",
    "torch",
    "httpx",
    "pydantic",
)


def test_no_framework_is_imported_before_it_is_asked_for() -> None:
    code = (
        f"import crossrank, crossrank.integrations.ranker, sys; print(sys.modules.keys() & {set(FRAMEWORKS)})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["haystack", "langchain", "llamaindex", "mcp", "mteb", "pyterrier"])
def test_a_framework_that_is_missing_is_named_with_its_extra(name: str) -> None:
    [framework] = [one for one in FRAMEWORKS if one.replace("_", "").startswith(name)]
    code = f"import sys; sys.modules['{framework}'] = None; import crossrank.integrations.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"crossrank.errors.MissingLibraryError: crossrank.integrations.{name} needs {framework}.*, which "
        rf"is not installed: pip install 'crossrank\[{name}\]'",
        last,
    )


def test_errors_are_crossranks(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        Ranker(tmp_path / "none")
    wrong = Ranker(server.url, api_key="wrong")
    gone = Ranker("http://127.0.0.1:9", options={"retries": 0})
    for ranker, error in ((wrong, ServiceError), (gone, UnavailableError)):
        with pytest.raises(error):
            ranker.sync.rank(QUERY, DOCUMENTS)
        with pytest.raises(error):
            asyncio.run(ranker.rank(QUERY, DOCUMENTS))
