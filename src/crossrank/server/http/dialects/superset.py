"""/v1/rerank and its relatives: one request and one answer with all that their clients send and read.

Cohere, Jina, vLLM, Xinference and infinity agree on most of it. What each has of its own, defaults and
errors, is in a table, ``NAMED``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from crossrank.errors import InputError
from crossrank.pairs import Cut
from crossrank.ranking import RankedDocument, is_blank
from crossrank.server.core.work import Answer
from crossrank.server.http.dialects import base
from crossrank.server.http.faults import Fault, Kind

__all__ = ["COHERE_V2", "INFINITY_OBJECTS", "NAMED", "Superset"]

_UNPROCESSABLE: dict[Kind, int] = dict.fromkeys(("invalid", "empty", "limit", "too_long"), 422)

MAX_RANK_FIELDS = 64
"""Every field is looked up in every document: 64 of 2,048 documents take some tens of milliseconds."""

_DOCUMENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": True},
    ]
}
Document = Annotated[Any, WithJsonSchema(_DOCUMENT_SCHEMA)]
Documents = Annotated[
    list[Any] | dict[str, Any] | str,
    WithJsonSchema({"anyOf": [{"type": "array", "items": _DOCUMENT_SCHEMA}, *_DOCUMENT_SCHEMA["anyOf"]]}),
]


class Options(base.Lax):
    """What requests to order and to score have in common."""

    model: base.ServedName = None
    max_tokens_per_doc: base.Count | None = Field(None, description="a longer document is cut to it")
    max_tokens_per_query: base.Count | None = Field(None, description="a longer query is cut to it")
    truncate_prompt_tokens: base.Count | None = Field(
        None, description="tokens of query, document and what is between them; -1: the model's window"
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="which end of a document that is too long is lost; default right"
    )
    use_activation: bool | None = Field(None, description="false: the model's own numbers, not 0 to 1")
    long: base.Long = None
    max_windows: base.MaxWindows = None
    instruction: base.Instruction = None
    priority: base.Priority = 0

    def cut(self) -> Cut:
        """What of the texts is cut, or read in windows."""
        return Cut(
            self.truncation_side or "right",
            document=base.positive(self.max_tokens_per_doc),
            query=base.positive(self.max_tokens_per_query),
            pair=base.positive(self.truncate_prompt_tokens),
            long=self.long,
            max_windows=self.max_windows,
        )


class SupersetRequest(Options):
    """A query and documents to order."""

    model_config = base.example(
        model="crossrank-mini",
        query="capital of France",
        documents=["Lyon is a city.", {"text": "Paris is the seat of government.", "page": 7}],
        top_n=1,
    )

    query: base.Query
    documents: Documents = Field(
        description="strings, or objects whose `text` (or `rank_fields`) is ranked; in place of `text` an "
        "object may have `content`: a list of parts of the type `text`"
    )
    top_n: int | None = Field(None, ge=-(1 << 31), lt=1 << 31, description="how many results; 0: all")
    return_documents: bool | None = Field(None, description="default: as the dialect has it")
    rank_fields: Annotated[list[base.Name], Field(fail_fast=True)] | None = Field(
        None, max_length=MAX_RANK_FIELDS, description="the fields of a document that are ranked by"
    )
    max_chunks_per_doc: base.TokenCount | None = Field(
        None,
        description="a document that is too long is read in windows, up to so many (100 at most), as Cohere "
        "does it: the same as `long` and `max_windows`, which win where they are there, too",
    )
    raw_scores: bool = Field(False, description="true: the model's own numbers, not 0 to 1")
    request_id: str | None = Field(
        None, max_length=128, description="the answer's id, where no header X-Request-Id says it"
    )


class TextDocument(BaseModel):
    """A document that comes back, with all its fields."""

    text: str = Field(description="the text that was ranked")
    multi_modal: None = Field(None, description="always null; vLLM's clients read it")


class SupersetResult(BaseModel):
    """One document's place."""

    index: base.Index
    relevance_score: float = Field(description="from 0 to 1, or with `raw_scores` the model's own number")
    document: TextDocument | str | None = Field(None, description="the document, with `return_documents`")
    truncated: base.Truncated = None
    window: base.Window = None
    query_truncated: base.QueryTruncated = None


