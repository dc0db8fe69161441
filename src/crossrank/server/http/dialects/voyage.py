"""Voyage: POST /v1/rerank with ``--dialect voyage``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from crossrank.pairs import Cut
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.dialects.base import (
    Call,
    Context,
    DetailErrors,
    Dialect,
    Lax,
    Name,
    QueryTruncated,
    Texts,
    Truncated,
    cuts_of,
    parse,
    positive,
)
from crossrank.server.http.faults import Fault

__all__ = ["Voyage"]


class VoyageRequest(Lax):
    """A query and documents to order."""

    model: Name | None = Field(None, description="a served model; default: the first")
    query: str
    documents: Texts
    top_k: int | None = Field(None, ge=0, lt=1 << 31, description="how many results; 0: all")
    return_documents: bool = False
    truncation: bool = Field(True, description="false: a document that is too long is an error")


class VoyageResult(BaseModel):
    """One document's place."""

    index: int
    relevance_score: float
    document: str | None = None
    truncated: Truncated = None
    query_truncated: QueryTruncated = None


class VoyageUsage(BaseModel):
    """Tokens as the model read them."""

    total_tokens: int


class VoyageResponse(BaseModel):
    """The documents, best first."""

    object: Literal["list"]
    data: list[VoyageResult]
    model: str
    usage: VoyageUsage


class Voyage(DetailErrors, Dialect):
    """Voyage."""

    name = "voyage"
    Request = VoyageRequest
    Response = VoyageResponse

    def read(self, body: dict[str, Any], context: Context) -> Call:
        request = parse(VoyageRequest, body)
        if not request.documents:
            raise Fault("empty", "documents is empty; it must hold at least one")
        cut = Cut(allowed=request.truncation)
        model = request.model or None
        work = Work([request.query], request.documents, cut, model, **context.shared)
        return Call(work, top_n=positive(request.top_k), with_documents=request.return_documents)

    def answer(self, call: Call, answer: Answer, context: Context) -> object:
        data: list[dict[str, Any]] = []
        for hit in call.rank(answer):
            result: dict[str, Any] = {"index": hit.index, "relevance_score": hit.score}
            if call.with_documents:
                result["document"] = hit.text
            data.append(result | cuts_of(hit))
        usage = {"total_tokens": sum(answer.tokens)}
        return {"object": "list", "data": data, "model": answer.model, "usage": usage}
