from __future__ import annotations

import pytest

from crossrank.errors import InputError
from crossrank.pairs import Cut
from crossrank.server.core.work import Work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": -1}, r"priority is -1; it must be 0 \(first\) to 999"),
        ({"priority": 1000}, "priority is 1000"),
        ({"cut": Cut(document=0)}, "max_tokens_per_document is 0; it must be at least 1"),
        ({"cut": Cut(query=-5)}, "max_tokens_per_query is -5"),
        ({"cut": Cut(pair=0)}, "max_tokens_per_pair is 0"),
        ({"texts": ["d", 5]}, "texts.1 is of type int; it must be a string"),
        ({"queries": [None]}, "queries.0 is of type NoneType; it must be a string"),
        ({"queries": ["q"] * 3, "texts": ["d"] * 2}, "3 queries for 2 texts; give one, or as many"),
    ],
)
def test_what_is_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Work(**{"queries": ["q"], "texts": ["d"], **options})  # type: ignore[arg-type]


def test_the_ends_of_the_range() -> None:
    assert Work(["q"], [], Cut(pair=1), priority=999).priority == 999
    assert Work(["q"], []).priority == 0


def test_a_part_has_the_queries_of_its_texts() -> None:
    assert Work(["q"], list("abcd")).part(1, 3) == (["q"], ["b", "c"])
    assert Work(list("wxyz"), list("abcd")).part(1, 3) == (["x", "y"], ["b", "c"])


def test_equal_pairs_are_there_once() -> None:
    one = Work(["q"], ["a", "b", "a"], priority=3)
    assert one.distinct() == (Work(["q"], ["a", "b"], priority=3), [0, 1], [0, 1, 0])
    several = Work(["q", "r", "q", "q"], ["a", "a", "a", "b"])
    assert several.distinct() == (Work(["q", "r", "q"], ["a", "a", "b"]), [0, 1, 3], [0, 1, 0, 2])
    none = Work(["q"], ["a", "b"])
    assert none.distinct()[0] is none


def test_texts_that_are_made_when_they_are_asked_for_are_left_alone() -> None:
    work = Work(["q"], ("a", "a"))
    assert work.distinct() == (work, range(2), range(2))
