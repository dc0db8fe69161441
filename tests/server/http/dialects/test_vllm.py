from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.server.asgi import Response, app_of, ask
from tests.server.serving import ENCODER, expected, fake


def score(body: dict[str, Any], path: str = "/score", **headers: str) -> Response:
    async def main() -> Response:
        async with app_of(fake()) as (app, _):
            return await ask(app, path, body, headers=headers)

    return asyncio.run(main())


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    ("queries", "documents"),
    [
        ("queries", "documents"),
        ("text_1", "text_2"),
        ("data_1", "data_2"),
        ("queries", "items"),
        ("text_1", "data_2"),
    ],
)
def test_all_names_of_the_texts(path: str, queries: str, documents: str) -> None:
    answer = score({queries: "a", documents: ["x", "y"], "use_activation": False}, path).json
    assert [datum["score"] for datum in answer["data"]] == expected([("a", "x"), ("a", "y")])


@pytest.mark.parametrize(
    ("queries", "documents", "pairs"),
    [
        ("a", "x", [("a", "x")]),
        (["a"], "x", [("a", "x")]),
        ("a", ["x", "y", "z"], [("a", "x"), ("a", "y"), ("a", "z")]),
        (["a"], ["x", "y"], [("a", "x"), ("a", "y")]),
        (["a", "b"], ["x", "y"], [("a", "x"), ("b", "y")]),
        (
            {"type": "text", "text": "a"},
            {"content": [{"type": "text", "text": "x"}, "y"]},
            [("a", "x"), ("a", "y")],
        ),
    ],
)
def test_one_to_one_one_to_many_and_many_to_many(
    queries: Any, documents: Any, pairs: list[tuple[str, str]]
) -> None:
    answer = score({"queries": queries, "documents": documents, "use_activation": False}).json
    assert [datum["score"] for datum in answer["data"]] == expected(pairs)


def test_the_answer() -> None:
    answer = score({"text_1": "a", "text_2": ["x", "long " * 100]}, **{"x-request-id": "mine"}).json
    tokens = sum(len(pair.token_ids) for pair in ENCODER.encode("a", ["x", "long " * 100]))
    assert answer.pop("created") > 1_600_000_000
    scores = [datum.pop("score") for datum in answer["data"]]
    assert all(0 <= number <= 1 for number in scores)
    assert answer == {
        "id": "score-mine",
        "object": "list",
        "model": "model",
        "data": [{"index": 0, "object": "score"}, {"index": 1, "object": "score", "truncated": True}],
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def test_a_query_that_was_cut_is_called_the_query() -> None:
    data = score({"text_1": ["a", "long " * 100], "text_2": ["x", "y"]}).json["data"]
    assert [(d.get("query_truncated"), d.get("truncated")) for d in data] == [(None, None), (True, None)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"queries": ["a", "b"], "documents": ["x"]}, "2 queries and 1 documents"),
        ({"queries": ["a", "b"], "documents": ["x", "y", "z"]}, "2 queries and 3 documents"),
        ({"queries": [], "documents": ["x"]}, "at least one"),
        ({"queries": "a", "documents": []}, "at least one"),
        ({"documents": ["x"]}, "missing field `queries`"),
        ({"queries": "a"}, "missing field `documents`"),
        ({"queries": 1, "documents": "x"}, "queries: Input should be a valid list; or: "),
        ({"queries": "a", "documents": ["b", 7]}, "documents.1 is of type int"),
        ({"queries": [{"title": "x"}], "documents": "a"}, "queries.0 has none of the fields"),
        ({"queries": "a", "documents": "x", "truncate_prompt_tokens": 2}, "takes at least"),
    ],
)
def test_mistakes(body: dict[str, Any], message: str) -> None:
    response = score(body)
    assert response.status == 400
    error = response.json["error"]
    assert (error["type"], error["code"]) == ("BadRequestError", 400)
    assert message in error["message"]
