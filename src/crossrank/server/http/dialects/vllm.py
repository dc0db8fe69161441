"""vLLM: POST /rerank, /v1/rerank and /v2/rerank with ``--dialect vllm``, /score and /v1/score always."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from crossrank.ranking import RankedDocument
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.dialects.base import (
    Call,
    Context,
    Dialect,
    QueryTruncated,
    Truncated,
    cuts_of,
    parse,
    usage_of,
)
from crossrank.server.http.dialects.superset import Documents, Options, Superset, Usage, listed, read_texts
from crossrank.server.http.faults import Fault

__all__ = ["Vllm", "VllmScore"]


class Vllm(Superset):
    """vLLM's rerank: documents always come back, and top_n <= 0 is all."""

    name = "vllm"
    id_prefix = "rerank-"
    returns_documents = True
    negative_is_all = True

    def result(self, call: Call, hit: RankedDocument) -> dict[str, Any]:
        result = super().result(call, hit)
        if "document" in result:
            result["document"].setdefault("multi_modal", None)
        return result


class ScoreRequest(Options):
    """Pairs to score: one query for each document, or one for all.

    Two other names of ``queries`` are ``text_1`` and ``data_1``; of ``documents``, ``items``, ``text_2``
    and ``data_2``. A text is a string, or an object as in the documents of a rerank request.
    """

    queries: Documents = Field(validation_alias=AliasChoices("queries", "text_1", "data_1"))
    documents: Documents = Field(validation_alias=AliasChoices("documents", "items", "text_2", "data_2"))


class ScoreDatum(BaseModel):
    """One pair's score."""

    index: int
    object: Literal["score"]
    score: float
    truncated: Truncated = None
    query_truncated: QueryTruncated = None


class ScoreUsage(Usage):
    """Tokens as the model read them."""

    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ScoreResponse(BaseModel):
    """Scores in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreDatum]
    usage: ScoreUsage


class VllmScore(Dialect):
    """vLLM's score: answers in input order."""

    name = "vllm"
    Request = ScoreRequest
    Response = ScoreResponse

    def read(self, body: dict[str, Any], context: Context) -> Call:
        request = parse(ScoreRequest, body)
        queries = read_texts(listed(request.queries), None, "queries")
        documents = read_texts(listed(request.documents), None)
        if not queries or not documents:
            raise Fault("empty", "queries and documents must hold at least one text each")
        if len(queries) not in (1, len(documents)):
            raise Fault(
                "invalid",
                f"there are {len(queries)} queries and {len(documents)} documents; "
                "there must be as many of both, or one query",
            )
        if len(set(queries)) == 1:
            del queries[1:]  # so that it is tokenised once
        model = request.model or None
        work = Work(queries, documents, request.cut(), model, request.priority, **context.shared)
        return Call(work, raw=request.use_activation is False)

    def answer(self, call: Call, answer: Answer, context: Context) -> object:
        data = [
            {
                "index": index,
                "object": "score",
                "score": pair.logit if call.raw else pair.score,
                **cuts_of(pair),
            }
            for index, pair in enumerate(answer.pairs())
        ]
        return {
            "id": f"score-{context.request_id}",
            "object": "list",
            "created": context.created,
            "model": answer.model,
            "data": data,
            "usage": usage_of(answer) | {"completion_tokens": 0, "prompt_tokens_details": None},
        }