class SupersetResponse(base.Answered):
    """The documents, best first."""

    created: base.Created
    meta: dict[str, Any] = Field(
        description="as Cohere has it; `warnings` says what was cut, which documents have nothing to read, "
        "and what had no effect"
    )
    results: list[SupersetResult] = Field(description="the results, best first")


@dataclass(frozen=True, eq=False)
class Superset(base.Dialect):
    """What the dialects of /v1/rerank share, and in what they differ.

    Attributes:
        returns_documents: where a request does not say.
        never_returns: documents do not come back, whatever a request says.
        bare_documents: a document that comes back is a string, not an object.
        null_documents: where none comes back, that is said: null.
        multi_modal: a document that comes back has a field of this name: null.
        negative_is_all: top_n below 0 is all, not a mistake.
        id_prefix: of the answer's id.
        api_version: in ``meta``.
        no_models: names that stand for no model.
    """

    name: str
    errors: base.Errors = base.Dialect.errors
    returns_documents: bool = False
    never_returns: bool = False
    bare_documents: bool = False
    null_documents: bool = False
    multi_modal: bool = False
    negative_is_all: bool = False
    id_prefix: str = ""
    api_version: str = "1"
    no_models: Collection[str | None] = ("",)

    Request = SupersetRequest
    Response = SupersetResponse

    def read(self, body: dict[str, Any], context: base.Context) -> base.Call:
        request = base.parse(SupersetRequest, body)
        documents = listed(request.documents)
        if not documents:
            raise Fault("empty", "documents is empty; it must hold at least one")
        if request.top_n is not None and request.top_n < 0 and not self.negative_is_all:
            raise InputError(f"top_n is {request.top_n}; it must be at least 1, or 0 for all")
        texts, cut = read_texts(documents, request.rank_fields), request.cut()
        if (chunks := request.max_chunks_per_doc) is not None:
            most = cut.max_windows or min(chunks, base.MAX_WINDOWS)
            cut = replace(cut, long=cut.long or "windows", max_windows=most)
        wanted = self.returns_documents if request.return_documents is None else request.return_documents
        with_documents = wanted and not self.never_returns
        model = None if request.model in self.no_models else request.model
        request_id = None if context.named else request.request_id
        work = context.work(
            [request.query],
            texts,
            cut,
            model,
            request.priority,
            request_id,
            request.instruction,
            ranking=True,
        )
        return base.Call(
            work,
            documents=documents if with_documents else [],
            top_n=base.positive(request.top_n),
            raw=request.raw_scores or request.use_activation is False,
            with_documents=with_documents,
        )

    def answer(self, call: base.Call, answer: Answer, context: base.Context) -> object:
        meta: dict[str, Any] = {
            "api_version": {"version": self.api_version},
            "billed_units": {"search_units": -(-len(answer.tokens) // 100)},
            "tokens": {"input_tokens": sum(answer.tokens), "output_tokens": 0},
        }
        hits = call.rank(answer)
        if warnings := _warnings(call, answer, hits):
            meta["warnings"] = warnings
        results = [self.result(call, hit) for hit in hits]
        own = {"created": context.created, "meta": meta, "results": results}
        return base.answered("rerank", self.id_prefix + call.work.request_id, answer) | own

    def result(self, call: base.Call, hit: RankedDocument) -> dict[str, Any]:
        """One of ``results``."""
        result: dict[str, Any] = {"index": hit.index, "relevance_score": call.number(hit)}
        if call.with_documents:
            if self.bare_documents:
                result["document"] = hit.text
            else:
                document = call.documents[hit.index]
                own = document if isinstance(document, dict) else {}
                of_vllm = {"multi_modal": None} if self.multi_modal else {}
                result["document"] = {"text": hit.text, **of_vllm, **own}
        elif self.null_documents:
            result["document"] = None
        return result | base.cuts_of(hit)


class CohereError(BaseModel):
    """What went wrong."""

    id: str = Field(description="the request's id")
    message: str = Field(description="what is wrong, and where")


class CohereErrors(base.Errors):
    """Cohere's."""

    Error = CohereError

    def error(self, fault: Fault, request_id: str) -> object:
        return {"id": request_id, "message": str(fault)}


_COHERE = Superset("cohere", CohereErrors())
_INFINITY = Superset(
    "infinity",
    base.Errors(_UNPROCESSABLE),
    bare_documents=True,
    null_documents=True,
    id_prefix="infinity-",
    no_models=("", "default/not-specified"),
)
_JINA = Superset("jina", base.DetailErrors(_UNPROCESSABLE), returns_documents=True)
_VLLM = Superset("vllm", returns_documents=True, multi_modal=True, negative_is_all=True, id_prefix="rerank-")
_XINFERENCE = Superset("xinference", base.DetailErrors(), null_documents=True)

NAMED = {dialect.name: dialect for dialect in (_COHERE, _JINA, _VLLM, _XINFERENCE, _INFINITY)}
"""What --dialect may choose; the default is Cohere's API of 2023."""

COHERE_V2 = replace(_COHERE, never_returns=True, api_version="2")
"""Cohere's API of today, /v2/rerank."""

INFINITY_OBJECTS = replace(_INFINITY, bare_documents=False)
"""The default of /rerank with ``documents``: clients of the other servers that have this path read it so
(vLLM, llama.cpp, LocalAI, Together AI)."""


def _warnings(call: base.Call, answer: Answer, hits: Sequence[RankedDocument]) -> list[str]:
    """What had no effect, what was cut, which documents have nothing to read, and which of the results the
    model has not scored, a sentence each.
    """
    not_read = [index for index, truncated in enumerate(answer.truncated) if truncated]
    cut = [index for index in not_read if answer.windows[index] is None]
    partly = [index for index in not_read if answer.windows[index] is not None]
    blank = [index for index, text in enumerate(call.work.texts) if is_blank(text)]
    thinned = [hit.index for hit in hits if hit.model not in (None, answer.model)]
    first = answer.models[-1] if answer.models else ""
    found = (
        (cut, "were cut to fit"),
        (partly, "have more windows than were read (max_windows)"),
        (blank, "have no letter or digit and were ranked last"),
        (thinned, f"were scored by {first} alone: they come last, and their scores cannot be compared"),
    )
    of_query = ["the query was cut to fit"] if any(answer.query_truncated) else []
    of_texts = [_warning(len(call.work.texts), indices, what) for indices, what in found if indices]
    return base.ignored(answer) + of_query + of_texts


def _warning(count: int, indices: list[int], what: str) -> str:
    shown = ", ".join(map(str, indices[:100])) + (" and others" if len(indices) > 100 else "")
    return f"{len(indices)} of {count} documents {what}; their indices: {shown}"


def listed(documents: list[Any] | dict[str, Any] | str) -> list[Any]:
    """The documents of a field that may also hold one alone, or, as vLLM's, ``content`` with many."""
    if isinstance(documents, list):
        return documents
    if isinstance(documents, dict) and "text" not in documents and isinstance(documents.get("content"), list):
        parts: list[Any] = documents["content"]
        return parts
    return [documents]


def read_texts(
    documents: Sequence[object], rank_fields: Sequence[str] | None, field: str = "documents"
) -> list[str]:
    """The text of each document that is ranked; see ``read_text``."""
    wanted = list(dict.fromkeys(rank_fields or ()))
    return [read_text(f"{field}.{index}", document, wanted) for index, document in enumerate(documents)]


def read_text(place: str, document: object, rank_fields: Sequence[str] = ()) -> str:
    """The text of a document that is ranked.

    That of a string is itself. That of an object is its field ``text``, or the lines of the parts in
    ``content``; with ``rank_fields``, the one that is there, or "field: value" lines of several.

    Raises:
        InputError: it is neither, or has none of the fields.
    """
    if isinstance(document, str):
        return document
    if not isinstance(document, Mapping):
        raise InputError(
            f"{place} is of type {type(document).__name__}; it must be a string, or an object with a text"
        )
    if not rank_fields and document.get("text") is None:
        if isinstance(document.get("type"), str) and document["type"] != "text":
            raise InputError(
                f"{place} is of the type {document['type']!r}; texts are ranked, and nothing else"
            )
        if isinstance(document.get("content"), list):
            return "\n".join(read_texts(document["content"], None, f"{place}.content"))
    wanted = rank_fields or ["text"]
    found = {name: _as_text(document[name]) for name in wanted if document.get(name) is not None}
    if not found:
        raise InputError(f"{place} has none of the fields that are ranked by: {', '.join(wanted)}")
    if not rank_fields and not isinstance(document["text"], str):
        raise InputError(f"{place}.text must be a string")
    if len(found) == 1:
        return next(iter(found.values()))
    return "\n".join(f"{name}: {value}" for name, value in found.items())


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
