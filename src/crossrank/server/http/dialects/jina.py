"""Jina: POST /v1/rerank."""

from __future__ import annotations

from crossrank.server.http.dialects.base import DetailErrors
from crossrank.server.http.dialects.superset import Superset

__all__ = ["Jina"]


class Jina(DetailErrors, Superset):
    """Jina: documents come back unless a request says otherwise."""

    name = "jina"
    statuses = {"invalid": 422, "empty": 422, "limit": 422, "too_long": 422}
    returns_documents = True
