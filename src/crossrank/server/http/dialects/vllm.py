"""vLLM: POST /rerank, /v1/rerank and /v2/rerank with ``--dialect vllm``, /score and /v1/score always."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from crossrank.ranking import RankedDocument
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.dialects.base import (
    Call,
    Context,
    Created,
    Dialect,
    Id,
    Index,
    ModelName,
    QueryTruncated,
    Truncated,
    cuts_of,
    example,
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

    model_config = example(
        queries="capital of France", documents=["Lyon is a city.", "Paris is the seat of government."]
    )

    queries: Documents = Field(
        validation_alias=AliasChoices("queries", "text_1", "data_1"),
        description="one query for all documents, or one for each",
    )
    documents: Documents = Field(
        validation_alias=AliasChoices("documents", "items", "text_2", "data_2"),
        description="the texts to score",
    )


class ScoreDatum(BaseModel):
    """One pair's score."""

    index: Index
    object: Literal["score"] = Field(description="the kind of result")
    score: float = Field(description="from 0 to 1, or without `use_activation` the model's own number")
    truncated: Truncated = None
    query_truncated: QueryTruncated = None


class ScoreUsage(Usage):
    """Tokens as the model read them."""

    completion_tokens: int = Field(0, description="always 0")
    prompt_tokens_details: None = Field(None, description="always null")


class ScoreResponse(BaseModel):
    """Scores in the order of the pairs."""

    model_config = example(
        id="score-a4346626312c4290932997b2589fae79",
        object="list",
        created=1795540781,
        model="crossrank-mini",
        data=[
            {"index": 0, "object": "score", "score": 0.361},
            {"index": 1, "object": "score", "score": 0.998},
        ],
        usage={
            "prompt_tokens": 27,
            "total_tokens": 27,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    )

    id: Id
    object: Literal["list"] = Field(description="the kind of answer")
    created: Created
    model: ModelName
    data: list[ScoreDatum] = Field(description="the scores, in the order of the pairs")
    usage: ScoreUsage = Field(description="what was read")


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
