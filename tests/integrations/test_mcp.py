"""The tool as agents see it: the SDK's own client, in this process and over standard input and output."""

from __future__ import annotations

import sys
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
