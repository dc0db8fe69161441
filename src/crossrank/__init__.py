"""CrossRank: rerank search results with cross-encoders."""

from crossrank.errors import (
    CheckpointError,
    CrossRankError,
    EngineError,
    InputError,
    ModelError,
    ModelNotFoundError,
    NonFiniteLogitError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from crossrank.ranking import RankedDocument, Ranking
from crossrank.reranker import Reranker

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "CrossRankError",
    "EngineError",
    "InputError",
    "ModelError",
    "ModelNotFoundError",
    "NonFiniteLogitError",
    "OutOfMemoryError",
    "RankedDocument",
    "Ranking",
    "Reranker",
    "UnsupportedModelError",
]
