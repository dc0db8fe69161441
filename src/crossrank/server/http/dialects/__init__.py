"""The rerank APIs that clients know: requests, answers and errors in their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from crossrank.server.http.dialects.base import Call, Context, Dialect, Errors
from crossrank.server.http.dialects.crossrank import Compare, Explain
from crossrank.server.http.dialects.superset import COHERE_V2, INFINITY_OBJECTS, NAMED
from crossrank.server.http.dialects.tei import Tei
from crossrank.server.http.dialects.vllm import VllmScore
from crossrank.server.http.dialects.voyage import Voyage

__all__ = ["Call", "Context", "Dialect", "Dialects", "Errors"]


class _Path(NamedTuple):
    summary: str
    dialects: list[Dialect]


class Dialects:
    """Which dialect a request is in.

    Args:
        name: whose API /v1/rerank is. vllm and infinity change /rerank, too.

    Attributes:
        paths: what each path does, and the dialects that it speaks: the first is that of its errors, as long
            as nothing is known of the body.
    """

    def __init__(self, name: str) -> None:
        v1 = Voyage() if name == "voyage" else NAMED[name]
        documents = v1 if name in ("vllm", "infinity") else INFINITY_OBJECTS
        v2 = v1 if name == "vllm" else COHERE_V2
        self.paths: Mapping[str, _Path] = {
            "/rerank": _Path("Order texts (TEI) or documents", [Tei(), documents]),
            "/v1/rerank": _Path("Order documents", [v1]),
            "/v2/rerank": _Path("Order documents", [v2]),
            "/score": _Path("Score pairs", [VllmScore()]),
            "/v1/score": _Path("Score pairs", [VllmScore()]),
            "/compare": _Path("Order documents by keywords (BM25) and by the model", [Compare()]),
            "/explain": _Path("Which sentences of a document carry its score", [Explain()]),
        }

    def of_path(self, path: str) -> Errors:
        """Whose errors a path has, before anything of the body is known."""
        return self.paths[path].dialects[0].errors if path in self.paths else Errors()

    def of_body(self, path: str, body: Mapping[str, Any]) -> Dialect:
        """The dialect of a request: on /rerank what its body has says which."""
        _, (first, *others) = self.paths[path]
        return others[0] if others and "documents" in body and "texts" not in body else first
