"""What observed scores say, without a server and without a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from crossrank.evaluation.diagnose import (
    RIGHT,
    as_logits,
    changed,
    judge_neighbours,
    judge_numbers,
    judge_order,
    judge_scores,
    judge_ties,
    number_format,
    read_scores,
)
from crossrank.evaluation.findings import Level
from tests.evaluation.wrong_servers import sigmoid

Floats = npt.NDArray[np.float64]
RNG = np.random.default_rng(1)
LOGITS = [RNG.normal(-2, 4, 12) for _ in range(4)]


def requests(change: object) -> list[tuple[Floats, Floats]]:
    assert callable(change)
    return [(np.asarray(change(logits), np.float64), logits) for logits in LOGITS]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
def test_kinds_are_told_apart_in_any_precision(noise: float) -> None:
    def noisy(x: Floats) -> Floats:
        return x + np.random.default_rng(3).normal(0, noise, len(x))

    for kind, change in (
        ("logit", noisy),
        ("sigmoid", lambda x: sigmoid(noisy(x))),
        ("sigmoid of the sigmoid", lambda x: sigmoid(sigmoid(noisy(x)))),
    ):
        reading = read_scores({RIGHT: requests(change)})
        assert (reading.how, reading.kind) == (RIGHT, kind)
        assert reading.typical == pytest.approx(0.67 * noise, abs=0.2 * noise + 1e-6)


@pytest.mark.parametrize(
    ("noise", "words", "level"),
    [
        (0.001, "as in fp32", Level.OK),
        (0.04, "as in 16-bit floats", Level.OK),
        (0.3, "as in int8", Level.OK),
        (0.7, "raw logits, but only", Level.ERROR),
    ],
)
def test_what_a_difference_is_like(noise: float, words: str, level: Level) -> None:
    rng = np.random.default_rng(5)
    reading = read_scores({RIGHT: requests(lambda x: x + rng.normal(0, noise, len(x)))})
    finding = judge_scores(reading, "the model")
    assert words in finding.found
    assert finding.level is level


def test_a_wrong_reading_must_fit_clearly_better() -> None:
    rng = np.random.default_rng(7)
    right = requests(lambda x: x + rng.normal(0, 0.1, len(x)))
    other = [(scores, logits + 0.05) for scores, logits in right]
    assert read_scores({RIGHT: right, "no template": other}).how == RIGHT
    # Such as a server whose logits are those without the template.
    bare = [(scores, scores + rng.normal(0, 0.01, len(scores))) for scores, _ in right]
    far = [(scores, logits[::-1].copy()) for scores, logits in right]
    reading = read_scores({RIGHT: far, "no template": bare})
    assert reading.how == "no template"
    assert judge_scores(reading, "the model").found.startswith("no template:")


def test_a_line_and_its_sigmoid() -> None:
    reading = read_scores({RIGHT: requests(lambda x: 3 * x - 1)})
    assert reading.kind == "line"
    assert reading.line == pytest.approx((3, -1))
    reading = read_scores({RIGHT: requests(lambda x: sigmoid(x / 5))})
    assert reading.kind == "sigmoid of a line"
    assert reading.line == pytest.approx((0.2, 0))


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        (lambda x: np.cbrt(x) * 100, Level.WARNING, "in the model's order"),
        (lambda x: -np.cbrt(x), Level.ERROR, "the worst first"),
        (lambda x: np.sin(50 * x), Level.ERROR, "the order differs"),
    ],
)
def test_scores_that_are_nothing_known(change: object, level: Level, words: str) -> None:
    finding = judge_scores(read_scores({RIGHT: requests(change)}), "the model")
    assert finding.level is level
    assert words in finding.found


def test_one_published_score_is_enough_for_its_kind() -> None:
    for kind, value in (("logit", 7.6), ("sigmoid", 0.9995), ("sigmoid of the sigmoid", 0.73096)):
        one = [(np.array([value]), np.array([7.625]))]
        assert read_scores({RIGHT: one}).kind == kind


def test_scores_of_an_unknown_kind_are_taken_by_their_range() -> None:
    assert as_logits([0.5, 1.0, 0.0], "unknown")[0] == 0
    assert np.isnan(as_logits([0.5, 1.0, 0.0], "unknown")[1:]).all()
    assert as_logits([0.5, 3.0], "unknown").tolist() == [0.5, 3.0]


@pytest.mark.parametrize(
    ("scores", "form"),
    [
        ([0.1, 0.25, 0.5], "2 decimals"),
        ([0.1234, 0.5], "4 decimals"),
        (np.array([0.123, 0.9876], np.float16).astype(float).tolist(), "fp16"),
        ([1.2578125, 0.0030517578125 * 1.5], "bf16"),
        (np.array([0.123456, 0.9876], np.float32).astype(float).tolist(), ""),
        ([], ""),
        ([float("nan")], ""),
    ],
)
def test_few_digits_are_seen(scores: list[float], form: str) -> None:
    assert number_format(scores) == form


def test_ties() -> None:
    assert judge_ties([0.1 + i / 977 for i in range(32)]).level is Level.OK
    few = judge_ties([0.3, 0.3, *(i / 977 for i in range(30))])
    assert few.level is Level.WARNING
    assert few.found == "2 of 32 similar documents share their scores"
    many = judge_ties([1.0] * 10 + [i / 977 for i in range(22)])
    assert many.level is Level.ERROR
    assert "10 of 32 similar documents share their scores, 10 of them at 1" in many.found
    assert judge_ties([float("nan")] * 4).level is Level.OK  # judge_numbers tells of them


def test_numbers_and_order() -> None:
    assert judge_numbers([1.0, -3.0]).level is Level.OK
    assert judge_numbers([1.0, float("nan"), float("inf")]).found.startswith("2 of 3 scores")
    assert judge_order([([0.1, 0.9], [1, 0]), ([0.5, 0.5], [0, 1])]).level is Level.OK
    assert judge_order([([0.1, 0.9], [0, 1]), ([0.5, 0.4], [0, 1])]).found.startswith("1 of 2 answers")
    assert judge_order([([0.1, float("nan"), 0.05], [0, 1, 2])]).level is Level.OK


def test_neighbours() -> None:
    alone = [0.2, 0.5, 0.9]
    assert judge_neighbours(alone, alone, [0.2, 0.505, 0.9], "sigmoid").level is Level.OK
    padded = judge_neighbours(alone, [0.2, 0.51, 0.9], [0.1, 0.2, 0.6], "sigmoid")
    assert "padding changes scores" in padded.found
    listwise = judge_neighbours(alone, [0.1, 0.3, 0.5], [0.1, 0.3, 0.5], "sigmoid")
    assert "depend on the other documents" in listwise.found
    # Near 0 and 1 rounded sigmoids cannot tell.
    assert changed([0.9999, 0.0001], [0.9995, 0.0003], "sigmoid") == 0
    assert changed([9.2, -9.0], [9.2, -8.5], "logit") == 0.5
