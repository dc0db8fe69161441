"""What a server's scores say of how they were computed. Nothing here asks a server or runs a model.

Each function takes observed scores and gives a finding, or what a finding is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from crossrank.evaluation.findings import Finding, Level
from crossrank.evaluation.verify import kendall

__all__ = [
    "EXACT",
    "RIGHT",
    "Kind",
    "Reading",
    "as_logits",
    "changed",
    "judge_neighbours",
    "judge_numbers",
    "judge_order",
    "judge_scores",
    "judge_ties",
    "number_format",
    "read_scores",
]

_Floats = npt.NDArray[np.float64]

RIGHT = ""
"""How a pair is read as the model was trained: the first name of what observed scores are compared with."""

_FAR, _FEW = 0.6, 8
"""The largest median difference of logits that are still those of the same model, in int8 perhaps; and the
number of scores below which they are not fitted by a line."""

_FP32, _HALF, _INT8 = 0.01, 0.15, 1.0
"""Differences of logits that fp32, 16-bit floats and int8 explain."""

_NEIGHBOURS = 0.05
"""The largest difference of a pair's logit that a batch in 16-bit floats explains."""

_TIED = 0.25
"""The share of candidates with equal scores from which the order is no longer the model's."""

Kind = Literal[
    "logit", "sigmoid", "sigmoid of the sigmoid", "softmax", "line", "sigmoid of a line", "unknown"
]


