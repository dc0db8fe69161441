"""Two models, one after the other: a small one thins the candidates, and a large one decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from crossrank.errors import InputError
from crossrank.ranking import Scored, is_blank

__all__ = ["KEEP", "SHARED", "check_keep", "choose", "joined", "kept"]

KEEP = 20
"""How many texts of a request the large model reads by default."""

SHARED = ("device", "threads", "source", "offline", "long", "max_windows", "progress")
"""Options of ``Reranker`` with which the small model is loaded, too, where it is only named."""


def check_keep(keep: object) -> None:
    """Raise InputError unless ``keep`` is an integer of 1 or more, or a share between 0 and 1."""
    if not isinstance(keep, bool):
        if isinstance(keep, Integral) and int(keep) >= 1:
            return
        if not isinstance(keep, Integral) and isinstance(keep, Real) and 0 < float(keep) < 1:
            return
    raise InputError(
        f"keep is {keep!r}; it must be an integer of 1 or more, or a share above 0 and below 1 "
        "(`crossrank cascade --tune` measures how many it takes)"
    )


def kept(texts: int, keep: float) -> int:
    """How many of so many texts the large model reads."""
    return min(texts, int(keep) if keep >= 1 else math.ceil(keep * texts))


def choose(first: Scored, texts: Sequence[str], keep: float) -> list[int]:
    """The places of the texts that the large model reads, in the caller's order.

    They are those that the first model puts first. Equal texts are chosen together and count once. Blank
    texts are never chosen, as they come last whatever their scores.

    Args:
        first: what the first model says of the texts.
        texts: the documents of a request.
        keep: how many texts, or their share, rounded up.
    """
    order = first.order([is_blank(text) for text in texts])
    ranked = dict.fromkeys(texts[i] for i in order if not is_blank(texts[i]))
    wanted = set(list(ranked)[: kept(len(ranked), keep)])
    return [i for i, text in enumerate(texts) if text in wanted]


def joined(first: Scored, chosen: Sequence[int], second: Scored, models: tuple[str, str]) -> Scored:
    """What both models say: of the chosen texts the second one, of the others the first one.

    Args:
        first: the scores of all texts.
        chosen: the places of those that the second model scored.
        second: their scores.
        models: the names of the first and of the second model.
    """
    logits, model_of = first.logits.copy(), [1] * len(first)
    truncated, query_truncated = list(first.truncated), list(first.query_truncated)
    windows = list(first.windows)
    for place, i in enumerate(chosen):
        logits[i], model_of[i] = second.logits[place], 0
        truncated[i], query_truncated[i] = second.truncated[place], second.query_truncated[place]
        windows[i] = second.windows[place]
    return Scored(logits, truncated, query_truncated, windows=windows, models=models[::-1], model_of=model_of)
