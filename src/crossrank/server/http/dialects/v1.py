"""What Cohere, Jina, Xinference and infinity each have of their own in ``Superset``."""

from __future__ import annotations

from pydantic import BaseModel, Field

from crossrank.server.http.dialects.base import DetailErrors, Id, example
from crossrank.server.http.dialects.superset import Superset
from crossrank.server.http.faults import Fault, Kind

__all__ = ["CohereV1", "CohereV2", "Infinity", "InfinityObjects", "Jina", "Xinference"]

_UNPROCESSABLE: dict[Kind, int] = dict.fromkeys(("invalid", "empty", "limit", "too_long"), 422)


class CohereError(BaseModel):
    """What went wrong."""

    model_config = example(id="3984915a5656439693348eb4214d4f7d", message="missing field `documents`")

    id: Id
    message: str = Field(description="what is wrong, and where")


class CohereV1(Superset):
    """Cohere's API of 2023; its superset is /v1/rerank's default."""

    name = "cohere"
    Error = CohereError

    def error(self, fault: Fault, status: int, request_id: str) -> object:
        return {"id": request_id, "message": str(fault)}


class CohereV2(CohereV1):
    """Cohere's API of today, /v2/rerank: documents never come back."""

    never_returns = True
    api_version = "2"


class Infinity(Superset):
    """infinity: a document that comes back is a bare string."""

    name = "infinity"
    statuses = _UNPROCESSABLE
    id_prefix = "infinity-"
    bare_documents = True
    null_documents = True
    no_models = frozenset(["", "default/not-specified"])


class InfinityObjects(Infinity):
    """The default of /rerank with ``documents``: a document that comes back is an object.

    Clients of the other servers that have this path read it so (vLLM, llama.cpp, LocalAI, Together AI).
    """

    bare_documents = False


class Jina(DetailErrors, Superset):
    """Jina: documents come back unless a request says otherwise."""

    name = "jina"
    statuses = _UNPROCESSABLE
    returns_documents = True


class Xinference(DetailErrors, Superset):
    """Xinference."""

    name = "xinference"
    null_documents = True