def _logit(scores: _Floats) -> _Floats:
    """The logits of sigmoids; NaN where there is none, or where it is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: _Floats = np.log(scores) - np.log1p(-scores)
    found[~np.isfinite(found)] = np.nan
    return found


_INVERSES: Mapping[Kind, Callable[[_Floats], _Floats]] = {
    "logit": lambda scores: scores.copy(),
    "sigmoid": _logit,
    "sigmoid of the sigmoid": lambda scores: _logit(_logit(scores)),
}

EXACT = tuple(_INVERSES)
"""Kinds of scores that give their logits."""


def as_logits(scores: Sequence[float] | _Floats, kind: Kind) -> _Floats:
    """Scores as logits, as far as their kind allows: of an unknown kind by their range."""
    values = np.asarray(scores, np.float64)
    if kind not in _INVERSES:
        known = values[np.isfinite(values)]
        kind = "sigmoid" if known.size and known.min() >= 0 and known.max() <= 1 else "logit"
    return _INVERSES[kind](values)


@dataclass(frozen=True, slots=True)
class Reading:
    """What observed scores are of the expected logits.

    Attributes:
        how: the name of the expected logits that fit best; ``RIGHT`` if none does.
        kind: what the scores are of them.
        typical, largest: the 50th and the 95th percentile of the differences of logits.
        tau: Kendall's tau-b between the observed order and that of the right logits, the mean over
            requests; None: there is no order.
        line: of kinds with a line, its slope and its intercept.
    """

    how: str
    kind: Kind
    typical: float
    largest: float
    tau: float | None
    line: tuple[float, float] | None = None


def read_scores(expected: Mapping[str, Sequence[tuple[_Floats, _Floats]]], *, far: float = _FAR) -> Reading:
    """Find out what scores are, and of which logits.

    Args:
        expected: for each way to read a pair, the scores that were observed and the logits that were
            expected, request by request. ``RIGHT`` is one of them.
        far: the largest median difference of logits that are the same.
    """
    fits = [
        (*fit, how, kind)
        for how, requests in expected.items()
        for kind in (*_INVERSES, "softmax")
        if (fit := _fit(requests, kind)) is not None
    ]
    taus = [kendall(scores, logits) for scores, logits in expected[RIGHT] if len(scores) > 1]
    known = [tau for tau in taus if tau is not None]
    tau = float(np.mean(known)) if known else None
    # Another way to read a pair must fit clearly better than the right one, not by chance.
    fits.sort(key=lambda fit: fit[0] * (1 if fit[2] == RIGHT else 2))
    spread = np.concatenate([logits for _, logits in expected[RIGHT]])
    far = min(far, 0.2 * float(spread.std())) if len(spread) >= _FEW else far
    if fits and fits[0][0] <= far:
        typical, largest, how, kind = fits[0]
        return Reading(how, kind, typical, largest, tau)
    observed = np.concatenate([scores for scores, _ in expected[RIGHT]])
    straight, bent = _line(spread, observed), _line(spread, _logit(observed.copy()))
    if straight is not None and (bent is None or straight > bent):
        return Reading(RIGHT, "line", np.nan, np.nan, tau, straight[1:])
    if bent is not None:
        return Reading(RIGHT, "sigmoid of a line", np.nan, np.nan, tau, bent[1:])
    return Reading(RIGHT, "unknown", np.nan, np.nan, tau)


def _fit(requests: Sequence[tuple[_Floats, _Floats]], kind: Kind) -> tuple[float, float] | None:
    """The 50th and the 95th percentile of differences of logits; None: scores of this kind look otherwise."""
    differences: list[_Floats] = []
    for scores, logits in requests:
        if kind == "softmax":
            if len(scores) < 2 or not abs(np.nansum(scores) - 1) < 0.01 or np.nanmin(scores) <= 0:
                return None
            found = np.log(scores)
            found += np.nanmean(logits - found)
        else:
            found = _INVERSES[kind](scores)
        differences.append(np.abs(found - logits))
    every = np.concatenate(differences)
    finite = every[np.isfinite(every)]
    if not len(finite) or len(finite) < 0.5 * len(every):
        return None
    typical, largest = np.percentile(finite, (50, 95))
    return float(typical), float(largest)


def _line(logits: _Floats, values: _Floats) -> tuple[float, float, float] | None:
    """How well values follow logits by a line, its slope and its intercept; None: they do not, to 0.5 %."""
    there = np.isfinite(values)
    if there.sum() < max(_FEW, 0.5 * len(values)) or np.ptp(logits[there]) == 0 or np.ptp(values[there]) == 0:
        return None
    explained = float(np.corrcoef(logits[there], values[there])[0, 1] ** 2)
    slope, intercept = np.polyfit(logits[there], values[there], 1)
    return (explained, float(slope), float(intercept)) if explained >= 0.995 else None


def judge_scores(reading: Reading, reference: str) -> Finding:
    """Whether scores are right ones.

    Args:
        reading: what was read of them.
        reference: what they were compared with, as "this machine's model in fp32".
    """
    subject, tau = "Scores", "" if reading.tau is None else f" (Kendall's tau {reading.tau:.2f})"
    if reading.how != RIGHT:
        return Finding(
            subject,
            Level.ERROR,
            f"{reading.how}: that is how the observed scores come about, to {reading.typical:.2g} in the "
            f"logit{tau}",
            "give the server the model's template and its own tokenizer.json",
        )
    if reading.kind == "unknown":
        return _judge_unknown(reading, reference)
    if reading.line is not None:
        slope, intercept = reading.line
        of = f"{slope:.3g} * logit {intercept:+.3g}"
        found = f"the sigmoid of {of}" if reading.kind == "sigmoid of a line" else of
        level = Level.WARNING if slope > 0 else Level.ERROR
        return Finding(
            subject,
            level,
            f"{found}{'' if slope > 0 else ': the order is the reverse'}{tau}",
            "thresholds that were chosen for the model's own scores do not hold",
        )
    differs = f"95 of 100 logits within {reading.largest:.4f} of {reference}, half of them within "
    differs += f"{reading.typical:.4f}"
    if reading.kind == "sigmoid of the sigmoid":
        return Finding(
            subject,
            Level.ERROR,
            f"the sigmoid of the sigmoid: all are between 0.5 and 0.73 ({differs})",
            "the model's config or the server applies one already; apply it once",
        )
    if reading.kind == "softmax":
        return Finding(
            subject,
            Level.WARNING,
            f"a softmax over the documents of a request: they add up to 1 ({differs})",
            "a score depends on the other documents; no threshold can hold",
        )
    what = "raw logits" if reading.kind == "logit" else "sigmoids of the logits"
    if reading.largest > _INT8:
        return Finding(
            subject,
            Level.ERROR,
            f"{what}, but only {differs}",
            "no precision explains that: compare the model's files and its revision",
        )
    like = "fp32" if reading.largest <= _FP32 else "16-bit floats" if reading.largest <= _HALF else "int8"
    return Finding(subject, Level.OK, f"{what}; {differs}, as in {like}")


def _judge_unknown(reading: Reading, reference: str) -> Finding:
    subject, tau = "Scores", reading.tau
    if tau is None or -0.5 < tau < 0.9:
        how = "" if tau is None else f" (Kendall's tau {tau:.2f}: the order differs)"
        return Finding(
            subject,
            Level.ERROR,
            f"neither logits nor sigmoids of {reference}{how}",
            "the server has another model, or reads pairs otherwise: its template may be missing",
        )
    if tau < 0:
        return Finding(
            subject, Level.ERROR, f"the worst first (Kendall's tau {tau:.2f})", "they may be distances"
        )
    return Finding(
        subject,
        Level.WARNING,
        f"in the model's order (Kendall's tau {tau:.2f}), but neither logits nor sigmoids",
        "thresholds that were chosen for the model's own scores do not hold",
    )


def judge_numbers(scores: Sequence[float]) -> Finding:
    """Whether all scores are numbers."""
    bad = sum(not np.isfinite(score) for score in scores)
    if not bad:
        return Finding("Numbers", Level.OK, f"all of {len(scores)} are finite")
    return Finding(
        "Numbers",
        Level.ERROR,
        f"{bad} of {len(scores)} scores are NaN, infinite, or no number",
        "the model overflows in this precision, or its weights are damaged: use fp32 or bf16",
    )


def judge_order(requests: Sequence[tuple[Sequence[float], Sequence[int]]]) -> Finding:
    """Whether answers are in the order of their own scores, best first.

    Args:
        requests: of each one, its scores and the indices in the order of the answer.
    """
    wrong = 0
    for scores, order in requests:
        given = np.asarray(scores, np.float64)[list(order)]
        given = given[np.isfinite(given)]
        wrong += bool((np.diff(given) > 0).any())
    if not wrong:
        return Finding("Order", Level.OK, "answers are in the order of their scores, best first")
    return Finding(
        "Order",
        Level.ERROR,
        f"{wrong} of {len(requests)} answers are not in the order of their own scores",
        "sort by the score, or by its reverse if a high one is bad",
    )


def number_format(scores: Sequence[float]) -> str:
    """What few digits scores have: "fp16", "bf16" or "4 decimals"; "": they have many."""
    values = np.asarray(scores, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    for decimals in range(1, 6):
        if (np.abs(values.round(decimals) - values) < 1e-12).all():
            return f"{decimals} decimals"
    single = values.astype(np.float32)
    if ((single.view(np.uint32) & 0xFFFF) == 0).all() and (single == values).all():
        return "bf16"
    with np.errstate(over="ignore"):
        return "fp16" if (values.astype(np.float16).astype(np.float64) == values).all() else ""


def judge_ties(scores: Sequence[float]) -> Finding:
    """Whether candidates of one request, whose texts all differ, share scores."""
    finite = np.asarray(scores, np.float64)
    values, counts = np.unique(finite[np.isfinite(finite)], return_counts=True)
    tied = int(counts[counts > 1].sum())
    form = number_format(scores)
    if not tied:
        digits = f", although they are numbers of {form}" if form else ""
        return Finding("Ties", Level.OK, f"the scores of {len(scores)} similar documents all differ{digits}")
    top = values[counts > 1].max()
    saturated = f", {counts[values == top][0]} of them at {top:.6g}" if top > 0.99 and top <= 1 else ""
    digits = f": they are numbers of {form}" if form else ""
    return Finding(
        "Ties",
        Level.ERROR if tied >= _TIED * len(scores) else Level.WARNING,
        f"{tied} of {len(scores)} similar documents share their scores{saturated}{digits}",
        "order by the logit, or compute the sigmoid in fp32 or better",
    )


def changed(left: Sequence[float], right: Sequence[float], kind: Kind) -> float:
    """The largest difference of logits of the same pairs, where scores are not too near 0 or 1 to tell."""
    differences = np.abs(as_logits(left, kind) - as_logits(right, kind))
    if kind in ("sigmoid", "unknown"):
        middle = np.asarray(left, np.float64)
        differences[(middle <= 1e-3) & (middle >= 0) | (middle >= 0.999) & (middle <= 1)] = np.nan
    finite = differences[np.isfinite(differences)]
    return float(finite.max()) if len(finite) else 0.0


def judge_neighbours(
    alone: Sequence[float], beside_short: Sequence[float], beside_long: Sequence[float], kind: Kind
) -> Finding:
    """Whether a pair's score depends on the other documents of its request.

    Args:
        alone: the score of each document in a request of its own.
        beside_short: of each in a request with all the others.
        beside_long: of each in the same request, with a long document.
        kind: of the scores.
    """
    short, long = changed(alone, beside_short, kind), changed(alone, beside_long, kind)
    if max(short, long) <= _NEIGHBOURS:
        return Finding(
            "Padding", Level.OK, f"a document has the same score alone and beside a long one (to {long:.2g})"
        )
    if long < 3 * short:
        return Finding(
            "Padding",
            Level.ERROR,
            f"scores depend on the other documents of a request, by {max(short, long):.2g} in the logit",
            "they are normalised over the request, or padding is not masked",
        )
    return Finding(
        "Padding",
        Level.ERROR,
        f"padding changes scores: beside a long document by {long:.2g} in the logit",
        "mask the padding in the attention and number positions from the first token, or do not pad",
    )
