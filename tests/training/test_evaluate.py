import sys
from pathlib import Path

import numpy as np
import pytest

from training import evaluate, jsonl
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


def test_kept_scores_are_of_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was trained anew often has the old one's name."""
    row = {"query": "red", "documents": ["apple", "leaf"], "labels": [1, 0]}
    jsonl.write(tmp_path / "data" / "eval" / "a.jsonl", [row, row])
    weights = tmp_path / "model.safetensors"
    monkeypatch.setattr(evaluate, "bi_encoder", lambda *_: lambda _, texts: np.zeros(len(texts)))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--work", str(tmp_path), "--model", f"mini={tmp_path}"])
    asked = list[bytes]()

    def score(_: str, texts: list[str]) -> np.ndarray:
        asked.append(weights.read_bytes())
        return np.arange(len(texts)) * (1.0 if asked[-1] == b"old" else -1.0)

    monkeypatch.setattr(evaluate, "cross_encoder", lambda *_: score)
    for content, value in ((b"old", 0.631), (b"old", 0.631), (b"new", 1.0)):
        weights.write_bytes(content)
        evaluate.main()
        assert f"'mini': {value}" in capsys.readouterr().out
    assert asked == [b"old", b"old", b"new", b"new"]
