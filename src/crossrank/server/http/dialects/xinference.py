"""Xinference: POST /v1/rerank."""

from __future__ import annotations

from crossrank.server.http.dialects.base import DetailErrors
from crossrank.server.http.dialects.superset import Superset

__all__ = ["Xinference"]


class Xinference(DetailErrors, Superset):
    """Xinference."""

    name = "xinference"
    null_documents = True
