"""What all dialects share: a request becomes a call, a call's logits an answer, a fault an error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crossrank.inputs import Request
from crossrank.pairs import PairEncoder
from crossrank.ranking import RankedDocument, Ranking
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.faults import Fault, Kind

__all__ = [
    "STATUSES",
    "Call",
    "Context",
    "Count",
    "Dialect",
    "Lax",
    "Lenient",
    "Name",
    "Priority",
    "Texts",
    "TokenCount",
    "parse",
    "said",
]

STATUSES: Mapping[Kind, int] = {
    "syntax": 400,
    "invalid": 400,
    "empty": 400,
    "limit": 400,
    "too_long": 400,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method": 405,
    "unknown_model": 404,
    "slow": 408,
    "overloaded": 429,
    "deadline": 504,
    "engine": 503,
    "unavailable": 503,
    "internal": 500,
}
"""Unless a dialect says otherwise."""

# What an integer in a request may be: nobody means more, and larger ones fit into no field.
TokenCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
# vLLM's 0 and -1 say nothing.
Count = Annotated[int, Field(ge=-1, le=1_000_000_000)]
Priority = Annotated[int, Field(ge=0, le=999, description="lower goes first")]
Name = Annotated[str, Field(max_length=512)]
# One mistake is reported, so none is looked for behind it: each would cost hundreds of bytes.
Texts = Annotated[list[str], Field(fail_fast=True)]


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
        deadline: ``time.monotonic()`` seconds.
        created: seconds since 1970.
        named: the request id is the client's.
        client: who asks; see ``Work``.
    """

    request_id: str
    deadline: float
    created: int
    named: bool = False
    client: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks, in every dialect the same.

    Attributes:
        work: what the scheduler gets.
        documents: as the client sent them, for those that come back.
        top_n: how many results; None: all.
        raw: logits, not scores.
        with_documents: documents come back.
    """

    work: Work
    documents: Sequence[Any] = field(default_factory=list)
    top_n: int | None = None
    raw: bool = False
    with_documents: bool = False

    @property
    def texts(self) -> list[str]:
        return [document for _, document in self.work.pairs]

    def rank(self, answer: Answer) -> Ranking:
        """The results, best first."""
        query = self.work.pairs[0][0] if self.work.pairs else ""
        return answer.scored.rank(Request(query, self.texts), top_n=self.top_n)

    def number(self, hit: RankedDocument) -> float:
        """What the client calls a score."""
        return hit.logit if self.raw else hit.score


def said(count: int | None) -> int | None:
    """A number that says something; None for one that does not."""
    return count if count is not None and count > 0 else None


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
        statuses: where its own differ from STATUSES.
        expands: its requests are scored by more pairs than they name, which ``expand`` makes.
        slow: its answers take long, so they are never made on the event loop.
    """

    name: ClassVar[str]
    Request: ClassVar[type[BaseModel]]
    Response: ClassVar[Any]
    Error: ClassVar[type[BaseModel]]
    statuses: ClassVar[Mapping[Kind, int]] = {}
    expands: ClassVar[bool] = False
    slow: ClassVar[bool] = False

    @abstractmethod
    def read(self, body: dict[str, Any], context: Context) -> Call:
        """What a body asks.

        Raises:
            Fault, InputError: it is not as it should be.
        """

    def expand(self, call: Call, encoder: PairEncoder) -> Call:
        """The call with all its pairs, once its texts are known to be within limits; may take long."""
        return call

    @abstractmethod
    def answer(self, call: Call, answer: Answer, context: Context) -> object:
        """The body of an answer."""

    @abstractmethod
    def error(self, fault: Fault, status: int, request_id: str) -> object:
        """The body that tells of a fault."""

    def status(self, fault: Fault) -> int:
        """The HTTP status of a fault."""
        return self.statuses.get(fault.kind, STATUSES[fault.kind])
