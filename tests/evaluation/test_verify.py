"""What a precision costs, on engines whose cost is known, and against scipy and ir-measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import scipy.stats

from crossrank import InputError, Reranker
from crossrank.engines.fake import FakeEngine
from crossrank.evaluation.verify import Cost, Question, Verification, kendall, sample_questions, verify
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import PairEncoder

TOKENIZER = resolve(BUNDLED) / "tokenizer.json"
DOCUMENTS = tuple("word " * n for n in range(1, 13))
LENGTHS = [len(pair.token_ids) for pair in PairEncoder(TOKENIZER, max_length=64).encode("q", DOCUMENTS)]


def reranker(precision: str, change: Any) -> Reranker:
    """Gives document n the logit n, but for what ``change`` makes of it."""
    engine = FakeEngine(lambda ids: change(LENGTHS.index(len(ids))))
    engine.precision = precision
    return Reranker.from_parts(PairEncoder(TOKENIZER, max_length=64), engine)


def run(change: Any, questions: list[Question]) -> tuple[Verification, Cost]:
    changes = {"fp32": float, "int8": change}
    found = verify(lambda name: reranker(name, changes[name]), questions, ["int8"])
    [cost] = found.costs
    assert cost.precision == "int8"
    return found, cost


def test_nothing_changed_costs_nothing() -> None:
    labels = tuple(float(n == 11) for n in range(12))
    found, cost = run(float, [Question("q", DOCUMENTS, labels)])
    assert (found.questions, found.pairs, found.engine, found.device) == (1, 12, "fake", "cpu")
    assert cost == Cost("int8", 0, 0, 0, 0, 1.0, {1: 1.0, 3: 1.0, 10: 1.0}, 1.0)
    assert found.ndcg == 1


def test_differences_and_order() -> None:
    swapped = {11: 9.5, 10: 10.0}  # the best falls behind the second and not behind the third
    _, cost = run(lambda n: swapped.get(n, n), [Question("q", DOCUMENTS)])
    assert (cost.logit_max, cost.logit_mean) == (1.5, 1.5 / 12)
    expected = 1 / (1 + np.exp(-11.0)) - 1 / (1 + np.exp(-9.5))
    assert cost.score_max == pytest.approx(expected)
    assert cost.score_mean == pytest.approx(expected / 12)
    assert cost.tau == pytest.approx(1 - 2 / 66)
    assert cost.agreement == {1: 0.0, 3: 1.0, 10: 1.0}
    assert cost.ndcg is None


def test_top_k_agreement_is_a_share() -> None:
    _, cost = run(lambda n: -1.0 if n == 11 else n, [Question("q", DOCUMENTS)])
    assert cost.agreement == {1: 0.0, 3: pytest.approx(2 / 3), 10: 0.9}


def test_questions_count_alike_whatever_their_size() -> None:
    reverse = {0: 1.0, 1: 0.0}
    questions = [Question("q", DOCUMENTS[:2]), Question("p", DOCUMENTS[2:])]
    _, cost = run(lambda n: reverse.get(n, n), questions)
    assert cost.tau == 0  # -1 and 1
    assert cost.agreement == {1: 0.5, 3: 1.0, 10: None}


def test_one_document_has_no_order() -> None:
    found, cost = run(lambda n: n + 0.25, [Question("q", DOCUMENTS[:1], (1.0,))])
    assert cost.logit_max == 0.25
    assert cost.tau is None
    assert cost.agreement == {1: None, 3: None, 10: None}
    assert found.ndcg == 1


def test_a_question_without_a_good_document_has_no_ndcg() -> None:
    found, cost = run(float, [Question("q", DOCUMENTS, (0.0,) * 12)])
    assert (found.ndcg, cost.ndcg) == (None, None)


def test_ndcg_is_ir_measures() -> None:
    rng = np.random.default_rng(2)
    labels = tuple(rng.integers(0, 2, 12).astype(float).tolist())
    logits = rng.normal(size=12)
    _, cost = run(lambda n: logits[n], [Question("q", DOCUMENTS, labels)])
    qrels = [ir_measures.Qrel("q", str(n), int(label)) for n, label in enumerate(labels)]
    scored = [ir_measures.ScoredDoc("q", str(n), float(logit)) for n, logit in enumerate(logits)]
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, scored)
    assert cost.ndcg == pytest.approx(next(iter(expected.values())))


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_scipys_with_and_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.integers(0, 20 if seed else 1000, 30).astype(float)
    right = left + rng.integers(-3, 4, 30).astype(float)
    assert kendall(left, right) == pytest.approx(scipy.stats.kendalltau(left, right, variant="b").statistic)
    assert kendall(left, left) == pytest.approx(1)
    assert kendall(left, -left) == pytest.approx(-1)


def test_equal_logits_have_no_tau() -> None:
    assert kendall(np.ones(4), np.linspace(0, 1, 4)) is None


@pytest.mark.parametrize(
    ("questions", "message"),
    [([], "no pairs"), ([Question("q", ("a",), (-1.0,))], "'q' is below 0")],
)
def test_what_cannot_be_measured_is_refused(questions: list[Question], message: str) -> None:
    with pytest.raises(InputError, match=message):
        verify(lambda name: reranker(name, float), questions)


def test_the_sample_is_what_it_says() -> None:
    questions = sample_questions()
    assert len(questions) == 19
    for question in questions:
        assert len(question.documents) == 12
        assert question.labels is not None
        assert len(question.labels) == 12
        assert 1 in question.labels


def test_on_the_bundled_model_bf16_costs_little(tmp_path: Path) -> None:
    questions = sample_questions()[:4]
    found = verify(lambda name: Reranker(device="cpu", precision=name, threads=2), questions)  # type: ignore[arg-type]
    assert [cost.precision for cost in found.costs] == ["bf16", "int8"]
    for cost, logit, tau in zip(found.costs, (0.15, 1.0), (0.97, 0.85), strict=True):
        assert 0 < cost.logit_mean < cost.logit_max < logit
        assert cost.tau is not None
        assert cost.tau > tau
        assert cost.ndcg is not None
        assert found.ndcg == pytest.approx(cost.ndcg, abs=0.1)
