from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from crossrank._ahead import map_ahead


def test_results_come_with_their_items_in_order() -> None:
    found = list(map_ahead(lambda x: x * x, range(50), threads=4, ahead=7, name="test"))
    assert found == [(x, x * x) for x in range(50)]
    assert list(map_ahead(lambda x: x, [], threads=1, ahead=1, name="test")) == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_items_are_drawn_in_the_callers_thread_and_only_a_few_ahead(ahead: int) -> None:
    drawn: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            drawn.append(threading.get_ident())
            yield number

    results = map_ahead(lambda x: x, endless(), threads=2, ahead=ahead, name="test")
    for taken in range(1, 20):
        next(results)
        assert len(drawn) == taken + ahead - 1
    results.close()  # type: ignore[attr-defined]
    assert set(drawn) == {threading.get_ident()}


def test_an_error_is_raised_in_its_place_and_nothing_more_is_called() -> None:
    called: list[int] = []

    def fail_at_two(x: int) -> int:
        called.append(x)
        if x == 2:
            raise ValueError("two")
        return x

    results = map_ahead(fail_at_two, range(1000), threads=1, ahead=2, name="test")
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(called) <= 4
