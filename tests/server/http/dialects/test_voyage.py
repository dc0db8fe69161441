from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.server.asgi import Response, app_of, ask
from tests.server.serving import ENCODER, fake

TEXTS = ["one", "two words", "long " * 100]


def rerank(**body: Any) -> Response:
    async def main() -> Response:
        async with app_of(fake(lambda ids: len(ids) / 8), dialect="voyage") as (app, _):
            return await ask(app, "/v1/rerank", {"query": "q", "documents": TEXTS, **body})

    return asyncio.run(main())


def test_the_answer() -> None:
    answer = rerank(model="model").json
    tokens = sum(len(pair.token_ids) for pair in ENCODER.encode("q", TEXTS))
    assert [hit.pop("relevance_score") > 0.5 for hit in answer["data"]] == [True] * 3
    assert answer == {
        "object": "list",
        "data": [{"index": 2, "truncated": True}, {"index": 1}, {"index": 0}],
        "model": "model",
        "usage": {"total_tokens": tokens},
    }


def test_a_query_that_was_cut_is_called_the_query() -> None:
    (hit,) = rerank(query="long " * 100, documents=["one"]).json["data"]
    assert (hit["query_truncated"], "truncated" in hit) == (True, False)


def test_top_k_and_documents() -> None:
    data = rerank(top_k=2, return_documents=True).json["data"]
    assert [hit["document"] for hit in data] == TEXTS[:0:-1]
    assert rerank(top_k="2", return_documents="true").json["data"] == data
    assert len(rerank(top_k=0).json["data"]) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"truncation": False}, "at most 64 fit"),
        ({"documents": []}, "documents is empty"),
        ({"documents": [{"text": "a"}]}, "documents.0: "),
        ({"top_k": -1}, "top_k: "),
    ],
)
def test_mistakes(body: dict[str, Any], message: str) -> None:
    response = rerank(**body)
    assert response.status == 400
    assert message in response.json["detail"]
