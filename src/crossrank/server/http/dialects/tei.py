"""text-embeddings-inference: POST /rerank with ``texts``, and POST /predict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from crossrank.errors import TooLongError
from crossrank.pairs import Cut, Side
from crossrank.server.core.work import Answer
from crossrank.server.http.dialects import base
from crossrank.server.http.faults import Fault, Kind

__all__ = ["Tei", "TeiPredict"]

_PAIR_SCHEMA = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}


class _Options(base.Lenient):
    """What both requests have."""

    truncate: bool | None = Field(
        None,
        description="false: a text that is too long is an error; otherwise it is cut, or read in windows, as "
        "the server was started",
    )
    truncation_direction: Literal["Right", "Left", "right", "left"] = Field(
        "Right", description="which end of a text that is too long is lost"
    )
    raw_scores: bool = Field(False, description="the model's own numbers, not 0 to 1")

    def cut(self) -> Cut:
        """What becomes of a text that is too long."""
        side: Side = "left" if self.truncation_direction.lower() == "left" else "right"
        return Cut(side, allowed=self.truncate is not False)


class TeiRequest(_Options):
    """A query and texts to order."""

    model_config = base.example(
        query="capital of France", texts=["Lyon is a city.", "Paris is the seat of government."]
    )

    query: base.Query
    texts: base.Texts
    return_text: bool = Field(False, description="whether texts come back")


class TeiRank(BaseModel):
    """One text's place; the list is best first."""

    index: base.Index
    text: str | None = Field(None, description="the text, with `return_text`")
    score: float = Field(description="from 0 to 1, or with `raw_scores` the model's own number")


class PredictRequest(_Options):
    """Pairs to score."""

    model_config = base.example(
        inputs=[
            ["capital of France", "Lyon is a city."],
            ["capital of France", "Paris is the seat of government."],
        ]
    )

    inputs: Annotated[
        list[Any],
        WithJsonSchema({"anyOf": [_PAIR_SCHEMA, {"type": "array", "items": _PAIR_SCHEMA, "minItems": 1}]}),
    ] = Field(description="a pair, [query, text], or a list of pairs")


class Prediction(BaseModel):
    """A pair's score."""

    score: float = Field(description="from 0 to 1, or with `raw_scores` the model's own number")
    label: str = Field(description="always LABEL_0: a reranker has one class")


class TeiError(BaseModel):
    """What went wrong."""

    error: str = Field(description="what is wrong, and where")
    error_type: str = Field(
        description="Validation, Empty, Overloaded, Unhealthy (not ready) or Backend (the server failed)"
    )


_ERROR_TYPES: dict[Kind, str] = {
    "empty": "Empty",
    "overloaded": "Overloaded",
    "engine": "Backend",
    "internal": "Backend",
    "deadline": "Backend",
    "unavailable": "Unhealthy",
}


class TeiErrors(base.Errors):
    """text-embeddings-inference's."""

    Error = TeiError

    def error(self, fault: Fault, request_id: str) -> object:
        message = str(fault)
        if isinstance(fault.__cause__, TooLongError):
            cause = fault.__cause__
            message = (
                f"Input validation error: `inputs` must have less than {cause.limit} tokens. "
                f"Given: {'' if cause.exact else 'more than '}{cause.tokens}"
            )
        elif fault.kind == "overloaded":
            message = f"Model is overloaded: {message}"
        return {"error": message, "error_type": _ERROR_TYPES.get(fault.kind, "Validation")}


class Tei(base.Dialect):
    """text-embeddings-inference."""

    name = "tei"
    errors = TeiErrors({"invalid": 422, "limit": 422, "too_long": 422, "engine": 424})
    Request = TeiRequest
    Response = list[TeiRank]

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        if "texts" not in body:
            raise Fault("invalid", "missing field `texts` (or `documents`, for the APIs that have these)")
        request = base.parse(TeiRequest, body)
        if not request.texts:
            raise Fault("empty", "`texts` cannot be empty")
        work = context.work([request.query], request.texts, request.cut(), ranking=True)
        return base.Call(work, raw=request.raw_scores, with_documents=request.return_text)

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
        hits = call.rank(answer)
        if call.with_documents:
            return [{"index": hit.index, "text": hit.text, "score": call.number(hit)} for hit in hits]
        return [{"index": hit.index, "score": call.number(hit)} for hit in hits]


class TeiPredict(base.Dialect):
    """text-embeddings-inference's classes of texts: a reranker has one class, and its texts are pairs."""

    name = "tei"
    errors = Tei.errors
    Request = PredictRequest
    Response = list[list[Prediction]] | list[Prediction]

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        request = base.parse(PredictRequest, body)
        if not request.inputs:
            raise Fault("empty", "`inputs` cannot be empty")
        alone = isinstance(request.inputs[0], str)
        pairs = [request.inputs] if alone else request.inputs
        for index, pair in enumerate(pairs):
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(isinstance(text, str) for text in pair)
            ):
                place = "inputs" if alone else f"inputs.{index}"
                raise Fault("invalid", f"{place}: a reranker scores pairs; it must be [query, text]")
        queries, texts = [query for query, _ in pairs], [text for _, text in pairs]
        if len(set(queries)) == 1:
            del queries[1:]  # so that it is tokenised once
        return base.Call(context.work(queries, texts, request.cut()), raw=request.raw_scores, own=alone)

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
        scored = [
            [{"score": pair.logit if call.raw else pair.score, "label": "LABEL_0"}] for pair in answer.pairs()
        ]
        return scored[0] if call.own else scored
