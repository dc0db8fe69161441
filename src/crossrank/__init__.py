"""CrossRank: rerank search results with cross-encoders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crossrank.errors import (
    CheckpointError,
    CrossRankError,
    DeadlineError,
    EngineError,
    InputError,
    MissingLibraryError,
    ModelError,
    ModelNotFoundError,
    NonFiniteLogitError,
    OutOfMemoryError,
    OverloadedError,
    ServiceError,
    TooLongError,
    UnavailableError,
    UnknownModelError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from crossrank.explain import ExplainedSentence, Explanation
    from crossrank.ranking import RankedDocument, Ranking, ScoredPair
    from crossrank.reranker import Reranker
else:
    # These are imported when they are used, since they need numpy, which help pages and clients do not need.
    _HOMES = {
        "ExplainedSentence": "explain",
        "Explanation": "explain",
        "RankedDocument": "ranking",
        "Ranking": "ranking",
        "Reranker": "reranker",
        "ScoredPair": "ranking",
    }

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})


__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "CrossRankError",
    "DeadlineError",
    "EngineError",
    "ExplainedSentence",
    "Explanation",
    "InputError",
    "MissingLibraryError",
    "ModelError",
    "ModelNotFoundError",
    "NonFiniteLogitError",
    "OutOfMemoryError",
    "OverloadedError",
    "RankedDocument",
    "Ranking",
    "Reranker",
    "ScoredPair",
    "ServiceError",
    "TooLongError",
    "UnavailableError",
    "UnknownModelError",
    "UnsupportedModelError",
]
