"""CrossRank's own: POST /compare, which the page at / asks, and POST /explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from crossrank.errors import InputError
from crossrank.explain import DEFAULT_SENTENCES, ExplanationPlan, plan_explanation
from crossrank.pairs import PairEncoder
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.dialects.base import (
    Call,
    Context,
    Dialect,
    Id,
    Index,
    Lenient,
    ModelName,
    Name,
    Priority,
    Query,
    Texts,
    example,
    parse,
    usage_of,
)
from crossrank.server.http.dialects.superset import Usage, read_texts
from crossrank.server.http.faults import Fault
from crossrank.text.keywords import KeywordIndex, keywords, order_of, shared_spans

__all__ = ["Compare", "Explain"]

_MARKED = 4000
"""Characters of a document in which keywords are marked: a screen or two, as people read them."""

QUERY_CHARACTERS, DOCUMENT_CHARACTERS = 4000, 1_000_000
"""What the keyword order reads of a query, and of all documents together: the first so many characters of
each document, the same number of all. Both are far beyond the model's window, and take less than a second."""

MAX_SENTENCES = 1000
"""Sentences of an explanation. Each is two pairs to score: about as many as a request may have documents."""


class CompareRequest(Lenient):
    """A query and documents to order twice."""

    model_config = example(
        query="capital of France", documents=["Lyon is a city.", "Paris is the seat of government."]
    )

    model: Name | None = Field(None, description="a served model; default: the first")
    query: Query
    documents: Texts = Field(description="the texts to order")
    priority: Priority = 0


class ComparedDocument(BaseModel):
    """One document, in both orders."""

    index: Index
    rank: int = Field(description="its place by the model; 1 is best")
    score: float = Field(description="from 0 to 1")
    logit: float = Field(description="the model's own number")
    truncated: bool = Field(description="it was cut to fit the model's window")
    tokens: int = Field(description="of query and document as the model read them")
    keyword_rank: int = Field(
        description=f"its place by keywords, which are looked for in the query's first {QUERY_CHARACTERS} "
        f"characters, and in the first {DOCUMENT_CHARACTERS} divided by the number of documents of each"
    )
    keyword_score: float = Field(description="BM25")
    keyword_spans: list[tuple[int, int]] = Field(
        description=f"where its first {_MARKED} characters repeat the query's keywords: start and end"
    )


class Times(BaseModel):
    """Seconds on the server."""

    tokenization: float = Field(description="for making tokens of texts")
    queue: float = Field(description="in which pairs waited")
    inference: float = Field(description="in which the model ran")


class CompareResponse(BaseModel):
    """The documents in the order they were sent."""

    model_config = example(
        id="0c1cf3e6b5b94f0f8a3c6e2f6f0d8a11",
        object="comparison",
        model="crossrank-mini",
        usage={"prompt_tokens": 12, "total_tokens": 12},
        seconds={"tokenization": 0.001, "queue": 0.0, "inference": 0.004},
        query_truncated=False,
        documents=[
            {
                "index": 0,
                "rank": 1,
                "score": 0.361,
                "logit": -0.57,
                "truncated": False,
                "tokens": 12,
                "keyword_rank": 1,
                "keyword_score": 0.0,
                "keyword_spans": [],
            }
        ],
    )

    id: Id
    object: Literal["comparison"] = Field(description="the kind of answer")
    model: ModelName
    usage: Usage = Field(description="what was read")
    seconds: Times = Field(description="how long each step took")
    query_truncated: bool = Field(description="the query was cut to fit the model's window")
    documents: list[ComparedDocument] = Field(description="each document, in both orders")


class Compare(Dialect):
    """The keyword order beside the model's."""

    name = "crossrank"
    Request = CompareRequest
    Response = CompareResponse
    slow = True

    def read(self, body: dict[str, Any], context: Context) -> Call:
        request = parse(CompareRequest, body)
        if not request.documents:
            raise Fault("empty", "documents is empty; it must hold at least one")
        return Call(Work([request.query], request.documents, **_options(request), **context.shared))

    def answer(self, call: Call, answer: Answer, context: Context) -> object:
        texts = call.work.texts
        wanted = keywords(call.work.queries[0][:QUERY_CHARACTERS])
        most = DOCUMENT_CHARACTERS // len(texts)
        keyword_scores = KeywordIndex([text[:most] for text in texts]).scores(wanted)
        keyword_ranks = {i: place for place, i in enumerate(order_of(keyword_scores), start=1)}
        marked = set(wanted)
        documents = [
            {
                "index": hit.index,
                "rank": hit.rank,
                "score": hit.score,
                "logit": hit.logit,
                "truncated": hit.truncated,
                "tokens": answer.tokens[hit.index],
                "keyword_rank": keyword_ranks[hit.index],
                "keyword_score": float(keyword_scores[hit.index]),
                "keyword_spans": shared_spans(marked, hit.text[: min(_MARKED, most)]),
            }
            for hit in sorted(call.rank(answer), key=lambda hit: hit.index)
        ]
        return {
            "id": call.work.request_id,
            "object": "comparison",
            "model": answer.model,
            "usage": usage_of(answer),
            "seconds": {
                "tokenization": answer.tokenization_s,
                "queue": answer.queue_s,
                "inference": answer.inference_s,
            },
            "query_truncated": any(answer.query_truncated),
            "documents": documents,
        }


