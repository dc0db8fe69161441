"""What all dialects share: a request becomes a call, a call's logits an answer, a fault an error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from crossrank.inputs import Request
from crossrank.pairs import WHOLE_WINDOW, Cut, PairEncoder
from crossrank.pairs import Long as HowLong
from crossrank.ranking import RankedDocument, Ranking, ScoredPair
from crossrank.server.core.work import Answer, Work
from crossrank.server.http.faults import FAULTS, Fault, Kind

# What an integer in a request may be: nobody means more, and larger ones fit into no field.
TokenCount = Annotated[int, Field(ge=1, le=1_000_000_000)]
# vLLM's 0 and -1 say nothing.
Count = Annotated[int, Field(ge=-1, le=1_000_000_000)]
Name = Annotated[str, Field(max_length=512)]

# A document with so many windows is tokenised in tenths of a second, in which others wait.
MAX_WINDOWS = 100

# Fields that several dialects have, of requests,
ServedName = Annotated[Name | None, Field(description="a served model; default: the first")]
Query = Annotated[str, Field(description="a question, or words to search for")]
# One mistake is reported, so none is looked for behind it: each would cost hundreds of bytes.
Texts = Annotated[list[str], Field(fail_fast=True, description="the texts to order")]
Priority = Annotated[int, Field(ge=0, le=999, description="lower goes first")]
# A sentence or two; an instruction beyond the model's window would be an error anyway.
_Instruction = Annotated[str, Field(max_length=10_000)]
Instruction = Annotated[
    _Instruction | None,
    Field(
        validation_alias=AliasChoices("instruction", "instruct"),
        description="what the model is told to look for, if it takes an instruction; default: its own. "
        "Another name of it is `instruct`",
    ),
]
Long = Annotated[
    HowLong | None,
    Field(
        description="what becomes of a document that does not fit: `cut`, or `windows`: it is read in parts, "
        "and the best one counts; default: as the server was started"
    ),
]
MaxWindows = Annotated[
    int | None,
    Field(
        ge=1,
        le=MAX_WINDOWS,
        description="the most windows of a document; of more, the first and those with the query's words "
        "are read; default: as the server was started",
    ),
]
# and of answers.
Index = Annotated[int, Field(description="its place in the request, from 0")]
ModelName = Annotated[str, Field(description="the served model that answered")]
ScoredBy = Annotated[
    str | None, Field(description="the model that scored it, where the server has a first model; else absent")
]
Created = Annotated[int, Field(description="when, in seconds since 1970")]
Truncated = Annotated[
    bool | None, Field(description="true: the document did not fit, and only a part was read; else absent")
]
Window = Annotated[
    tuple[int, int] | None,
    Field(
        description="where the part that the score is of begins and ends, in characters (code points), if "
        "the document was read in windows; else absent"
    ),
]
QueryTruncated = Annotated[bool | None, Field(description="true: the query was cut to fit; else absent")]


def example(**fields: JsonValue) -> ConfigDict:
    """A request's configuration with an example, from which those of its answer and its error are made."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Lenient(BaseModel):
    """A request body. Unknown fields are ignored, types are not bent."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Lax(Lenient):
    """A request body of a server that bends types as pydantic does: "true" is true, and "3" or 3.0 is 3."""

    model_config = ConfigDict(strict=False)


class Usage(BaseModel):
    """Tokens as the model read them."""

    prompt_tokens: int = Field(description="of all queries and documents")
    total_tokens: int = Field(description="the same")


class Answered(BaseModel):
    """What most answers begin with."""

    id: str = Field(description="the request's id")
    object: str = Field(description="the kind of answer")
    model: ModelName
    usage: Usage = Field(description="what was read")
    meta: dict[str, Any] | None = Field(None, description="`warnings`, if there are any; else absent")


@dataclass(slots=True)
class Context:
    """What surrounds a request.

    Attributes:
        request_id: the client's, or one of the server's.
        named: the request id is the client's.
        errors: whose errors it gets; its dialect's, once that is known.
        client: who asks; see ``Work``.
        deadline: by the registry's clock.
        created: seconds since 1970.
        answer: what it got.
        notes: what the log will say of it; whoever learns something adds it.
    """

    request_id: str
    named: bool
    errors: Errors
    client: str = ""
    deadline: float = 0.0
    created: int = 0
    answer: Answer | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def work(
        self,
        queries: Sequence[str],
        texts: Sequence[str],
        cut: Cut = WHOLE_WINDOW,
        model: str | None = None,
        priority: int = 0,
        request_id: str | None = None,
        instruction: str | None = None,
        *,
        ranking: bool = False,
    ) -> Work:
        """What the scheduler gets; an empty name of a model, or an empty instruction, stands for none."""
        of_request = (self.deadline, request_id or self.request_id, self.client)
        return Work(queries, texts, cut, model or None, priority, *of_request, instruction or None, ranking)


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


def cuts_of(hit: RankedDocument | ScoredPair) -> dict[str, Any]:
    """What an answer says of the texts of a pair that did not fit; nothing of others."""
    found: dict[str, Any] = {name: True for name in ("truncated", "query_truncated") if getattr(hit, name)}
    return found | ({"window": hit.window} if hit.window else {})


def answered(kind: str, request_id: str, answer: Answer) -> dict[str, Any]:
    """What ``Answered`` describes."""
    tokens = sum(answer.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = {"id": request_id, "object": kind, "model": answer.model, "usage": usage}
    return head | ({"meta": {"warnings": warnings}} if (warnings := ignored(answer)) else {})


def ignored(answer: Answer) -> list[str]:
    """What of a request had no effect, a sentence each."""
    return [f"{answer.model} takes no instruction: it was ignored"] if answer.instruction_ignored else []


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], body: dict[str, Any]) -> Model:
    """Validate a body.

    Raises:
        Fault: "invalid", with the first mistake and its place.
    """
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


class ErrorDetail(BaseModel):
    """What went wrong, in words and in numbers."""

    message: str = Field(description="what is wrong, and where")
    type: str | None = Field(None, description="OpenAI's name for such errors")
    param: str | None = Field(None, description="always null")
    code: int = Field(description="the HTTP status")


class OpenAIError(BaseModel):
    """What went wrong."""

    error: ErrorDetail = Field(description="what went wrong")


class Errors:
    """The errors that vLLM and infinity have from OpenAI; also those of paths without a dialect.

    Attributes:
        Error: their body, for the OpenAPI description.
        statuses: where they differ from FAULTS.
    """

    Error: ClassVar[type[BaseModel]] = OpenAIError

    def __init__(self, statuses: Mapping[Kind, int] = {}) -> None:
        self.statuses = statuses

    def status(self, fault: Fault) -> int:
        """The HTTP status of a fault."""
        return self.statuses.get(fault.kind, FAULTS[fault.kind].status)

    def error(self, fault: Fault, request_id: str) -> object:
        """The body that tells of a fault."""
        kind, status = FAULTS[fault.kind].openai, self.status(fault)
        return {"error": {"message": str(fault), "type": kind, "param": None, "code": status}}


class DetailError(BaseModel):
    """What went wrong."""

    detail: str = Field(description="what is wrong, and where")


class DetailErrors(Errors):
    """The errors of servers on FastAPI."""

    Error = DetailError

    def error(self, fault: Fault, request_id: str) -> object:
        return {"detail": str(fault)}


class Dialect(ABC):
    """One API as its clients know it.

    Attributes:
        name: of the project it is of.
        errors: in which words it tells of faults.
        Request, Response: its bodies, for the OpenAPI description; Request reads them too.
        slow: its requests take long to read, and its answers to make: never on the event loop.
    """

    name: str
    errors = Errors()
    Request: ClassVar[type[BaseModel]]
    Response: ClassVar[Any]
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
