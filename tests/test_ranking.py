import ast
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrank import ranking as ranking_module
from crossrank.errors import InputError, NonFiniteLogitError
from crossrank.inputs import Request
from crossrank.ranking import BLANK_LOGIT, Ranking, Scored, ScoredPair, best_pairs, is_blank, sigmoid

finite = st.floats(-60, 60, width=32)


def ranked(logits: list[float], top_n: int | None = None, threshold: float | None = None) -> Ranking:
    texts = [f"document {i}" for i in range(len(logits))]
    return Scored(logits).rank(Request("query", texts), top_n=top_n, threshold=threshold)


@given(st.lists(finite, max_size=50))
def test_the_order_is_by_logit_and_ties_keep_the_input_order(logits: list[float]) -> None:
    found = [hit.index for hit in ranked(logits)]
    assert found == sorted(range(len(logits)), key=lambda i: -logits[i])


def test_logits_that_saturate_the_sigmoid_are_still_in_order() -> None:
    # In float32 the sigmoid of each of these is exactly 1; in float64 of the last three, too.
    ranking = ranked([30.0, 90.0, 60.0, 45.0])
    assert [hit.index for hit in ranking] == [1, 2, 3, 0]
    assert [hit.logit for hit in ranking] == [90, 60, 45, 30]


@given(finite)
def test_the_sigmoid_is_that_of_float64(x: float) -> None:
    exact = 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
    assert sigmoid(np.asarray([x], np.float32))[0] == pytest.approx(exact, rel=1e-15)


def test_the_sigmoid_of_extremes_neither_overflows_nor_warns() -> None:
    assert sigmoid(np.asarray([-3e38, 3e38], np.float32)).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_names_its_pair(bad: float) -> None:
    with pytest.raises(NonFiniteLogitError, match="pair 2") as caught:
        ranked([1.0, 2.0, bad, bad])
    assert caught.value.pair == 2


@pytest.mark.parametrize(("top_n", "expected"), [(None, 3), (0, 0), (1, 1), (3, 3), (99, 3)])
def test_top_n(top_n: int | None, expected: int) -> None:
    assert len(ranked([1.0, 3.0, 2.0], top_n=top_n)) == expected


@pytest.mark.parametrize("top_n", [-1, "3", 2.5, 2.0, True, [1]])
def test_what_is_no_count_is_refused_as_top_n(top_n: Any) -> None:
    with pytest.raises(InputError, match=f"top_n is {re.escape(repr(top_n))}; it must be an integer"):
        ranked([1.0], top_n=top_n)


def test_numpys_numbers_are_numbers() -> None:
    assert len(ranked([1.0, 3.0, 2.0], top_n=np.int64(2), threshold=np.float32(0.5))) == 2  # type: ignore[arg-type]


def test_a_threshold_leaves_out_lower_scores_and_keeps_equal_ones() -> None:
    assert [hit.index for hit in ranked([-1.0, 0.0, 1.0], threshold=0.5)] == [2, 1]
    assert len(ranked([-1.0, 0.0], threshold=1.0)) == 0
    assert [hit.rank for hit in ranked([-1.0, 0.0, 1.0], top_n=1, threshold=0.1)] == [1]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, "x", "0.5", True, [0.5]])
def test_what_is_no_number_of_0_to_1_is_refused_as_threshold(threshold: Any) -> None:
    with pytest.raises(InputError, match=f"threshold is {re.escape(repr(threshold))}; it must be a number"):
        ranked([1.0], threshold=threshold)


def test_a_ranking_is_an_immutable_sequence() -> None:
    ranking = ranked([1.0, 3.0, 2.0])
    assert [hit.rank for hit in ranking] == [1, 2, 3]
    assert ranking[0].index == 1
    assert [hit.index for hit in ranking[1:]] == [2, 0]
    assert ranking == ranked([1.0, 3.0, 2.0])
    assert ranking != ranked([1.0, 3.0])
    assert ranking[0].fields == {}
    assert ranking[0].truncated is False
    assert "document 1" in repr(ranking)


@pytest.mark.parametrize(
    "text", ["", " ", ".", "---", "|---|---|", "…", "。！？", "_", "🙂", "\u200b", "\n\t"]
)
def test_a_text_without_a_letter_or_digit_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "7", "-1", "好", "ア", "한", "ก", "ß", "½", "²", "Ⅷ", " .x"])
def test_a_text_with_one_is_not(text: str) -> None:
    assert not is_blank(text)


