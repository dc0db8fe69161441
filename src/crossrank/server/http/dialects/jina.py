"""Jina: POST /v1/rerank."""

from __future__ import annotations

from pydantic import BaseModel

from crossrank.server.http.dialects.superset import Superset
from crossrank.server.http.faults import Fault

__all__ = ["DetailError", "Jina"]


class DetailError(BaseModel):
    """What went wrong."""

    detail: str


class Jina(Superset):
    """Jina: documents come back unless a request says otherwise."""

    name = "jina"
    Error = DetailError
    statuses = {"invalid": 422, "empty": 422, "limit": 422, "too_long": 422}
    returns_documents = True

    def error(self, fault: Fault, status: int, request_id: str) -> object:
        return {"detail": str(fault)}
