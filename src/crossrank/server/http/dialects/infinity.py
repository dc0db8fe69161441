"""infinity: POST /rerank with ``documents``."""

from __future__ import annotations

from crossrank.server.http.dialects.superset import Superset

__all__ = ["Infinity", "InfinityObjects"]


class Infinity(Superset):
    """infinity: a document that comes back is a bare string."""

    name = "infinity"
    statuses = {"invalid": 422, "empty": 422, "limit": 422, "too_long": 422}
    id_prefix = "infinity-"
    bare_documents = True
    null_documents = True
    no_models = frozenset(["", "default/not-specified"])


class InfinityObjects(Infinity):
    """The default of /rerank: a document that comes back is an object.

    Clients of the other servers that have this path read it so (vLLM, llama.cpp, LocalAI, Together AI).
    """

    bare_documents = False
