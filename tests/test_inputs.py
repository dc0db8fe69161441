from __future__ import annotations

import math
import re

import numpy as np
import pytest

from crossrank import InputError
from crossrank.inputs import Request, check_integer, check_number, read_pairs


@pytest.mark.parametrize("value", [1, 7, np.int64(3), np.uint8(1)])
def test_integers(value: object) -> None:
    check_integer("n", value)


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None, [1], math.nan])
def test_what_is_no_integer_of_one_or_more(value: object) -> None:
    with pytest.raises(InputError, match=re.escape(f"n is {value!r}; it must be an integer of 1 or more")):
        check_integer("n", value)


def test_integers_between_two() -> None:
    check_integer("n", 0, 0, 9)
    check_integer("n", 9, 0, 9)
    with pytest.raises(InputError, match=r"n is 10; it must be an integer from 0 to 9, or None"):
        check_integer("n", 10, 0, 9, hint=", or None")


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.25)])
def test_numbers(value: object) -> None:
    check_number("n", value, lambda number: number > 0, "positive")


@pytest.mark.parametrize("value", [0, -0.5, True, "0.5", None, math.nan, 1j])
def test_what_is_no_such_number(value: object) -> None:
    with pytest.raises(InputError, match=re.escape(f"n is {value!r}; it must be positive")):
        check_number("n", value, lambda number: number > 0, "positive")


def test_pairs_are_one_query_or_as_many_as_texts() -> None:
    assert read_pairs(("q", text) for text in "abc") == ("q", ["a", "b", "c"])
    assert read_pairs([("q", "a"), ("r", "a")]) == (["q", "r"], ["a", "a"])
    assert read_pairs([]) == ([], [])
    with pytest.raises(InputError, match="the document of pair 1 is a int"):
        read_pairs([("q", "a"), ("q", 7)])  # type: ignore[list-item]


def test_a_request_keeps_the_other_fields_apart() -> None:
    found = Request.read("q", ["a", {"text": "b", "id": 7}])
    assert (found.query, found.texts, found.fields) == ("q", ["a", "b"], [{}, {"id": 7}])
