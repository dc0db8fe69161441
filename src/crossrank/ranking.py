"""Logits to an ordered list of scored documents.

Only this module knows about sigmoid, order, ties, top_n and thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from crossrank.errors import NonFiniteLogitError
from crossrank.inputs import Request, check_integer, check_number

__all__ = [
    "BLANK_LOGIT",
    "RankedDocument",
    "Ranking",
    "Scored",
    "ScoredPair",
    "best_pairs",
    "check_options",
    "is_blank",
    "sigmoid",
]

BLANK_LOGIT = -100.0
"""The logit of a blank document in a ranking. Its score is 0, and no model gives a document with words a
logit near it."""

_SHOWN, _SHOWN_CHARACTERS = 3, 60
"""Hits, and characters of a text, in a ``repr``."""

_WORD_CHARACTER = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking.

    Attributes:
        rank: its place in the ranking; 1 is best.
        index: its place in the caller's list, from 0.
        score: the sigmoid of the logit, between 0 and 1.
        logit: the model's output, by which documents are ordered.
        truncated: whether the model read only a part of the document, as it does not fit.
        text: the whole text, cut or not.
        fields: the other fields of a document that was a mapping.
        blank: the text has no letter and no digit, so the document ranks below every other one. Its logit is
            ``BLANK_LOGIT``, as no model is trained on such texts and its output for them is noise.
        query_truncated: whether the query was cut to fit the model's window.
        model: the name of the model that scored it, where there are two; see ``Reranker``'s ``first``.
        window: which characters of the text the score is of, from and up to, where the document was read in
            windows: those of the best one. None: it was read as a whole, or cut.
    """

    rank: int
    index: int
    score: float
    logit: float
    truncated: bool
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    blank: bool = False
    query_truncated: bool = False
    model: str | None = None
    window: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return (
            f"RankedDocument(rank={self.rank}, index={self.index}, score={self.score:.4f}, "
            f"text={_shortened(self.text)!r})"
        )

    @property
    def sort_value(self) -> float:
        """A number for programs that sort hits by one, highest first: the logit, or minus the rank where two
        models have scored, as logits of both cannot be sorted together.
        """
        return self.logit if self.model is None else -float(self.rank)

    def to_dict(self) -> dict[str, Any]:
        """All attributes that are not None; JSON can hold them if it can hold ``fields``."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: x for name, x in values.items() if x is not None} | {"fields": dict(self.fields)}


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """The score of one (query, document) pair.

    Attributes:
        score: the sigmoid of the logit, between 0 and 1.
        logit: the model's output.
        truncated: whether the model read only a part of the document, as it does not fit.
        query_truncated: whether the query was cut.
        window: as a ``RankedDocument`` has it.
    """

    score: float
    logit: float
    truncated: bool
    query_truncated: bool = False
    window: tuple[int, int] | None = None


class Ranking(Sequence[RankedDocument]):
    """Documents of one query, best first: an immutable sequence."""

    def __init__(self, query: str, hits: Sequence[RankedDocument]) -> None:
        self.query = query
        self._hits = tuple(hits)

    @overload
    def __getitem__(self, place: int) -> RankedDocument: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[RankedDocument]: ...
    def __getitem__(self, place: int | slice) -> RankedDocument | Sequence[RankedDocument]:
        return self._hits[place]

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[RankedDocument]:
        return iter(self._hits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranking):
            return NotImplemented
        return self.query == other.query and self._hits == other._hits

    __hash__ = None  # type: ignore[assignment]

    @property
    def scores(self) -> list[float]:
        """The score of each hit, best first."""
        return [hit.score for hit in self._hits]

    @property
    def indices(self) -> list[int]:
        """The place of each hit in the caller's list, best first."""
        return [hit.index for hit in self._hits]

    def to_dict(self) -> dict[str, Any]:
        """``{"query", "results"}``, with ``RankedDocument.to_dict`` of each hit."""
        return {"query": self.query, "results": [hit.to_dict() for hit in self._hits]}

    def __repr__(self) -> str:
        shown = [repr(hit) for hit in self._hits[:_SHOWN]]
        if len(self) > _SHOWN:
            shown.append(f"... {len(self) - _SHOWN} more")
        return f"Ranking({_shortened(self.query)!r}, {len(self)} hits: [{', '.join(shown)}])"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)), in float64, as float32 has no number between 1 - 6e-8 and 1."""
    with np.errstate(over="ignore"):  # exp is infinite only if the score is below 1e-308
        return 1.0 / (1.0 + np.exp(-np.asarray(logits, np.float64)))


def is_blank(text: str) -> bool:
    """Whether a text has no letter and no digit of any script, such as "", "---", "…" or an emoji."""
    return _WORD_CHARACTER.search(text) is None


def check_options(
    top_n: int | None, threshold: float | None, names: tuple[str, str] = ("top_n", "threshold")
) -> None:
    """Raise InputError unless top_n is an integer of 0 or more, and threshold a number from 0 to 1.

    Args:
        top_n, threshold: the values; None is always allowed.
        names: their names in messages.
    """
    if top_n is not None:
        check_integer(names[0], top_n, least=0, hint=", or None for all")
    if threshold is not None:
        wanted = "a number between 0 and 1, as scores are"
        check_number(names[1], threshold, lambda number: 0 <= number <= 1, wanted)


def best_pairs(logits: npt.NDArray[np.float32], places: Sequence[range]) -> list[int]:
    """Which pair a document's logit is of: of those of its windows the best; of equal ones, the first.

    Args:
        logits: of all pairs.
        places: for each document, where among them its pairs are: at least one.

    Raises:
        NonFiniteLogitError: the logit of a document's pair is NaN or infinite.
    """
    finite = np.isfinite(logits)
    if not finite.all():  # the pair may be another request's
        for index, place in enumerate(places):
            for i in place:
                if not finite[i]:
                    raise NonFiniteLogitError(index, float(logits[i]))
    return [
        place.start + (int(logits[place.start : place.stop].argmax()) if len(place) > 1 else 0)
        for place in places
    ]


class Scored:
    """What a model says of pairs, in the caller's order.

    Args:
        logits: one for each pair.
        truncated: for each pair, whether the model read only a part of its document; None: of none.
        query_truncated: for each pair, whether its query was cut; None: none was.
        windows: for each pair, which characters of its document were read, where that was read in windows;
            (): none was.
        models: names of the models, where there are two, with the one first that decides.
        model_of: for each pair, which of the models scored it.

    Attributes:
        logits: float32 (n,), all finite.
        truncated, query_truncated: n times, whether the document or the query was cut.
        windows: n times, the best window, or None where there are none.
        models, model_of: as given; (): there is one model.

    Raises:
        NonFiniteLogitError: a logit is NaN or infinite.
    """

    __slots__ = ("_scores", "logits", "model_of", "models", "query_truncated", "truncated", "windows")

    def __init__(
        self,
        logits: npt.ArrayLike,
        truncated: Sequence[bool] | None = None,
        query_truncated: Sequence[bool] | None = None,
        *,
        windows: Sequence[tuple[int, int] | None] = (),
        models: Sequence[str] = (),
        model_of: Sequence[int] = (),
    ) -> None:
        self.logits: npt.NDArray[np.float32] = np.asarray(logits, np.float32)
        finite = np.isfinite(self.logits)
        if not finite.all():
            index = int(finite.argmin())
            raise NonFiniteLogitError(index, float(self.logits[index]))
        self.truncated = [False] * len(self) if truncated is None else truncated
        self.query_truncated = [False] * len(self) if query_truncated is None else query_truncated
        self.windows = windows or [None] * len(self)
        self.models = models
        self.model_of = model_of
        self._scores: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The sigmoid of each logit, between 0 and 1: float64 (n,)."""
        if self._scores is None:
            self._scores = sigmoid(self.logits)
        return self._scores

    def pairs(self) -> list[ScoredPair]:
        """The score, the logit and what was read, of each pair."""
        numbers, cuts = (self.scores.tolist(), self.logits.tolist()), (self.truncated, self.query_truncated)
        return [ScoredPair(*row) for row in zip(*numbers, *cuts, self.windows, strict=True)]

    def order(self, blank: Sequence[bool]) -> list[int]:
        """The places of the documents by logit, best first; equal logits keep their order.

        Those that the deciding model scored come before those of the other one, as logits of two models
        cannot be compared. Blank texts come last.

        Args:
            blank: for each document, whether its text is blank.
        """
        logits = self.logits.tolist()
        order = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)  # stable in reverse too
        if self.model_of:
            order.sort(key=self.model_of.__getitem__)
        return [i for i in order if not blank[i]] + [i for i, is_last in enumerate(blank) if is_last]

    def rank(self, request: Request, *, top_n: int | None = None, threshold: float | None = None) -> Ranking:
        """The documents in their order; see ``order``.

        Args:
            request: the query and the documents that were scored.
            top_n: how many to return; None: all, 0: none, more than there are: all.
            threshold: leave out documents with a score below it, and all that the deciding model did not
                score.

        Raises:
            InputError: as ``check_options``.
        """
        check_options(top_n, threshold)
        logits, scores = self.logits.tolist(), self.scores.tolist()
        blank = [is_blank(text) for text in request.texts]
        order = self.order(blank)
        if any(blank):
            logits = [BLANK_LOGIT if b else x for x, b in zip(logits, blank, strict=True)]
            scores = [0.0 if b else x for x, b in zip(scores, blank, strict=True)]
        model_of = self.model_of or [0] * len(self)
        if threshold is not None:
            order = [i for i in order if scores[i] >= threshold and model_of[i] == 0]
        hits = [
            RankedDocument(
                place,
                i,
                scores[i],
                logits[i],
                self.truncated[i],
                request.texts[i],
                request.fields[i] if request.fields else {},
                blank[i],
                self.query_truncated[i],
                self.models[model_of[i]] if self.models else None,
                self.windows[i],
            )
            for place, i in enumerate(order[:top_n], start=1)
        ]
        return Ranking(request.query, hits)
