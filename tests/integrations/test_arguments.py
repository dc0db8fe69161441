"""What the adapters say to arguments of wrong types; Haystack's have other names (test_haystack.py)."""

from __future__ import annotations

from typing import Any

import pytest

from crossrank.errors import InputError
from crossrank.integrations.langchain import CrossRankCompressor
from crossrank.integrations.llamaindex import CrossRankPostprocessor
from crossrank.integrations.pyterrier import CrossRankTransformer


@pytest.mark.parametrize("adapter", [CrossRankCompressor, CrossRankPostprocessor, CrossRankTransformer])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_n": "3"}, "top_n is '3'"),
        ({"top_n": 2.5}, "top_n is 2.5"),
        ({"threshold": "x"}, "threshold is 'x'"),
        ({"model": None}, "model is None"),
        ({"options": [1]}, r"options is \[1\]"),
        ({"options": {"threads": "2"}}, "threads is '2'"),
        ({"model": "http://127.0.0.1:9", "api_key": 1}, "api_key is of type int"),
    ],
)
def test_wrong_types_are_errors(adapter: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapter(**arguments)
