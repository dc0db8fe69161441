"""What a server does not read of texts that are too long."""

from __future__ import annotations

import numpy as np
import pytest

from crossrank.evaluation.diagnose import RIGHT
from crossrank.evaluation.findings import Level
from crossrank.evaluation.truncation import judge_cut, judge_query_end, read_cut, read_window


@pytest.mark.parametrize(
    ("scores", "cut"),
    [
        ((-8, 3, -8, (-8.5, -7.0)), "end"),
        ((-8, -8, 3, (-7.0, -8.5)), "start"),
        ((-8, 3, 2, (-8.5, -7.0)), "nothing"),
        ((-8, -8, 3, (-8, 3)), "query"),
        ((-8, -8, -8, (-7, -7)), "unclear"),
    ],
)
def test_what_is_cut(scores: tuple[float, float, float, tuple[float, float]], cut: str) -> None:
    assert read_cut(*scores, "logit") == cut


def test_windows_are_found_by_their_logits() -> None:
    expected = {
        (RIGHT, 128): np.array([1.0, 2.0]),
        (RIGHT, 512): np.array([3.0, 4.0]),
        ("the end", 512): np.array([3.05, 4.0]),
    }
    assert read_window([3.0, 4.01], expected, "logit", 0.02) == [(RIGHT, 512)]
    assert read_window([3.04, 4.0], expected, "logit", 0.06) == [("the end", 512), (RIGHT, 512)]
    assert read_window([7.0, 4.0], expected, "logit", 0.06) == []
    assert read_window([1.0, 0.0], expected, "sigmoid", 9.0) == []


def test_truncation_is_judged() -> None:
    assert judge_cut("end", [(RIGHT, 512)], 1400, compared=True).found.endswith("at its end at 512 tokens")
    # Where two ways fit, it may be the right one.
    assert judge_cut("end", [("the end", 512), (RIGHT, 512)], 1400, compared=True).level is Level.OK
    assert judge_cut("end", [("the end is cut", 512)], 1400, compared=True).level is Level.ERROR
    assert judge_cut("end", [], 1400, compared=True).level is Level.WARNING
    assert judge_cut("nothing", [], 1400).found == "a document of about 1,400 tokens is read to its end"
    assert judge_cut("unclear", [], 1400).level is Level.WARNING
    assert judge_cut("nothing", [], 1400, forbidden="too long").level is Level.ERROR
    assert judge_cut("end", [], 1400, forbidden="too long", asked="truncate: true").level is Level.WARNING
    assert judge_cut("query", [], 1400, forbidden="too long", asked="truncate: true").level is Level.ERROR


def test_the_end_of_a_query() -> None:
    assert judge_query_end(2.0, -7.0, "logit", 130).level is Level.OK
    assert judge_query_end(-7.0, -7.0, "logit", 130).level is Level.ERROR
    assert judge_query_end(1.0, 0.2, "sigmoid", 130).level is Level.OK  # saturated, but not the same
