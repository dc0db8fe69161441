"""Scores that authors published for their models, and how far a model is from them as it is loaded here.

golden.json has the pairs and the scores, each with where it was published and when it was read there.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crossrank.errors import InputError
from crossrank.ranking import Scored

__all__ = ["Compared", "Published", "compare", "known_models", "published_scores", "tolerance_of"]

_FILE = Path(__file__).parent / "golden.json"

_TOLERANCES = {"fp32": 0.0, "fp16": 0.05, "bf16": 0.3, "int8": 1.0}
"""By how much a logit may differ in a precision, beyond the tolerance of what was published."""


@dataclass(frozen=True, slots=True)
class Published:
    """Scores of a model for some pairs.

    Attributes:
        pairs: queries and documents.
        scores: one for each pair, as it was published.
        kind: whether a score is a logit or its sigmoid.
        precision: what it was computed in; "unknown": the source does not say.
        decimals: to how many places the scores are rounded.
        tolerance: by how much a logit in fp32 may differ from the published one.
        source: where it was published.
        read: when it was read there.
        template: False: the texts were joined without the model's template, so the scores are not
            right ones; they show that a server has lost the template.
    """

    pairs: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]
    kind: Literal["logit", "sigmoid"]
    precision: str
    decimals: int
    tolerance: float
    source: str
    read: str
    template: bool = True

    def bounds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The lowest and the highest logits that are rounded to the published scores."""
        half = 0.5 * 10.0**-self.decimals
        scores = np.asarray(self.scores, np.float64)
        if self.kind == "logit":
            return scores - half, scores + half
        with np.errstate(divide="ignore"):  # a score of 1 may be that of any large logit
            low, high = (np.clip(scores + error, 0.0, 1.0) for error in (-half, half))
            return np.log(low) - np.log1p(-low), np.log(high) - np.log1p(-high)


@dataclass(frozen=True, slots=True)
class Compared:
    """A published score beside the one that was computed here.

    Attributes:
        query, document: the pair.
        kind: whether both scores are logits or sigmoids.
        published, found: the scores.
        difference: of the logits; of a rounded score, from the nearest logit that has it.
        tolerance: the largest difference that is right.
        source: where it was published.
    """

    query: str
    document: str
    kind: Literal["logit", "sigmoid"]
    published: float
    found: float
    difference: float
    tolerance: float
    source: str

    @property
    def right(self) -> bool:
        """Whether the difference is within the tolerance. A NaN is not."""
        return bool(self.difference <= self.tolerance)


def known_models() -> list[str]:
    """The models whose scores are known, by the names that their authors gave them."""
    return [model["names"][0] for model in _contents()["models"]]


def published_scores(model: str, *, template: bool = True) -> list[Published]:
    """What was published for a model.

    Args:
        model: a hub name, its last part, or a folder of that name.
        template: False: scores without the model's template.

    Raises:
        InputError: nothing is known of the model.
    """
    contents = _contents()
    for known in contents["models"]:
        if any(_is_same(model, name) for name in known["names"]):
            found = [_read(contents["texts"], row) for row in known["published"]]
            return [published for published in found if published.template == template]
    if any(_is_same(model, name) for name in contents["nothing_found"]):
        raise InputError(f"no scores of {model} are known: its authors' pages were searched and have none")
    names = {name.rpartition("/")[2].lower(): name for name in known_models()}
    near = difflib.get_close_matches(model.rstrip("/").rpartition("/")[2].lower(), names, n=3)
    like = ", ".join(names[name] for name in near) or "BAAI/bge-reranker-v2-m3"
    raise InputError(
        f"no published scores of {model} are known; there are scores of {len(names)} models, such as {like}"
    )


def tolerance_of(published: Published, precision: str) -> float:
    """The largest right difference of a logit.

    Args:
        published: what is compared with.
        precision: what the model here computes in.
    """
    return published.tolerance + _TOLERANCES.get(precision, _TOLERANCES["int8"])


def compare(
    published: Published, logits: npt.NDArray[np.floating[Any]] | Sequence[float], precision: str
) -> list[Compared]:
    """Each published score beside the logit that was computed for its pair in a precision."""
    found = np.asarray(logits, np.float64)
    low, high = published.bounds()
    differences = np.maximum(0.0, np.maximum(low - found, found - high))
    shown = found if published.kind == "logit" else Scored(logits).scores
    tolerance = tolerance_of(published, precision)
    rows = zip(published.pairs, published.scores, shown.tolist(), differences.tolist(), strict=True)
    return [
        Compared(*pair, published.kind, score, value, difference, tolerance, published.source)
        for pair, score, value, difference in rows
    ]


@cache
def _contents() -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return contents


def _is_same(model: str, name: str) -> bool:
    """Whether a user's word for a model can mean a published one: its name, or the end of it."""
    given, known = model.rstrip("/").lower(), name.lower()
    return given == known or given.rpartition("/")[2] == known.rpartition("/")[2]


def _read(texts: dict[str, Any], row: dict[str, Any]) -> Published:
    own = texts[row["texts"]]
    pairs = own.get("pairs") or [[own["query"], document] for document in own["documents"]]
    return Published(
        pairs=tuple((query, document) for query, document in pairs),
        scores=tuple(row["scores"]),
        kind=row["kind"],
        precision=row["precision"],
        decimals=row["decimals"],
        tolerance=row["tolerance"],
        source=row["source"],
        read=row["read"],
        template=row.get("template", True),
    )
