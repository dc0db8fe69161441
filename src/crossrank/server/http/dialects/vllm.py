"""vLLM: POST /score and /v1/score. Its rerank is in ``superset.py``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from crossrank.server.core.work import Answer
from crossrank.server.http.dialects import base
from crossrank.server.http.dialects.superset import Documents, Options, listed, read_texts
from crossrank.server.http.faults import Fault

__all__ = ["VllmScore"]


class ScoreRequest(Options):
    """Pairs to score: one query for each document, or one for all.

    Two other names of ``queries`` are ``text_1`` and ``data_1``; of ``documents``, ``items``, ``text_2``
    and ``data_2``. A text is a string, or an object as in the documents of a rerank request.
    """

    model_config = base.example(
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
    ranking: bool = Field(
        False,
        description="true: the scores only serve to order the documents of one query. Where the server has a "
        "first model, that one scores all documents, and the model the best of them",
    )


class ScoreDatum(BaseModel):
    """One pair's score."""

    index: base.Index
    object: Literal["score"] = Field(description="the kind of result")
    score: float = Field(description="from 0 to 1, or without `use_activation` the model's own number")
    model: base.ScoredBy = None
    truncated: base.Truncated = None
    window: base.Window = None
    query_truncated: base.QueryTruncated = None


class ScoreUsage(base.Usage):
    """Tokens as the model read them."""

    completion_tokens: int = Field(0, description="always 0")
    prompt_tokens_details: None = Field(None, description="always null")


class ScoreResponse(base.Answered):
    """Scores in the order of the pairs."""

    created: base.Created
    data: list[ScoreDatum] = Field(description="the scores, in the order of the pairs")
    usage: ScoreUsage = Field(description="what was read")


class VllmScore(base.Dialect):
    """vLLM's score: answers in input order."""

    name = "vllm"
    Request = ScoreRequest
    Response = ScoreResponse

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        request = base.parse(ScoreRequest, body)
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
        work = context.work(
            queries,
            documents,
            request.cut(),
            request.model,
            request.priority,
            instruction=request.instruction,
            ranking=request.ranking,
        )
        return base.Call(work, raw=request.use_activation is False)

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
        data = [
            {
                "index": index,
                "object": "score",
                "score": pair.logit if call.raw else pair.score,
                **({"model": answer.models[answer.model_of[index]]} if answer.models else {}),
                **base.cuts_of(pair),
            }
            for index, pair in enumerate(answer.pairs())
        ]
        head = base.answered("list", f"score-{context.request_id}", answer)
        head["usage"] |= {"completion_tokens": 0, "prompt_tokens_details": None}
        return head | {"created": context.created, "data": data}
