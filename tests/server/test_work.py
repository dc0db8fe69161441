from __future__ import annotations

import pytest

from crossrank.errors import InputError
from crossrank.server.core.work import Work


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": -1}, r"priority is -1; it must be 0 \(first\) to 999"),
        ({"priority": 1000}, "priority is 1000"),
        ({"max_tokens_per_document": 0}, "max_tokens_per_document is 0; it must be at least 1"),
        ({"max_tokens_per_query": -5}, "max_tokens_per_query is -5"),
        ({"max_tokens_per_pair": 0}, "max_tokens_per_pair is 0"),
        ({"pairs": [("q", "d"), ("q", 5)]}, r"pair 1 is \(str, int\); it must be two strings"),
    ],
)
def test_what_is_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Work(**{"pairs": [("q", "d")], **options})  # type: ignore[arg-type]


def test_the_ends_of_the_range() -> None:
    assert Work([], priority=999, max_tokens_per_pair=1).priority == 999
    assert Work([]).priority == 0
