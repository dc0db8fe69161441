"""The rerank APIs that clients know: requests, answers and errors in their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from crossrank.server.http.dialects.base import Call, Context, Dialect, Errors
from crossrank.server.http.dialects.crossrank import Compare, Explain
from crossrank.server.http.dialects.superset import COHERE_V2, INFINITY_OBJECTS, NAMED
from crossrank.server.http.dialects.tei import Tei, TeiPredict
from crossrank.server.http.dialects.vllm import VllmScore
from crossrank.server.http.dialects.voyage import Voyage

__all__ = ["PREFIXED", "Call", "Context", "Dialect", "Dialects", "Errors"]

_RANK, _SCORE = "Order documents", "Score pairs"

PREFIXED: Mapping[str, Dialect] = {"tei": Tei(), **NAMED, "voyage": Voyage()}
"""The dialects that have a prefix, and whose errors a path below it has: /vllm/rerank is read as vLLM's,
whatever its body looks like."""


class _Path(NamedTuple):
    summary: str
    dialects: list[Dialect]


def _prefixed() -> dict[str, _Path]:
    """The paths below the prefixes: base URLs end in /v1, or do not, as a client is used to."""
    paths = {f"/{name}/rerank": _Path(_RANK, [dialect]) for name, dialect in PREFIXED.items()}
    paths |= {f"/{name}/v1/rerank": _Path(_RANK, [PREFIXED[name]]) for name in PREFIXED if name != "tei"}
    return paths | {
        "/cohere/v2/rerank": _Path(_RANK, [COHERE_V2]),
        "/vllm/v2/rerank": _Path(_RANK, [PREFIXED["vllm"]]),
        "/vllm/score": _Path(_SCORE, [VllmScore()]),
        "/vllm/v1/score": _Path(_SCORE, [VllmScore()]),
        "/tei/predict": _Path(_SCORE, [TeiPredict()]),
    }


class Dialects:
    """Which dialect a request is in.

    Args:
        name: whose API /v1/rerank is. vllm and infinity change /rerank, too.

    Attributes:
        paths: what each path does, and the dialects that it speaks: the first is that of its errors, as long
            as nothing is known of the body.
    """

    def __init__(self, name: str) -> None:
        v1 = PREFIXED[name]
        documents = v1 if name in ("vllm", "infinity") else INFINITY_OBJECTS
        v2 = v1 if name == "vllm" else COHERE_V2
        either = _Path("Order texts (TEI) or documents", [Tei(), documents])
        self.paths: Mapping[str, _Path] = {
            "/rerank": either,
            "/v1/rerank": _Path(_RANK, [v1]),
            "/v2/rerank": _Path(_RANK, [v2]),
            "/reranking": either,  # this and the next are llama.cpp's
            "/v1/reranking": either,
            "/predict": _Path(_SCORE, [TeiPredict()]),
            "/score": _Path(_SCORE, [VllmScore()]),
            "/v1/score": _Path(_SCORE, [VllmScore()]),
            "/compare": _Path("Order documents by keywords (BM25) and by the model", [Compare()]),
            "/explain": _Path("Which sentences of a document carry its score", [Explain()]),
            **_prefixed(),
        }

    def prefix(self, path: str) -> str:
        """The prefix of a path on which no dialect depends: /infinity/models is /models. "": it has none."""
        name, _, rest = path[1:].partition("/")
        is_shared = name in PREFIXED and rest and path not in self.paths and f"/{rest}" not in self.paths
        return f"/{name}" if is_shared else ""

    def of_path(self, path: str) -> Errors:
        """Whose errors a path has, before anything of the body is known."""
        if path in self.paths:
            return self.paths[path].dialects[0].errors
        dialect = PREFIXED.get(path[1:].partition("/")[0])
        return dialect.errors if dialect else Errors()

    def of_body(self, path: str, body: Mapping[str, Any]) -> Dialect:
        """The dialect of a request: on /rerank what its body has says which."""
        _, (first, *others) = self.paths[path]
        return others[0] if others and "documents" in body and "texts" not in body else first
