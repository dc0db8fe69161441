"""What goes into the scheduler and what comes back: the one internal call of every dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossrank.errors import InputError
from crossrank.ranking import Scored

__all__ = ["LOWEST_PRIORITY", "Answer", "Work"]

LOWEST_PRIORITY = 999


@dataclass(frozen=True, slots=True)
class Work:
    """Pairs to score, and how.

    Attributes:
        pairs: (query, document), in the client's order.
        model: a served name; None: the first model.
        priority: 0 to 999, lower goes first.
        deadline: ``time.monotonic()`` seconds after which nobody waits for the answer; None: none.
        truncate: False: a pair that is longer than the window raises TooLongError.
        truncation_side: which end of a document that is too long is lost.
        max_tokens_per_document: a longer document is cut to it; None: only the window cuts.
        max_tokens_per_query: a longer query is cut to it.
        max_tokens_per_pair: a narrower window, special tokens included; the model's own where that
            is narrower.
        request_id: for logs.
        client: who asks. Clients take turns, and then the requests of each.

    Raises:
        InputError: a pair is not two strings, or the priority or a number of tokens is out of range.
    """

    pairs: Sequence[tuple[str, str]]
    model: str | None = None
    priority: int = 0
    deadline: float | None = None
    truncate: bool = True
    truncation_side: Literal["right", "left"] = "right"
    max_tokens_per_document: int | None = None
    max_tokens_per_query: int | None = None
    max_tokens_per_pair: int | None = None
    request_id: str = ""
    client: str = ""

    def __post_init__(self) -> None:
        for index, pair in enumerate(self.pairs):
            if not all(isinstance(text, str) for text in pair):
                kinds = ", ".join(type(text).__name__ for text in pair)
                raise InputError(f"pair {index} is ({kinds}); it must be two strings")
        if not 0 <= self.priority <= LOWEST_PRIORITY:
            raise InputError(f"priority is {self.priority}; it must be 0 (first) to {LOWEST_PRIORITY}")
        for name in ("max_tokens_per_document", "max_tokens_per_query", "max_tokens_per_pair"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Answer:
    """The logits of one Work.

    Attributes:
        model: the served name of the model that scored.
        logits: float32 (n,), in the client's order, all finite.
        truncated: for each pair, whether it was cut.
        tokens: of each pair as scored, special tokens included.
        cached: pairs that the score cache answered.
        tokenization_s: seconds of tokenising, summed over the request's slices.
        queue_s: seconds in which the request had pairs waiting and none in the engine.
        inference_s: seconds in which the engine ran packs with pairs of this request.
    """

    model: str
    logits: npt.NDArray[np.float32]
    truncated: list[bool]
    tokens: list[int]
    cached: int = 0
    tokenization_s: float = 0.0
    queue_s: float = 0.0
    inference_s: float = 0.0

    @property
    def scored(self) -> Scored:
        """Its logits, and what they are worth."""
        return Scored(self.logits, self.truncated)
