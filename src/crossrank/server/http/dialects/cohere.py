"""Cohere: POST /v1/rerank and POST /v2/rerank."""

from __future__ import annotations

from pydantic import BaseModel

from crossrank.server.http.dialects.superset import Superset
from crossrank.server.http.faults import Fault

__all__ = ["CohereV1", "CohereV2"]


class CohereError(BaseModel):
    """What went wrong."""

    id: str
    message: str


class CohereV1(Superset):
    """Cohere's API of 2023; its superset is /v1/rerank's default."""

    name = "cohere"
    Error = CohereError

    def error(self, fault: Fault, status: int, request_id: str) -> object:
        return {"id": request_id, "message": str(fault)}


class CohereV2(CohereV1):
    """Cohere's API of today: documents never come back."""

    never_returns = True
    api_version = "2"
