"""A server that reads long documents in windows: what the dialects say of it that have no field for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crossrank.loading import LoadedModel
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import PairEncoder
from crossrank.server.core.model import ModelSpec
from tests.server.asgi import Response, app_of, ask
from tests.server.serving import checksum, fake

LONG = " ".join(f"Sentence {i} has the number {i * i}." for i in range(60))
ENCODER = PairEncoder(resolve(BUNDLED) / "tokenizer.json", max_length=64, long="windows", max_windows=100)
(PAIRS,) = ENCODER.join_windows(ENCODER.query("q"), [LONG])
BEST = max(PAIRS, key=lambda pair: checksum(pair.token_ids))


def post(path: str, body: dict[str, Any], dialect: str = "cohere") -> Response:
    async def main() -> Response:
        spec = ModelSpec("model", lambda: LoadedModel(ENCODER, fake()))
        async with app_of(spec, dialect=dialect) as (app, _):
            return await ask(app, path, body)

    return asyncio.run(main())


def test_voyage_says_which_window_won() -> None:
    answer = post("/v1/rerank", {"query": "q", "documents": [LONG, "short"]}, "voyage").json
    found = {hit["index"]: hit for hit in answer["data"]}
    assert found[0]["window"] == list(BEST.window or ())
    assert ("truncated" in found[0], "window" in found[1]) == (False, False)
    assert answer["usage"]["total_tokens"] > sum(pair.tokens for pair in PAIRS)


def test_tei_gives_the_best_windows_score() -> None:
    (answer,) = post("/rerank", {"query": "q", "texts": [LONG], "raw_scores": True}).json
    assert answer == {"index": 0, "score": checksum(BEST.token_ids)}


def test_scores_of_pairs_say_which_window_won() -> None:
    body = {"queries": "q", "documents": [LONG], "use_activation": False}
    (found,) = post("/score", body).json["data"]
    assert (found["score"], found["window"]) == (checksum(BEST.token_ids), list(BEST.window or ()))
    (cut,) = post("/score", body | {"long": "cut"}).json["data"]
    assert (cut["truncated"], "window" in cut) == (True, False)


@pytest.mark.parametrize(
    ("path", "dialect", "body"),
    [
        ("/rerank", "cohere", {"texts": [LONG], "truncate": False}),
        ("/v1/rerank", "voyage", {"documents": [LONG], "truncation": False}),
    ],
)
def test_who_wants_no_document_cut_gets_an_error_all_the_same(
    path: str, dialect: str, body: dict[str, Any]
) -> None:
    response = post(path, {"query": "q"} | body, dialect)
    assert response.status in (400, 422)
    assert "64" in response.content.decode()
