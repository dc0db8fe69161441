from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crossrank.server.settings import Limits
from tests.server.asgi import Response, app_of, ask
from tests.server.serving import ENCODER, expected, fake

TEXTS = ["one", "two words", "and three words", "long " * 100]
LENGTH = [len(pair.token_ids) for pair in ENCODER.encode("q", TEXTS)]


def rerank(body: dict[str, Any], **settings: Any) -> Response:
    async def main() -> Response:
        async with app_of(fake(lambda ids: len(ids) / 8), **settings) as (app, _):
            return await ask(app, "/rerank", body)

    return asyncio.run(main())


def test_a_bare_list_best_first() -> None:
    found = rerank({"query": "q", "texts": TEXTS}).json
    assert [hit["index"] for hit in found] == [3, 2, 1, 0]
    assert all(set(hit) == {"index", "score"} for hit in found)
    assert all(0.5 < hit["score"] < 1 for hit in found)


def test_texts_come_back_if_asked() -> None:
    found = rerank({"query": "q", "texts": TEXTS, "return_text": True}).json
    assert [hit["text"] for hit in found] == TEXTS[::-1]


def test_raw_scores_are_logits() -> None:
    found = rerank({"query": "q", "texts": TEXTS, "raw_scores": True}).json
    assert [hit["score"] for hit in found] == [length / 8 for length in LENGTH[::-1]]


def test_fields_that_tei_does_not_know_are_ignored() -> None:
    assert len(rerank({"query": "q", "texts": TEXTS, "top_n": 1, "model": "x", "x": [1]}).json) == 4


@pytest.mark.parametrize("truncate", [None, True])
def test_what_is_too_long_is_cut(truncate: bool | None) -> None:
    response = rerank({"query": "q", "texts": TEXTS, "truncate": truncate})
    assert response.status == 200
    assert response.headers["x-truncated"] == "3"


def test_what_is_too_long_and_may_not_be_cut() -> None:
    response = rerank({"query": "q", "texts": TEXTS, "truncate": False})
    tokens = len(ENCODER._tokenizer.encode("q", TEXTS[3]).ids)
    assert response.status == 422
    assert response.json == {
        "error": f"Input validation error: `inputs` must have less than 64 tokens. Given: {tokens}",
        "error_type": "Validation",
    }


@pytest.mark.parametrize(
    ("direction", "side"), [("Left", "left"), ("left", "left"), ("Right", "right"), ("right", "right")]
)
def test_either_end_is_lost(direction: str, side: str) -> None:
    words = " ".join(str(i) for i in range(200))

    async def main() -> Any:
        seen: list[list[int]] = []

        def logit(ids: Any) -> float:
            seen.append(ids.tolist())
            return 0.0

        async with app_of(fake(logit)) as (app, _):
            seen.clear()
            await ask(app, "/rerank", {"query": "q", "texts": [words], "truncation_direction": direction})
            return seen[0]

    from crossrank.pairs import Cut

    cut = ENCODER.encode("q", [words], Cut(side=side))[0]  # type: ignore[arg-type]
    assert asyncio.run(main()) == cut.token_ids.tolist()


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        (b"{", 400, "Validation", "not valid JSON"),
        ({"query": "q", "texts": []}, 400, "Empty", "`texts` cannot be empty"),
        ({"query": "q"}, 422, "Validation", "missing field `texts`"),
        ({"texts": ["a"]}, 422, "Validation", "missing field `query`"),
        ({"query": "q", "texts": "a"}, 422, "Validation", "texts: "),
        ({"query": "q", "texts": ["a", 1]}, 422, "Validation", "texts.1: "),
        (
            {"query": "q", "texts": ["a"], "truncation_direction": "up"},
            422,
            "Validation",
            "truncation_direction: ",
        ),
        ({"query": "q", "texts": ["a"], "raw_scores": 1}, 422, "Validation", "raw_scores: "),
        (
            {"query": "q", "texts": ["a"] * 33},
            422,
            "Validation",
            "batch size 33 > maximum allowed batch size 32",
        ),
    ],
)
def test_errors(body: Any, status: int, kind: str, message: str) -> None:
    response = rerank(body, limits=Limits(max_documents=32))
    assert response.status == status
    assert response.json["error_type"] == kind
    assert message in response.json["error"]


