import numpy as np
import pytest

from training.evaluate import fused, interval, measured


def test_measures_are_of_each_question() -> None:
    rows = [{"labels": [0, 1, 0]}, {"labels": [1, 0, 0]}]
    values = measured(rows, [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert values["MRR@10"] == [0.5, 1.0]
    assert values["nDCG@10"] == [pytest.approx(1 / np.log2(3), abs=1e-6), 1.0]


def test_a_ranking_without_spread_adds_nothing_to_a_fusion() -> None:
    scores = np.array([0.1, 0.5, 0.3])
    assert fused(scores, np.zeros(3)).tolist() == fused(scores).tolist()
    # What both like beats what one likes.
    assert fused(np.array([1.0, 0.9, 0.0]), np.array([0.0, 0.9, 1.0])).argmax() == 1


def test_an_interval_holds_its_mean_and_narrows_with_questions() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.5, 0.2, 20), rng.normal(0.5, 0.2, 2000)
    mean, low, high = interval([few])
    assert low < mean < high
    _, low_many, high_many = interval([many])
    assert high_many - low_many < (high - low) / 5
    # Sets count the same, however many questions they have.
    assert interval([np.zeros(10), np.ones(1000)])[0] == 0.5
