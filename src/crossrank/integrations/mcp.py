"""A Model Context Protocol server with one tool, ``rerank``, for agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from crossrank import __version__
from crossrank._extras import needs
from crossrank.errors import CrossRankError
from crossrank.integrations.ranker import Model, Ranker

with needs("mcp", "crossrank.integrations.mcp"):
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from pydantic import BaseModel, Field

__all__ = ["make_server"]

_DESCRIPTION = (
    "Order texts by how well they answer a query, best first. Use it after a search, before reading its "
    "results: keyword and vector search also return texts that only share words with the query. "
    "A score is between 0 and 1; texts that answer the query are usually above 0.5."
)


class Hit(BaseModel):
    """One document of the answer."""

    index: int = Field(description="The document's place in the request, from 0.")
    score: float = Field(description="How well it answers the query, between 0 and 1.")
    text: str = Field(description="The document.")
    truncated: bool = Field(description="The model read only a part of the document, as it is too long.")


class Answer(BaseModel):
    """What the tool returns."""

    results: list[Hit] = Field(description="The documents, best first.")


def make_server(
    model: Model, *, api_key: str | None = None, options: Mapping[str, Any] | None = None
) -> MCPServer:
    """A server with the tool ``rerank``; ``make_server(...).run()`` serves it on stdin and stdout.

    Args:
        model: a Reranker, the name or folder of a model, or the URL of a CrossRank server.
        api_key: the server's key.
        options: further arguments of ``Reranker``, or of ``Client`` for a URL.

    Raises:
        InputError: an argument is invalid.
        ModelError: the model cannot be loaded.
        EngineError: no engine can run the model.
    """
    ranker = Ranker(model, api_key=api_key, options=options)
    server = MCPServer("crossrank", version=__version__, log_level="WARNING")

    @server.tool(title="Rerank search results", description=_DESCRIPTION)
    async def rerank(
        query: Annotated[str, Field(description="The question or search phrase.")],
        documents: Annotated[list[str], Field(description="The texts to order.")],
        top_n: Annotated[int | None, Field(description="Return only so many, the best ones.", ge=1)] = None,
        instruction: Annotated[
            str | None,
            Field(description="What counts as an answer, for models that take an instruction."),
        ] = None,
    ) -> Answer:
        try:
            ranking = await ranker.rank(query, documents, instruction=instruction, top_n=top_n)
        except CrossRankError as error:
            raise ToolError(str(error)) from error
        return Answer(
            results=[
                Hit(index=hit.index, score=hit.score, text=hit.text, truncated=hit.truncated)
                for hit in ranking
            ]
        )

    return server
