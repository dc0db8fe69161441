"""What benchmarks/peers.py says of measurements: nothing is timed here."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import peers
from benchmarks.contest import machine, report
from benchmarks.contest.base import Batch, Pair, Side, one_logit, padded, replaced
from benchmarks.contest.models import MODELS, OURS
from benchmarks.contest.worker import CALIBRATED, SIDES, batches_of, best_size, mixed_rate, side_class
from benchmarks.contest.workloads import Workload, Workloads

ROOT = Path(__file__).resolve().parents[2]


def pair(length: int) -> Pair:
    return Pair("q", "d", np.arange(1, length + 1), np.zeros(length, np.int64))


class Lengths(Side):
    """Its logit of a pair is the pair's length."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.batches.append([len(p) for p in batch])
        return np.array(self.batches[-1], np.float32)


def test_every_side_can_be_named_without_its_packages() -> None:
    for name in SIDES:
        kind = side_class(name)
        assert issubclass(kind, Side)
        assert not kind.needs or kind.needs.converts
    assert set(CALIBRATED) <= set(SIDES)
    assert set(SIDES) == {side for model in MODELS.values() for side in model.sides}
    assert set(MODELS) == set(report.TITLES)


def test_batches_hold_pairs_of_like_length_and_every_pair_once() -> None:
    lengths = [5, 9, 2, 7, 9, 3]
    plan = Lengths().plan([pair(n) for n in lengths], 4)
    assert plan == [[1, 4, 3, 0], [5, 2]]


def test_batches_of_a_decoder_are_of_one_query() -> None:
    pairs = [
        Pair("q", "d", np.array([query, 9, *range(n)]), np.zeros(n + 2, np.int64), prefix=2)
        for query, n in ((1, 5), (2, 9), (1, 2), (1, 7))
    ]
    assert Lengths().plan(pairs, 2) == [[1], [3, 0], [2]]


def test_a_logit_of_two_labels_is_the_second_minus_the_first() -> None:
    assert one_logit(np.array([[1.0, 3.5], [2.0, 0.0]])).tolist() == [2.5, -2.0]
    assert one_logit(np.array([[1.0], [2.0]])).tolist() == [1.0, 2.0]


def test_padding_is_masked() -> None:
    arrays = padded([pair(2), pair(3)], 7)
    assert arrays["input_ids"].tolist() == [[1, 2, 7], [1, 2, 3]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_logits_of_mixed_lengths_come_back_in_the_pairs_order() -> None:
    side = Lengths()
    lengths = [5, 9, 2, 7]
    rate, size, logits = mixed_rate(side, Workload("mixed", 16, [pair(n) for n in lengths]), [2], 0.0)
    assert logits.tolist() == lengths
    assert (size, side.batches[:2]) == (2, [[9, 7], [5, 2]])
    assert rate > 0
    assert [len(b) for b in batches_of(side, [pair(1)] * 5, 2)] == [2, 2, 1]


def test_no_larger_batch_is_tried_than_there_are_pairs() -> None:
    side = Lengths()
    assert best_size(side, Workload("2048", 2048, [pair(5)] * 3)) <= 3
    assert {len(batch) for batch in side.batches} == {1, 3}


def test_workloads_come_back_from_their_file(tmp_path: Path) -> None:
    prompt = Pair("q", "d", np.arange(1, 4), np.zeros(3, np.int64), prefix=2)
    made = Workloads([Workload("32", 32, [prompt])], [pair(4)])
    made.write(tmp_path / "w" / "workloads.json")
    found = Workloads.read(tmp_path / "w" / "workloads.json")
    assert (found.timed[0].name, found.timed[0].window) == ("32", 32)
    assert found.timed[0].pairs[0].token_ids.tolist() == [1, 2, 3]
    assert found.timed[0].pairs[0].prefix == 2
    assert len(found.calibration[0]) == 4


def test_a_conversion_that_fails_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replaced(tmp_path / "made"):
        raise RuntimeError
    assert not (tmp_path / "made").exists()
    with replaced(tmp_path / "made") as partial:
        (partial / "file").write_text("")
    assert (tmp_path / "made" / "file").is_file()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("ValueError: NULL pointer access", "ValueError: NULL pointer access"),
        (
            "OSError: /work/a/checkpoint/model.onnx: is missing",
            "OSError: the checkpoint/model.onnx: is missing",
        ),
        (
            "ValueError: The model type new is not supported ['bert', 'roberta'] (see /opt/x/configs.py)",
            "ValueError: The model type new is not supported ['bert', 'roberta']",
        ),
        ("ValueError: remote code: You can inspect it at /work/a/checkpoint", "ValueError: remote code"),
    ],
)
def test_an_error_is_shown_without_the_machines_folders(error: str, expected: str) -> None:
    assert peers.short(error, Path("/work/a/checkpoint")) == expected


