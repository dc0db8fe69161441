"""Xinference: POST /v1/rerank."""

from __future__ import annotations

from crossrank.server.http.dialects.jina import DetailError
from crossrank.server.http.dialects.superset import Superset
from crossrank.server.http.faults import Fault

__all__ = ["Xinference"]


class Xinference(Superset):
    """Xinference."""

    name = "xinference"
    Error = DetailError
    null_documents = True

    def error(self, fault: Fault, status: int, request_id: str) -> object:
        return {"detail": str(fault)}
