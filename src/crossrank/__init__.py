"""CrossRank: rerank search results with cross-encoders."""

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
from crossrank.explain import ExplainedSentence, Explanation
from crossrank.ranking import RankedDocument, Ranking, ScoredPair
from crossrank.reranker import Reranker

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
