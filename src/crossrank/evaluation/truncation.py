"""What of a long query or document a server does not read. Nothing here asks a server or runs a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossrank.evaluation.diagnose import RIGHT, Kind, as_logits
from crossrank.evaluation.findings import Finding, Level

__all__ = ["Cut", "judge_cut", "judge_query_end", "read_cut", "read_window"]

_Floats = npt.NDArray[np.float64]

_SAME = 0.005
"""The largest difference of two logits of the same tokens."""

Cut = Literal["end", "start", "query", "nothing", "unclear"]
"""What of a pair that is too long was not read: the document's end, its start, the query, or nothing."""


def _differ(left: float, right: float, kind: Kind) -> bool:
    """Whether two scores are of different token ids, as far as rounding lets one tell."""
    one, other = as_logits([left, right], kind)
    return left != right and not abs(one - other) <= _SAME


def read_cut(plain: float, front: float, back: float, of_another: tuple[float, float], kind: Kind) -> Cut:
    """What a server did not read of a pair that is too long.

    Args:
        plain: the score of a long document that says nothing of the query.
        front, back: the same with the answer before it, and behind it.
        of_another: the scores of these two for another query.
        kind: of the scores.
    """
    if not _differ(front, of_another[0], kind) and not _differ(back, of_another[1], kind):
        return "query"
    starts, ends = _differ(front, plain, kind), _differ(back, plain, kind)
    if starts and ends:
        return "nothing"
    return "end" if starts else "start" if ends else "unclear"


def read_window(
    observed: Sequence[float], expected: Mapping[tuple[str, int], _Floats], kind: Kind, tolerance: float
) -> list[tuple[str, int]]:
    """In which ways a pair may have been cut.

    Args:
        observed: the scores of long documents.
        expected: for each way and each window, their logits.
        kind: of the scores.
        tolerance: the largest difference of a logit.

    Returns:
        The ways and windows that fit, the best first.
    """
    logits = as_logits(observed, kind)
    there = np.isfinite(logits)
    if not there.any():
        return []
    fits = {way: float(np.abs(logits - own)[there].max()) for way, own in expected.items()}
    return sorted((way for way, off in fits.items() if off <= tolerance), key=fits.__getitem__)


def judge_cut(
    cut: Cut,
    ways: Sequence[tuple[str, int]],
    tokens: int,
    *,
    forbidden: str = "",
    asked: str = "",
    compared: bool = False,
) -> Finding:
    """Whether a document that is too long is cut at its end, and nothing else.

    Args:
        cut: what was not read.
        ways: as ``read_window`` gives them; "" is the right one, with a window.
        tokens: of the document, about.
        forbidden: what the server said where a request does not ask for truncation; "": it cut.
        asked: what a request says to ask for it.
        compared: ``ways`` were looked for.
    """
    subject, named = "Truncation", f"a document of about {tokens:,} tokens"
    if forbidden and not asked:
        return Finding(
            subject, Level.ERROR, f"{named} is cut nowhere and is an error: {forbidden}", "let the server cut"
        )
    if cut == "query":
        return Finding(
            subject,
            Level.ERROR,
            f"the query is cut: with {named} the score is the same for any query",
            "truncate the document alone (only_second), at its end",
        )
    if cut == "start":
        return Finding(
            subject,
            Level.ERROR,
            f"{named} is cut at its start: what stands there does not count",
            "truncate the document on the right",
        )
    if ways and ways[0][0] != RIGHT and not any(how == RIGHT for how, _ in ways):
        how, window = ways[0]
        return Finding(
            subject, Level.ERROR, f"{how}, at {window} tokens", "cut the document, never the template"
        )
    if cut == "unclear":
        return Finding(
            subject,
            Level.WARNING,
            f"what is cut of {named} cannot be told: its score is the same with and without the answer",
        )
    right = next((window for how, window in ways if how == RIGHT), None)
    at = f" at {right} tokens" if right is not None and cut == "end" else ""
    if cut == "nothing":
        return Finding(subject, Level.OK, f"{named} is read to its end")
    found = f"{named} is cut at its end{at}"
    if forbidden:
        return Finding(
            subject,
            Level.WARNING,
            f"{named} is an error unless a request says {asked}; then it is cut at its end{at}",
            f"send {asked}, so that one long document does not fail a request",
        )
    if compared and right is None:
        return Finding(
            subject,
            Level.WARNING,
            f"{found}, though not as this machine's model reads it at 128 to 1,024 tokens",
            "what stands behind the document may be cut, or the window is another one",
        )
    return Finding(subject, Level.OK, found)


def judge_query_end(first: float, second: float, kind: Kind, tokens: int) -> Finding:
    """Whether the end of a query that fits is read.

    Args:
        first, second: the scores of a document for two queries that differ at their ends alone.
        kind: of the scores.
        tokens: of the queries, about.
    """
    if _differ(first, second, kind):
        return Finding("Query", Level.OK, f"a query of about {tokens} tokens is read to its end")
    return Finding(
        "Query",
        Level.ERROR,
        f"the query is cut: what stands at the end of one of about {tokens} tokens does not count",
        "give the query half of the window, as it decides about every document",
    )
