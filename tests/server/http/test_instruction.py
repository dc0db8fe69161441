"""An instruction in requests: in which fields, what the model then reads, and where it is ignored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from crossrank.loading import LoadedModel
from crossrank.server.core.model import ModelSpec
from tests.prompted import INSTRUCTION, prompted_encoder
from tests.server.asgi import Response, app_of, ask
from tests.server.serving import checksum, fake, serve, value

ENCODER = prompted_encoder()
OWN = "Find what contradicts the query"
TEXTS = ["Beijing", "Paris is the capital of France. London is not."]
WARNING = "plain takes no instruction: it was ignored"


def prompted() -> ModelSpec:
    return ModelSpec("prompted", lambda: LoadedModel(ENCODER, fake()))


def answered(
    path: str, body: Mapping[str, Any], *, dialect: str = "cohere", model: str = "prompted"
) -> Response:
    """What a server answers that has a model with a prompt, and one without."""

    async def main() -> Response:
        async with app_of(prompted(), serve(fake(), "plain"), dialect=dialect) as (app, _):
            return await ask(app, path, {"model": model, **body})

    return asyncio.run(main())


def logits(instruction: str | None) -> list[float]:
    pairs = ENCODER.encode("capital of China", TEXTS, instruction=instruction)
    return [checksum(pair.token_ids) for pair in pairs]


RERANK = {"query": "capital of China", "documents": TEXTS, "use_activation": False, "raw_scores": True}
PATHS = [
    ("/v1/rerank", "cohere"),
    ("/v2/rerank", "cohere"),
    ("/rerank", "cohere"),
    ("/v1/rerank", "jina"),
    ("/v1/rerank", "vllm"),
    ("/v1/rerank", "xinference"),
    ("/rerank", "infinity"),
]


def scores(response: Response) -> list[float]:
    """Of a rerank answer, in the order of the request."""
    assert response.status == 200, response.content
    return [hit["relevance_score"] for hit in sorted(response.json["results"], key=lambda hit: hit["index"])]


@pytest.mark.parametrize(("path", "dialect"), PATHS)
@pytest.mark.parametrize("name", ["instruction", "instruct"])
def test_rerank_requests_have_it_under_two_names(path: str, dialect: str, name: str) -> None:
    told = answered(path, {**RERANK, name: OWN}, dialect=dialect)
    assert scores(told) == logits(OWN)
    assert "warnings" not in told.json["meta"]
    tokens = sum(pair.tokens for pair in ENCODER.encode("capital of China", TEXTS, instruction=OWN))
    assert told.json["usage"]["total_tokens"] == tokens


@pytest.mark.parametrize("fields", [{}, {"instruction": None}, {"instruct": ""}])
def test_without_one_the_models_own_is_used(fields: dict[str, Any]) -> None:
    assert scores(answered("/v1/rerank", {**RERANK, **fields})) == logits(None) == logits(INSTRUCTION)


@pytest.mark.parametrize("name", ["instruction", "instruct"])
def test_score_compare_and_explain_have_it_too(name: str) -> None:
    query = "capital of China"
    body = {"queries": query, "documents": TEXTS, "use_activation": False, name: OWN}
    assert [each["score"] for each in answered("/score", body).json["data"]] == logits(OWN)
    found = answered("/compare", {"query": query, "documents": TEXTS, name: OWN}).json
    assert [each["logit"] for each in found["documents"]] == logits(OWN)
    explained = answered("/explain", {"query": query, "document": TEXTS[1], name: OWN}).json
    assert explained["logit"] == logits(OWN)[1]
    (alone,) = ENCODER.encode(query, ["Paris is the capital of France."], instruction=OWN)
    assert explained["sentences"][0]["logit"] == checksum(alone.token_ids)


@pytest.mark.parametrize(("path", "dialect"), PATHS)
def test_a_model_without_one_ignores_it_and_says_so(path: str, dialect: str) -> None:
    plain = answered(path, RERANK, dialect=dialect, model="plain")
    told = answered(path, {**RERANK, "instruction": OWN}, dialect=dialect, model="plain")
    assert scores(told) == scores(plain)
    assert told.json["meta"]["warnings"] == [WARNING]


def test_score_compare_and_explain_say_so_too() -> None:
    for path, body in (
        ("/score", {"queries": "q", "documents": TEXTS}),
        ("/compare", {"query": "q", "documents": TEXTS}),
        ("/explain", {"query": "q", "document": TEXTS[1]}),
    ):
        told = answered(path, {**body, "instruction": OWN}, model="plain")
        assert told.json["meta"] == {"warnings": [WARNING]}, path
        assert "meta" not in answered(path, body, model="plain").json


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (3, "instruction: Input should be a valid string"),
        ("x" * 10_001, "instruction: String should have at most 10000 characters"),
        ("China " * 300, "the instruction is too long"),
    ],
)
def test_what_it_may_not_be(instruction: object, message: str) -> None:
    refused = answered("/v1/rerank", {**RERANK, "instruction": instruction})
    assert refused.status == 400
    assert message in refused.json["message"]


def test_the_cache_tells_instructions_apart() -> None:
    async def main() -> None:
        async with app_of(prompted(), options={"score_cache_bytes": 1 << 20}) as (app, registry):
            for told in (None, OWN, None, OWN):
                response = await ask(app, "/v1/rerank", {**RERANK, "instruction": told})
                assert scores(response) == logits(told)
            assert value(registry, "crossrank_cache_hits_total") == 4

    asyncio.run(main())


def test_info_says_which_model_takes_one() -> None:
    async def main() -> None:
        async with app_of(prompted(), serve(fake(), "plain")) as (app, _):
            models = (await ask(app, "/info", None, method="GET")).json["models"]
            assert [model["instruction"] for model in models] == [INSTRUCTION, None]

    asyncio.run(main())