def test_blank_documents_come_last_in_their_order_whatever_the_model_says() -> None:
    texts = ["", "one", "---", "two"]
    logits = [9.0, -200.0, 50.0, 1.0]
    ranking = Scored(logits).rank(Request("query", texts))
    assert [hit.index for hit in ranking] == [3, 1, 0, 2]
    assert [hit.blank for hit in ranking] == [False, False, True, True]
    assert [hit.logit for hit in ranking] == [1.0, -200.0, BLANK_LOGIT, BLANK_LOGIT]
    assert [hit.score for hit in ranking[2:]] == [0.0, 0.0]
    assert [hit.index for hit in Scored(logits).rank(Request("query", texts), threshold=0.5)] == [3]


def test_a_logit_that_is_no_number_is_an_error_of_a_blank_document_too() -> None:
    with pytest.raises(NonFiniteLogitError, match="pair 0"):
        Scored([math.nan, 1.0]).rank(Request("query", ["", "one"]))


def test_scored_has_all_that_is_known_of_pairs_in_their_order() -> None:
    scored = Scored([0.0, 60.0, -1.5], [False, True, False])
    assert scored.logits.dtype == np.float32
    assert scored.scores.dtype == np.float64
    assert scored.scores.tolist() == sigmoid(np.asarray([0.0, 60.0, -1.5], np.float32)).tolist()
    assert scored.pairs()[1] == ScoredPair(float(scored.scores[1]), 60.0, True)
    assert [pair.truncated for pair in Scored([1.0, 2.0]).pairs()] == [False, False]
    assert (len(scored), len(Scored([]))) == (3, 0)


def test_a_query_that_was_cut_is_told_apart_from_a_document() -> None:
    scored = Scored([0.0, 1.0], [True, False], [False, True])
    assert [(pair.truncated, pair.query_truncated) for pair in scored.pairs()] == [
        (True, False),
        (False, True),
    ]
    ranking = scored.rank(Request("query", ["a", "b"]))
    assert [(hit.index, hit.truncated, hit.query_truncated) for hit in ranking] == [
        (1, False, True),
        (0, True, False),
    ]


def _names(tree: ast.AST) -> set[str]:
    """The functions that a module calls and the names that it imports."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return names | {alias.name for node in imports for alias in node.names}


def test_the_sigmoid_is_computed_in_one_module() -> None:
    package = Path(ranking_module.__file__).parent
    assert _names(ast.parse("from scipy.special import expit\ny = 1 / (1 + np.exp(-x))")) == {"expit", "exp"}
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if _names(ast.parse(path.read_text(encoding="utf-8"))) & {"sigmoid", "expit", "exp", "tanh"}
    }
    assert found == {"ranking.py"}


def test_a_repr_is_short_and_to_dict_is_whole() -> None:
    texts = ["x" * 5000, *map(str, range(1, 100))]
    ranking = Scored([2.0, *([1.0] * 99)]).rank(Request("q" * 5000, texts, [{"a": 1}] * 100))
    assert len(repr(ranking)) < 600
    assert "100 hits" in repr(ranking)
    assert repr(ranking[1]) == "RankedDocument(rank=2, index=1, score=0.7311, text='1')"
    assert ranking.scores[:2] == [0.8807970779778823, 0.7310585786300049]
    assert ranking.indices == list(range(100))
    found = ranking.to_dict()
    assert found["query"] == "q" * 5000
    assert len(found["results"]) == 100
    assert found["results"][0] == {
        "rank": 1,
        "index": 0,
        "score": 0.8807970779778823,
        "logit": 2.0,
        "truncated": False,
        "text": "x" * 5000,
        "fields": {"a": 1},
        "blank": False,
        "query_truncated": False,
    }


def test_a_document_has_the_logit_of_its_best_window() -> None:
    logits = np.array([1.0, -2.0, 3.0, 3.0, 5.0, 0.5], np.float32)
    places = [range(1), range(1, 4), range(5, 6), range(1, 4)]
    assert best_pairs(logits, places) == [0, 2, 5, 2]
    assert best_pairs(logits, []) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_of_any_window_that_is_no_number_is_an_error_of_its_document(bad: float) -> None:
    logits = np.array([1.0, 2.0, bad, 3.0], np.float32)
    with pytest.raises(NonFiniteLogitError) as raised:
        best_pairs(logits, [range(1), range(1, 4)])
    assert raised.value.pair == 1
    assert best_pairs(logits, [range(1), range(3, 4)]) == [0, 3]


def test_hits_and_pairs_say_which_window_won() -> None:
    scored = Scored([0.0, 1.0], [False, True], windows=[None, (10, 25)])
    ranking = scored.rank(Request("query", ["one", "two"]))
    assert [(hit.index, hit.window, hit.truncated) for hit in ranking] == [
        (1, (10, 25), True),
        (0, None, False),
    ]
    assert ranking[0].to_dict()["window"] == (10, 25)
    assert [pair.window for pair in scored.pairs()] == [None, (10, 25)]
    assert Scored([1.0]).windows == [None]