_Document = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            ]
        }
    ),
]


class ExplainRequest(Lenient):
    """A query and the document to explain."""

    model_config = example(query="capital of France", document="Lyon is a city. Paris is the capital.")

    model: Name | None = Field(None, description="a served model; default: the first")
    query: Query
    document: _Document = Field(description="a string, or an object with a `text`")
    max_sentences: int = Field(
        DEFAULT_SENTENCES, ge=1, le=MAX_SENTENCES, description="a longer document is explained up to this one"
    )
    priority: Priority = 0


class ExplainedSentence(BaseModel):
    """One sentence of the document."""

    start: int = Field(description="its first character's place in the document, in code points")
    end: int = Field(description="the place behind its last")
    text: str = Field(description="the sentence")
    score: float = Field(description="of this sentence alone, from 0 to 1")
    logit: float = Field(description="of this sentence alone, the model's own number")
    truncated: bool = Field(description="alone it is too long for the model's window")
    read: int = Field(description="how many of its characters the model read as part of the document")
    score_fall: float | None = Field(
        description="how much lower the document's score is without it; null: the model read none of it"
    )
    logit_fall: float | None = Field(description="the same of the logit")


class ExplainResponse(BaseModel):
    """What carries the document's score."""

    model_config = example(
        id="5f6340bb89b12ff8cfe0090e3a21f0c7",
        object="explanation",
        model="crossrank-mini",
        usage={"prompt_tokens": 36, "total_tokens": 36},
        score=0.997,
        logit=5.81,
        truncated=False,
        query_truncated=False,
        read=15,
        sentences=[
            {
                "start": 0,
                "end": 15,
                "text": "Lyon is a city.",
                "score": 0.361,
                "logit": -0.57,
                "truncated": False,
                "read": 15,
                "score_fall": 0.002,
                "logit_fall": 0.64,
            }
        ],
        sentences_left_out=0,
    )

    id: Id
    object: Literal["explanation"] = Field(description="the kind of answer")
    model: ModelName
    usage: Usage = Field(description="what was read")
    score: float = Field(description="of the document, from 0 to 1")
    logit: float = Field(description="of the document, the model's own number")
    truncated: bool = Field(description="the document was cut to fit the model's window")
    query_truncated: bool = Field(description="the query was cut to fit the model's window")
    read: int = Field(description="how many characters of the document the model read, from its start")
    sentences: list[ExplainedSentence] = Field(description="in the document's order")
    sentences_left_out: int = Field(description="how many more it has that were not looked at")


class Explain(Dialect):
    """One document, sentence by sentence."""

    name = "crossrank"
    Request = ExplainRequest
    Response = ExplainResponse
    slow = True

    def read(self, body: dict[str, Any], context: Context) -> Call:
        request = parse(ExplainRequest, body)
        try:
            (document,) = read_texts([request.document], None)
        except InputError as error:
            raise InputError(str(error).replace("documents.0", "document", 1)) from None
        return Call(
            Work([request.query], [document], **_options(request), **context.shared),
            own=request.max_sentences,
        )

    def expand(self, call: Call, encoder: Callable[[], PairEncoder]) -> Call:
        (query,), (document,) = call.work.queries, call.work.texts
        plan = plan_explanation(encoder(), query, document, max_sentences=call.own)
        return replace(call, work=replace(call.work, texts=plan.texts), own=plan)

    def answer(self, call: Call, answer: Answer, context: Context) -> object:
        plan: ExplanationPlan = call.own
        found = asdict(plan.explain(answer))
        # The client has these.
        del found["query"], found["document"]
        return {
            "id": call.work.request_id,
            "object": "explanation",
            "model": answer.model,
            "usage": usage_of(answer),
            **found,
        }


def _options(request: CompareRequest | ExplainRequest) -> dict[str, Any]:
    return {"model": request.model or None, "priority": request.priority}
