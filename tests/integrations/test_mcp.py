"""The tool as agents see it: the SDK's own client, in this process and over standard input and output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from crossrank import Reranker
from crossrank.integrations.mcp import make_server
from tests.server.process import Server

QUERY = "capital of France"
DOCUMENTS = ["Paris is the capital of France.", "Rice is boiled in water.", "---"]


def call(target: Any, arguments: dict[str, Any]) -> Any:
    async def ask() -> Any:
        async with Client(target) as client:
            return await client.call_tool("rerank", arguments)

    return anyio.run(ask)


def test_the_tool_describes_itself(reranker: Reranker) -> None:
    async def tools() -> Any:
        async with Client(make_server(reranker)) as client:
            return (await client.list_tools()).tools

    (tool,) = anyio.run(tools)
    assert tool.name == "rerank"
    assert "how well they answer a query" in tool.description
    assert tool.input_schema["required"] == ["query", "documents"]
    assert {"query", "documents", "top_n", "instruction"} == set(tool.input_schema["properties"])
    for part in tool.input_schema["properties"].values():
        assert part["description"].endswith(".")


def test_it_ranks_as_the_library_does(reranker: Reranker) -> None:
    found = call(make_server(reranker), {"query": QUERY, "documents": DOCUMENTS})
    assert not found.is_error
    expected = reranker.rank(QUERY, DOCUMENTS)
    assert found.structured_content["results"] == [
        {"index": hit.index, "score": hit.score, "text": hit.text, "truncated": hit.truncated}
        for hit in expected
    ]


def test_a_server_is_a_model_too(server: Server, key: str, reranker: Reranker) -> None:
    asked = make_server(server.url, api_key=key)
    found = call(asked, {"query": QUERY, "documents": DOCUMENTS, "top_n": 1})
    (hit,) = found.structured_content["results"]
    (expected,) = reranker.rank(QUERY, DOCUMENTS, top_n=1)
    assert hit["index"] == expected.index
    assert hit["score"] == pytest.approx(expected.score, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": QUERY, "documents": DOCUMENTS, "instruction": "Find pages"}, "takes no instruction"),
        ({"query": QUERY, "documents": DOCUMENTS, "top_n": 0}, "greater than or equal to 1"),
        ({"query": QUERY}, "documents"),
    ],
)
def test_a_mistake_is_told_to_the_agent(arguments: Any, message: str, reranker: Reranker) -> None:
    found = call(make_server(reranker), arguments)
    assert found.is_error
    assert message in found.content[0].text


def test_the_command_speaks_on_standard_input_and_output() -> None:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "crossrank", "mcp", "--threads", "1", "--precision", "fp32"]
    )
    found = call(command, {"query": "中国的首都", "documents": ["上海", "北京"], "top_n": 1})
    assert [hit["text"] for hit in found.structured_content["results"]] == ["北京"]
    # The score is that of this query, and of no other.
    right, other = (
        Reranker(device="cpu", precision="fp32", threads=1).rank(query, ["北京"])[0].score
        for query in ("中国的首都", "how to cook rice")
    )
    assert found.structured_content["results"][0]["score"] == pytest.approx(right, abs=1e-5)
    assert other < right - 0.1


def test_the_command_reads_long_documents_in_windows() -> None:
    filler = "The weather was mild that week, and the market was open as usual. " * 40
    documents = ["Lyon is a city in France.", filler + "Paris is the capital of France."]
    arguments = {"query": "What is the capital of France?", "documents": documents}
    common = ["-m", "crossrank", "mcp", "--threads", "1", "--precision", "fp32"]
    cut, windows = (
        call(StdioServerParameters(command=sys.executable, args=[*common, *more]), arguments)
        for more in ([], ["--long", "windows"])
    )
    results = [found.structured_content["results"] for found in (cut, windows)]
    assert [hits[0]["index"] for hits in results] == [0, 1]


def test_the_command_loads_the_small_model_of_a_cascade(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crossrank", "mcp", "--first", "no/such", "--offline", "--threads", "1"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "no/such" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_on_a_server_has_its_own_options(server: Server, key: str) -> None:
    options = ["--model", server.url, "--api-key", key, "--first", "crossrank-mini", "--max-windows", "2"]
    command = [sys.executable, "-m", "crossrank", "mcp", *options]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: --first has no effect: it is an option of the server" in done.stderr
    assert "--max-windows" not in done.stderr
