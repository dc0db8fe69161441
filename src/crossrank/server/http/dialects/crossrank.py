"""CrossRank's own: POST /compare, which the page at / asks, and POST /explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from pydantic import BaseModel, Field

from crossrank.explain import DEFAULT_SENTENCES, ExplanationPlan, plan_explanation
from crossrank.pairs import WHOLE_WINDOW, Cut, PairEncoder
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.dialects import base
from crossrank.server.http.dialects.superset import Document, read_text
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


class _Question(base.Lenient):
    """What both requests have."""

    model: base.ServedName = None
    query: base.Query
    instruction: base.Instruction = None
    priority: base.Priority = 0

    def work(
        self, texts: list[str], context: base.Context, cut: Cut = WHOLE_WINDOW, *, ranking: bool = False
    ) -> Work:
        """What the scheduler gets."""
        return context.work(
            [self.query],
            texts,
            cut,
            model=self.model,
            priority=self.priority,
            instruction=self.instruction,
            ranking=ranking,
        )


class CompareRequest(_Question):
    """A query and documents to order twice."""

    model_config = base.example(
        query="capital of France", documents=["Lyon is a city.", "Paris is the seat of government."]
    )

    documents: base.Texts
    long: base.Long = None
    max_windows: base.MaxWindows = None


class ComparedDocument(BaseModel):
    """One document, in both orders."""

    index: base.Index
    rank: int = Field(description="its place by the model; 1 is best")
    score: float = Field(description="from 0 to 1")
    logit: float = Field(description="the model's own number")
    model: str = Field(description="the model that scored it; those that a first model scored come last")
    truncated: bool = Field(description="it did not fit the model's window, and only a part was read")
    window: tuple[int, int] | None = Field(
        description="where the part that the score is of begins and ends, in characters (code points), if it "
        "was read in windows; else null"
    )
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


class CompareResponse(base.Answered):
    """The documents in the order they were sent."""

    seconds: Times = Field(description="how long each step took")
    query_truncated: bool = Field(description="the query was cut to fit the model's window")
    documents: list[ComparedDocument] = Field(description="each document, in both orders")


class Compare(base.Dialect):
    """The keyword order beside the model's."""

    name = "crossrank"
    Request = CompareRequest
    Response = CompareResponse
    slow = True

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        request = base.parse(CompareRequest, body)
        if not request.documents:
            raise Fault("empty", "documents is empty; it must hold at least one")
        cut = Cut(long=request.long, max_windows=request.max_windows)
        return base.Call(request.work(request.documents, context, cut, ranking=True))

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
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
                "window": hit.window,
                "model": hit.model or answer.model,
                "tokens": answer.tokens[hit.index],
                "keyword_rank": keyword_ranks[hit.index],
                "keyword_score": float(keyword_scores[hit.index]),
                "keyword_spans": shared_spans(marked, hit.text[: min(_MARKED, most)]),
            }
            for hit in sorted(call.rank(answer), key=lambda hit: hit.index)
        ]
        return {
            **base.answered("comparison", call.work.request_id, answer),
            "seconds": {
                "tokenization": answer.tokenization_s,
                "queue": answer.queue_s,
                "inference": answer.inference_s,
            },
            "query_truncated": any(answer.query_truncated),
            "documents": documents,
        }


class ExplainRequest(_Question):
    """A query and the document to explain."""

    model_config = base.example(query="capital of France", document="Lyon is a city. Paris is the capital.")

    document: Document = Field(description="a string, or an object with a `text`")
    max_sentences: int = Field(
        DEFAULT_SENTENCES, ge=1, le=MAX_SENTENCES, description="a longer document is explained up to this one"
    )
    window: list[int] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="which characters (code points) of the document are explained, as a ranking's `window` "
        "has them; default: from its start",
    )


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
        description="how much lower the document's score is without it; null: the model read none of it, or "
        "there is no other sentence"
    )
    logit_fall: float | None = Field(description="the same of the logit")


class ExplainResponse(base.Answered):
    """What carries the document's score."""

    score: float = Field(description="of the document, from 0 to 1")
    logit: float = Field(description="of the document, the model's own number")
    truncated: bool = Field(description="the document was cut to fit the model's window")
    query_truncated: bool = Field(description="the query was cut to fit the model's window")
    read: int = Field(
        description="how many characters of the document the model read, from its start or its window's"
    )
    window: tuple[int, int] | None = Field(description="as the request has it")
    sentences: list[ExplainedSentence] = Field(description="in the document's order")
    sentences_left_out: int = Field(description="how many more it has that were not looked at")


class Explain(base.Dialect):
    """One document, sentence by sentence."""

    name = "crossrank"
    Request = ExplainRequest
    Response = ExplainResponse
    slow = True

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        request = base.parse(ExplainRequest, body)
        document = read_text("document", request.document)
        # The document is explained from its start, or its window, which fits.
        work = request.work([document], context, Cut(long="cut"))
        window = (request.window[0], request.window[1]) if request.window else None
        return base.Call(work, own=(request.max_sentences, window))

    def expand(self, call: base.Call, encoder: Callable[[], PairEncoder]) -> base.Call:
        (query,), (document,) = call.work.queries, call.work.texts
        of_model = encoder()
        told = of_model.taken(call.work.instruction)
        most, window = call.own
        plan = plan_explanation(
            of_model, query, document, instruction=told, max_sentences=most, window=window
        )
        return replace(call, work=replace(call.work, texts=plan.texts), own=plan)

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
        plan: ExplanationPlan = call.own
        found = asdict(plan.explain(answer))
        # The client has these.
        del found["query"], found["document"]
        return base.answered("explanation", call.work.request_id, answer) | found