def test_overload_is_teis() -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine, max_concurrent_requests=1) as (app, _):
            engine.gate.clear()
            first = asyncio.ensure_future(ask(app, "/rerank", {"query": "q", "texts": ["a"]}))
            await asyncio.sleep(0.05)
            response = await ask(app, "/rerank", {"query": "q", "texts": ["a"]})
            assert (response.status, response.json["error_type"]) == (429, "Overloaded")
            assert response.json["error"].startswith("Model is overloaded")
            engine.gate.set()
            await first

    asyncio.run(main())


def test_the_order_is_by_logit_where_scores_are_equal() -> None:
    async def main() -> None:
        async with app_of(fake(lambda ids: 40.0 + len(ids) / 1000)) as (app, _):
            found = (await ask(app, "/rerank", {"query": "q", "texts": TEXTS})).json
            assert {hit["score"] for hit in found} == {1.0}
            assert [hit["index"] for hit in found] == [3, 2, 1, 0]

    asyncio.run(main())


def test_scores_are_those_of_the_pairs() -> None:
    pairs = [("which?", text) for text in TEXTS]

    async def main() -> Any:
        async with app_of(fake()) as (app, _):
            return (await ask(app, "/rerank", {"query": "which?", "texts": TEXTS, "raw_scores": True})).json

    found = {hit["index"]: hit["score"] for hit in asyncio.run(main())}
    assert [found[i] for i in range(4)] == expected(pairs)


# --- POST /predict ---

PAIRS = [["q", text] for text in TEXTS]


def predict(body: dict[str, Any], **settings: Any) -> Response:
    async def main() -> Response:
        async with app_of(fake(lambda ids: len(ids) / 8), **settings) as (app, _):
            return await ask(app, "/predict", body)

    return asyncio.run(main())


def test_pairs_are_scored_in_their_order() -> None:
    found = predict({"inputs": PAIRS, "raw_scores": True}).json
    assert found == [[{"score": length / 8, "label": "LABEL_0"}] for length in LENGTH]
    assert all(0.5 < each[0]["score"] < 1 for each in predict({"inputs": PAIRS}).json)


def test_a_pair_alone_is_answered_alone() -> None:
    assert predict({"inputs": PAIRS[1], "raw_scores": True}).json == [
        {"score": LENGTH[1] / 8, "label": "LABEL_0"}
    ]


def test_each_pair_has_its_own_query() -> None:
    pairs = [("a", "b c"), ("d e f", "g")]

    async def main() -> Any:
        async with app_of(fake()) as (app, _):
            return (await ask(app, "/predict", {"inputs": pairs, "raw_scores": True})).json

    assert [each[0]["score"] for each in asyncio.run(main())] == expected(pairs)


def test_a_pair_that_is_too_long_is_cut_unless_it_may_not_be() -> None:
    assert predict({"inputs": PAIRS}).headers["x-truncated"] == "3"
    refused = predict({"inputs": PAIRS, "truncate": False})
    assert (refused.status, refused.json["error_type"]) == (422, "Validation")
    assert "`inputs` must have less than 64 tokens" in refused.json["error"]


@pytest.mark.parametrize(
    ("inputs", "status", "kind", "message"),
    [
        ("one text", 422, "Validation", "inputs: "),
        ([], 400, "Empty", "`inputs` cannot be empty"),
        (["one text"], 422, "Validation", "inputs: a reranker scores pairs; it must be [query, text]"),
        (["q", 1], 422, "Validation", "inputs: a reranker scores pairs"),
        ([["q", "a"], ["b"]], 422, "Validation", "inputs.1: a reranker scores pairs"),
        ([["q", "a"], "b"], 422, "Validation", "inputs.1: a reranker scores pairs"),
        ([["q", "a"]] * 33, 422, "Validation", "batch size 33 > maximum allowed batch size 32"),
    ],
)
def test_errors_of_pairs(inputs: Any, status: int, kind: str, message: str) -> None:
    response = predict({"inputs": inputs}, limits=Limits(max_documents=32))
    assert response.status == status
    assert response.json["error_type"] == kind
    assert message in response.json["error"]
