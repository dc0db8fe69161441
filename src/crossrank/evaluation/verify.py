"""What a precision costs: a model's answers in it against its answers in fp32, on the same questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossrank.engines import Engine
from crossrank.errors import InputError
from crossrank.ranking import Scored
from crossrank.reranker import Reranker

__all__ = ["TOP", "Cost", "Question", "Verification", "kendall", "sample_questions", "verify"]

TOP = (1, 3, 10)
"""The k of top-k agreement."""

_Floats = npt.NDArray[np.float64]

# Real ones in eight languages; training/sample.py chose them, NOTICE says whose they are.
_SAMPLE = Path(__file__).parent / "verify.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """A query and its candidate documents.

    Attributes:
        query: what is asked.
        documents: the candidates.
        labels: for each document how good it is, 0 for not at all; None: nobody knows.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a precision costs against fp32. What nothing could be computed from is None.

    Attributes:
        precision: of the encoder's arithmetic.
        logit_max, logit_mean: the largest and the mean difference of a logit, without its sign.
        score_max, score_mean: the same of a score, which is between 0 and 1.
        tau: Kendall's tau-b between the two orders of a question's documents, the mean over
            questions with two documents or more.
        agreement: for each k of ``TOP``, the share of fp32's best k documents that are among the
            best k here too, the mean over questions with more than k documents.
        ndcg: nDCG@10 here, the mean over questions with a label above 0.
    """

    precision: str
    logit_max: float
    logit_mean: float
    score_max: float
    score_mean: float
    tau: float | None
    agreement: dict[int, float | None]
    ndcg: float | None


@dataclass(frozen=True, slots=True)
class Verification:
    """The costs of a model's precisions, and what they were measured on.

    Attributes:
        engine, device: what ran.
        questions, pairs: how many.
        ndcg: nDCG@10 of fp32; None: no labels.
        costs: one for each precision.
    """

    engine: str
    device: str
    questions: int
    pairs: int
    ndcg: float | None
    costs: tuple[Cost, ...]


def sample_questions() -> list[Question]:
    """Questions that come with the package: 19 in eight languages, 12 candidates each, with labels."""
    rows = map(json.loads, _SAMPLE.read_text(encoding="utf-8").splitlines())
    return [Question(row["query"], tuple(row["documents"]), tuple(row["labels"])) for row in rows]


def verify(
    load: Callable[[str], Reranker], questions: Sequence[Question], precisions: Sequence[str] | None = None
) -> Verification:
    """Score the questions in fp32 and in other precisions, one model in memory at a time.

    Args:
        load: a precision -> the reranker that works in it.
        questions: at least one, with a document each.
        precisions: which to compare with fp32; None: all others of the engine that runs fp32.

    Raises:
        InputError: there is nothing to score, or a label is below 0.
        ModelError, EngineError: as ``Reranker`` and ``Reranker.logits``.
    """
    pairs = [(question.query, text) for question in questions for text in question.documents]
    if not pairs:
        raise InputError("no pairs to verify with")
    for question in questions:
        if question.labels is not None and min(question.labels) < 0:
            raise InputError(f"a label of the query {question.query!r} is below 0; 0 is the worst")
    reranker = load("fp32")
    engine = reranker.engine
    exact = reranker.logits(pairs).astype(np.float64)
    del reranker
    costs = []
    for precision in precisions if precisions is not None else _other_precisions(engine):
        reranker = load(precision)
        found = reranker.logits(pairs).astype(np.float64)
        costs.append(_cost(reranker.engine.precision, questions, exact, found))
        del reranker
    ndcg = _mean([_ndcg(own, question) for question, own in _split(questions, exact)])
    return Verification(engine.name, engine.device, len(questions), len(pairs), ndcg, tuple(costs))


def _other_precisions(engine: Engine) -> tuple[str, ...]:
    if engine.device != "cpu":
        return ("fp16", "bf16")
    return ("bf16", "int8") if engine.name == "native" else ("bf16",)


def _split(questions: Sequence[Question], values: _Floats) -> list[tuple[Question, _Floats]]:
    ends = np.cumsum([len(question.documents) for question in questions])[:-1]
    return list(zip(questions, np.split(values, ends), strict=True))


def _cost(precision: str, questions: Sequence[Question], exact: _Floats, found: _Floats) -> Cost:
    logits = np.abs(found - exact)
    scores = np.abs(Scored(found).scores - Scored(exact).scores)
    parts = [
        (question, here, there)
        for (question, here), (_, there) in zip(
            _split(questions, found), _split(questions, exact), strict=True
        )
    ]
    return Cost(
        precision,
        logit_max=float(logits.max()),
        logit_mean=float(logits.mean()),
        score_max=float(scores.max()),
        score_mean=float(scores.mean()),
        tau=_mean([kendall(here, there) for _, here, there in parts]),
        agreement={k: _mean([_agreement(here, there, k) for _, here, there in parts]) for k in TOP},
        ndcg=_mean([_ndcg(here, question) for question, here, _ in parts]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def kendall(left: _Floats, right: _Floats) -> float | None:
    """Kendall's tau-b of two lists of numbers for the same things: 1 the same order, -1 the reverse.

    (C - D) / sqrt((N - T) (N - U)) over all N pairs of things: C stand in the same order in both
    lists, D in the other, T are equal on the left and U on the right (Kendall 1945, The treatment
    of ties in ranking problems, Biometrika 33). Tau-a, (C - D) / N, would count two equal documents
    as a difference. None: one list is all equal, or of fewer than two numbers.
    """
    i, j = np.triu_indices(len(left), 1)
    one, other = np.sign(left[i] - left[j]), np.sign(right[i] - right[j])
    untied = float(np.abs(one).sum() * np.abs(other).sum())
    return float((one * other).sum()) / untied**0.5 if untied else None


def _order(logits: _Floats) -> npt.NDArray[np.intp]:
    return np.argsort(-logits, kind="stable")


def _agreement(here: _Floats, there: _Floats, k: int) -> float | None:
    if len(here) <= k:
        return None
    return len(set(_order(here)[:k].tolist()) & set(_order(there)[:k].tolist())) / k


def _ndcg(logits: _Floats, question: Question) -> float | None:
    """nDCG@10 with the labels as gains (Järvelin and Kekäläinen 2002, ACM TOIS 20 (4))."""
    if question.labels is None or max(question.labels) == 0:
        return None
    discount = 1 / np.log2(np.arange(2, 12))
    gains = np.asarray(question.labels, np.float64)
    best, found = np.sort(gains)[::-1][:10], gains[_order(logits)][:10]
    return float((found * discount[: len(found)]).sum() / (best * discount[: len(best)]).sum())
