"""The rerank APIs that clients know, one module each: requests, answers and errors in their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossrank.server.http.dialects.base import Call, Context, Dialect
from crossrank.server.http.dialects.cohere import CohereV1, CohereV2
from crossrank.server.http.dialects.crossrank import Compare, Explain
from crossrank.server.http.dialects.infinity import Infinity, InfinityObjects
from crossrank.server.http.dialects.jina import Jina
from crossrank.server.http.dialects.tei import Tei
from crossrank.server.http.dialects.vllm import Vllm, VllmScore
from crossrank.server.http.dialects.voyage import Voyage
from crossrank.server.http.dialects.xinference import Xinference

__all__ = ["Call", "Context", "Dialect", "Dialects"]

_V1: Mapping[str, type[Dialect]] = {
    kind.name: kind for kind in (CohereV1, Jina, Vllm, Xinference, Infinity, Voyage)
}


class Dialects:
    """Which dialect a request is in.

    Args:
        name: whose API /v1/rerank is. vllm and infinity change /rerank, too.
    """

    def __init__(self, name: str) -> None:
        self.tei = Tei()
        self.v1: Dialect = _V1[name]()
        self.documents: Dialect = self.v1 if isinstance(self.v1, Vllm | Infinity) else InfinityObjects()
        self.v2: Dialect = self.v1 if isinstance(self.v1, Vllm) else CohereV2()
        self.score: Dialect = VllmScore()
        self.compare: Dialect = Compare()
        self.explain: Dialect = Explain()
        self._paths: Mapping[str, Dialect] = {
            "/rerank": self.tei,
            "/v1/rerank": self.v1,
            "/v2/rerank": self.v2,
            "/score": self.score,
            "/v1/score": self.score,
            "/compare": self.compare,
            "/explain": self.explain,
        }

    def of_path(self, path: str) -> Dialect | None:
        """The dialect of a path, before anything of the body is known; None: it has none."""
        return self._paths.get(path)

    def of_body(self, path: str, body: Mapping[str, Any]) -> Dialect:
        """The dialect of a request: on /rerank what its body has says which."""
        if path == "/rerank" and "documents" in body and "texts" not in body:
            return self.documents
        return self._paths[path]
