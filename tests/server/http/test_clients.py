"""The clients of other rerank services work unchanged against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossrank import Reranker
from tests.environments import run_in
from tests.server.http.test_openapi import PATHS
from tests.server.process import Server, serving

pytestmark = pytest.mark.full  # an environment of its own

QUERY = "中国的首都是哪里？"
DOCUMENTS = [
    "上海是中国最大的城市。",
    "首都机场位于北京市区东部。",
    "北京是中国的政治中心。",
    "Beijing is the capital of China.",
    "Die Hauptstadt Frankreichs ist Paris.",
]
COUNTS = {
    "cohere_v1": 5,
    "cohere_v1_objects": 2,
    "cohere_v2": 5,
    "cohere_v2_async": 2,
    "langchain_cohere": 5,
    "langchain_jina_rerank": 3,
    "langchain_infinity": 3,
    "llama_cohere": 3,
    "llama_tei": 4,
    "llama_xinference": 4,
    "haystack_cohere": 3,
    "infinity": 5,
    "xinference": 4,
}


def _run(program: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    # No proxy is on the way, and nothing is sent to anybody but the server.
    alone = {"NO_PROXY": "*", "HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}
    return run_in(".venv-clients", program, *arguments, variables=alone, cwd=cwd)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("cohere", "jina", "infinity")]
    options = ["--model", "crossrank-mini", "--threads", "1"]
    with (
        serving(folders[0], *options) as one,
        serving(folders[1], *options, "--dialect", "jina") as two,
        serving(folders[2], *options, "--dialect", "infinity") as three,
    ):
        for server in (one, two, three):
            server.wait_until_ready()
        yield [one, two, three]


@pytest.fixture(scope="module")
def answers(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the clients say; asked once, since their imports are slow."""
    request = tmp_path_factory.mktemp("clients") / "request.json"
    asked = {"query": QUERY, "documents": DOCUMENTS, "model": "crossrank-mini"}
    request.write_text(json.dumps(asked), encoding="utf-8")
    script = Path(__file__).with_name("clients.py")
    urls = [server.url for server in servers]
    found: dict[str, Any] = json.loads(_run("python", "-W", "ignore", script, *urls, request))
    return found


@pytest.mark.parametrize("client", COUNTS)
def test_a_client_gets_the_librarys_order_and_scores(client: str, answers: dict[str, Any]) -> None:
    ranking = Reranker(threads=1).rank(QUERY, DOCUMENTS, top_n=COUNTS[client])
    expected = [[hit.index, hit.logit if client == "infinity" else hit.score] for hit in ranking]
    assert [index for index, _ in answers[client]] == [index for index, _ in expected]
    assert [score for _, score in answers[client]] == pytest.approx([s for _, s in expected], abs=1e-3)


def test_all_clients_agree(answers: dict[str, Any]) -> None:
    best = [answers[client][0] for client in COUNTS if client != "infinity"]
    assert all(each[0] == best[0][0] for each in best)
    assert [each[1] for each in best] == pytest.approx([best[0][1]] * len(best), abs=1e-6)


def test_infinitys_client_lists_the_models(answers: dict[str, Any]) -> None:
    assert answers["infinity_models"] == ["crossrank-mini"]


def test_cohere_raises_its_own_errors(answers: dict[str, Any]) -> None:
    errors = answers["errors"]
    assert {name: error[:2] for name, error in errors.items()} == {
        "unknown model": ["NotFoundError", 404],
        "no documents": ["BadRequestError", 400],
        "negative top_n": ["BadRequestError", 400],
    }
    assert "no model 'no-such' is served here" in errors["unknown model"][2]


def test_nobody_finds_what_the_openapi_description_does_not_say(
    servers: list[Server], tmp_path: Path
) -> None:
    """Schemathesis sends what the description allows and what it forbids, the same each time."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    output = _run(
        *("schemathesis", "run", f"{servers[0].url}/openapi.json"),
        *("--checks", checks, "--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "1"),
        # A time that is too short is an error of the server's kind, 504.
        *("--header", "X-Request-Timeout: 30", "--generation-database", "none", "--no-color"),
        cwd=tmp_path,  # it leaves a folder behind
    )
    assert f"Tested: {len(PATHS)}" in output, output[-2000:]
