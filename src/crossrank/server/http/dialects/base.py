"""What all dialects share: a request becomes a call, a call's logits an answer, a fault an error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from crossrank.inputs import Request
from crossrank.pairs import PairEncoder
from crossrank.ranking import RankedDocument, Ranking, ScoredPair
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.dialects.openai import OpenAIError, openai_error
from crossrank.server.http.faults import FAULTS, Fault, Kind

__all__ = [
    "Call",
    "Context",
    "Count",
    "Created",
    "DetailErrors",
    "Dialect",
    "Id",
    "Index",
    "Lax",
    "Lenient",
    "ModelName",
    "Name",
    "Priority",
    "Query",
    "QueryTruncated",
    "Texts",
    "TokenCount",
    "Truncated",
    "cuts_of",
    "example",
    "parse",
    "positive",
    "usage_of",
]

# What an integer in a request may be: nobody means more, and larger ones fit into no field.
TokenCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
# vLLM's 0 and -1 say nothing.
Count = Annotated[int, Field(ge=-1, le=1_000_000_000)]
Priority = Annotated[int, Field(ge=0, le=999, description="lower goes first")]
Name = Annotated[str, Field(max_length=512)]
# One mistake is reported, so none is looked for behind it: each would cost hundreds of bytes.
Texts = Annotated[list[str], Field(fail_fast=True)]

# Fields that several dialects have.
Id = Annotated[str, Field(description="the request's id")]
Query = Annotated[str, Field(description="a question, or words to search for")]
Index = Annotated[int, Field(description="its place in the request, from 0")]
ModelName = Annotated[str, Field(description="the served model that answered")]
Created = Annotated[int, Field(description="when, in seconds since 1970")]
Truncated = Annotated[bool | None, Field(description="true: the document was cut to fit; else absent")]
QueryTruncated = Annotated[bool | None, Field(description="true: the query was cut to fit; else absent")]


def example(**fields: JsonValue) -> ConfigDict:
    """A model's configuration with an example for the description of the API."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Lenient(BaseModel):
    """A request body. Unknown fields are ignored, types are not bent."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Lax(Lenient):
    """A request body of a server that bends types as pydantic does: "true" is true, and "3" or 3.0 is 3."""

    model_config = ConfigDict(strict=False)


@dataclass(frozen=True, slots=True)
class Context:
    """What surrounds a request.

    Attributes:
        request_id: the client's, or one of the server's.
        deadline: by the registry's clock.
        created: seconds since 1970.
        named: the request id is the client's.
        client: who asks; see ``Work``.
    """

    request_id: str
    deadline: float
    created: int
    named: bool = False
    client: str = ""

    @property
    def shared(self) -> dict[str, Any]:
        """What every ``Work`` of the request has."""
        return {"deadline": self.deadline, "request_id": self.request_id, "client": self.client}


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks, in every dialect the same.

    Attributes:
        work: what the scheduler gets.
        documents: as the client sent them, for those that come back.
        top_n: how many results; None: all.
        raw: logits, not scores.
        with_documents: documents come back.
        own: what else the dialect needs for its answer.
    """

    work: Work
    documents: Sequence[Any] = ()
    top_n: int | None = None
    raw: bool = False
    with_documents: bool = False
    own: Any = None

    def rank(self, answer: Answer) -> Ranking:
        """The results, best first."""
        return answer.rank(Request(self.work.queries[0], self.work.texts), top_n=self.top_n)

    def number(self, hit: RankedDocument) -> float:
        """What the client calls a score."""
        return hit.logit if self.raw else hit.score


def positive(count: int | None) -> int | None:
    """A limit of a request; None for 0 and -1, with which clients say that there is none."""
    return count if count is not None and count > 0 else None


def cuts_of(hit: RankedDocument | ScoredPair) -> dict[str, bool]:
    """What an answer says of the texts of a pair that were cut to fit; nothing of whole ones."""
    return {name: True for name in ("truncated", "query_truncated") if getattr(hit, name)}


def usage_of(answer: Answer) -> dict[str, int]:
    """The tokens of a request, as OpenAI's clients read them."""
    tokens = sum(answer.tokens)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], body: object) -> Model:
    """Validate a body.

    Raises:
        Fault: "invalid", with the first mistake and its place.
    """
    if not isinstance(body, dict):
        raise Fault("invalid", "the body must be a JSON object")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _first_mistake(error) from None


def _first_mistake(error: ValidationError) -> Fault:
    """Of a field of several types there is a mistake for each: the one that came furthest, or all."""
    mistakes = [
        (".".join(str(part) for part in mistake["loc"] if not _is_type(part)), mistake)
        for mistake in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    field = mistakes[0][1]["loc"][:1]
    place, first = max((m for m in mistakes if m[1]["loc"][:1] == field), key=lambda m: m[0].count("."))
    if first["type"] == "missing":
        return Fault("invalid", f"missing field `{place}`")
    told = list(dict.fromkeys(mistake["msg"] for at, mistake in mistakes if at == place))
    return Fault("invalid", f"{place or 'the body'}: {'; or: '.join(told)}")


def _is_type(part: int | str) -> bool:
    """Whether a part of a mistake's place is no field or index, but one of a field's types."""
    text = str(part)
    return text in ("str", "int", "float", "bool", "dict") or "[" in text or text[:1].isupper()


class Dialect(ABC):
    """One API as its clients know it.

    Attributes:
        name: of the project it is of.
        Request, Response, Error: its bodies, for the OpenAPI description; Request reads them too.
        statuses: where its own differ from FAULTS.
        slow: its requests take long to read, and its answers to make: never on the event loop.
    """

    name: ClassVar[str]
    Request: ClassVar[type[BaseModel]]
    Response: ClassVar[Any]
    Error: ClassVar[type[BaseModel]] = OpenAIError
    statuses: ClassVar[Mapping[Kind, int]] = {}
    slow: ClassVar[bool] = False

    @abstractmethod
    def read(self, body: dict[str, Any], context: Context) -> Call:
        """What a body asks.

        Raises:
            Fault, InputError: it is not as it should be.
        """

    def expand(self, call: Call, encoder: Callable[[], PairEncoder]) -> Call:
        """The call with all its texts, once those of the request are known to be within limits."""
        return call

    @abstractmethod
    def answer(self, call: Call, answer: Answer, context: Context) -> object:
        """The body of an answer."""

    def error(self, fault: Fault, status: int, request_id: str) -> object:
        """The body that tells of a fault."""
        return openai_error(fault, status)

    def status(self, fault: Fault) -> int:
        """The HTTP status of a fault."""
        return self.statuses.get(fault.kind, FAULTS[fault.kind].status)


class DetailError(BaseModel):
    """What went wrong."""

    model_config = example(detail="missing field `documents`")

    detail: str = Field(description="what is wrong, and where")


class DetailErrors:
    """The errors of servers on FastAPI; it stands before ``Dialect``."""

    Error: ClassVar[type[BaseModel]] = DetailError

    def error(self, fault: Fault, status: int, request_id: str) -> object:
        """The body that tells of a fault."""
        return {"detail": str(fault)}