def test_kendalls_tau() -> None:
    a = np.array([1.0, 2, 3, 4])
    assert peers.kendall(a, a) == 1
    assert peers.kendall(a, -a) == -1
    assert peers.kendall(a, np.array([1.0, 2, 4, 3])) == pytest.approx(4 / 6)


def test_operations_of_a_pair(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}'
    )
    whole, needed = machine.operations(tmp_path, 128)
    # 24 layers of 12 million weights, two operations each, and attention's products.
    assert whole == 2 * 128 * 24 * (12 * 1024**2 + 2 * 128 * 1024)
    assert 0.96 * whole < needed < whole
    (tmp_path / "config.json").write_text(
        '{"hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22, "model_type": "modernbert"}'
    )
    # A gate is a third matrix of the feed-forward part.
    whole, _ = machine.operations(tmp_path, 128)
    assert whole == 2 * 128 * 22 * (4 * 768**2 + 3 * 768 * 1152 + 2 * 128 * 768)


def test_sides_that_were_not_measured_are_as_they_were_kept(tmp_path: Path) -> None:
    results = {
        "model": "modernbert-base-shape",
        "cells": ["32"],
        "machine": {"cpu": "A CPU", "kernels": "avx2", "row": "AMX"},
        "sides": {OURS: {"pairs_per_second": {"32": 30.0}}},
    }
    kept = tmp_path / report.machine_slug(results) / "modernbert-base-shape.json"
    kept.parent.mkdir()
    sides = {
        OURS: {"pairs_per_second": {"32": 1.0}},
        "OpenVINO bf16": {"pairs_per_second": {"32": 25.0}},
    }
    kept.write_text(json.dumps(results | {"sides": sides}))
    assert report.verdicts(results) == []
    report.complete(results, tmp_path)
    assert [(verdict.figure, verdict.kept) for verdict in report.verdicts(results)] == [(1.2, False)]


def figures(rate: float) -> dict[str, object]:
    cells = dict.fromkeys(report.CELLS, rate)
    return {"pairs_per_second": cells, "latency_ms": 1, "start_seconds": 2, "peak_mb": 3, "tau": 1.0}


def test_ratios_are_against_the_fastest_that_ran() -> None:
    results = {
        "model": "crossrank-mini",
        "sides": {
            "CrossRank int8": figures(30),
            "CrossRank bf16": figures(100),
            "transformers fp32": figures(2),
            "ONNX Runtime int8 dynamic": figures(10),
            "OpenVINO int8 static": figures(20),
            "llama.cpp Q8_0": {"error": "it broke"},
        },
    }
    assert report.ratio(results, "128", "fastest") == (1.5, "OpenVINO int8 static")
    assert report.ratio(results, "128", "uncalibrated") == (3.0, "ONNX Runtime int8 dynamic")
    assert report.ratio(results, "128", "transformers fp32") == (15.0, "transformers fp32")
    for language in ("en", "zh"):
        assert "it broke" in report.speeds(results, language)
