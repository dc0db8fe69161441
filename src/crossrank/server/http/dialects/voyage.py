"""Voyage: POST /v1/rerank with ``--dialect voyage``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from crossrank.pairs import Cut
from crossrank.server.core.work import Answer
from crossrank.server.http.dialects import base
from crossrank.server.http.faults import Fault

__all__ = ["Voyage"]


class VoyageRequest(base.Lax):
    """A query and documents to order."""

    model_config = base.example(
        query="capital of France",
        documents=["Lyon is a city.", "Paris is the seat of government."],
        top_k=1,
    )

    model: base.ServedName = None
    query: base.Query
    documents: base.Texts
    top_k: int | None = Field(None, ge=0, lt=1 << 31, description="how many results; 0: all")
    return_documents: bool = Field(False, description="whether documents come back")
    truncation: bool = Field(
        True,
        description="false: a document that is too long is an error; true: it is cut, or read in windows, as "
        "the server was started",
    )


class VoyageResult(BaseModel):
    """One document's place."""

    index: base.Index
    relevance_score: float = Field(description="from 0 to 1")
    document: str | None = Field(None, description="the text, with `return_documents`")
    truncated: base.Truncated = None
    window: base.Window = None
    query_truncated: base.QueryTruncated = None


class VoyageUsage(BaseModel):
    """Tokens as the model read them."""

    total_tokens: int = Field(description="of all queries and documents")


class VoyageResponse(BaseModel):
    """The documents, best first."""

    object: Literal["list"] = Field(description="the kind of answer")
    data: list[VoyageResult] = Field(description="the results, best first")
    model: base.ModelName
    usage: VoyageUsage = Field(description="what was read")


class Voyage(base.Dialect):
    """Voyage."""

    name = "voyage"
    errors = base.DetailErrors()
    Request = VoyageRequest
    Response = VoyageResponse

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        request = base.parse(VoyageRequest, body)
        if not request.documents:
            raise Fault("empty", "documents is empty; it must hold at least one")
        cut = Cut(allowed=request.truncation)
        work = context.work([request.query], request.documents, cut, request.model, ranking=True)
        return base.Call(work, top_n=base.positive(request.top_k), with_documents=request.return_documents)

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
        data: list[dict[str, Any]] = []
        for hit in call.rank(answer):
            result: dict[str, Any] = {"index": hit.index, "relevance_score": hit.score}
            if call.with_documents:
                result["document"] = hit.text
            data.append(result | base.cuts_of(hit))
        usage = {"total_tokens": sum(answer.tokens)}
        return {"object": "list", "data": data, "model": answer.model, "usage": usage}
