"""The description of the API, and the page that shows it."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from typing import Any

import pytest

from tests.server.asgi import app_of, ask
from tests.server.serving import fake


@cache
def description(**settings: Any) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with app_of(fake(), **settings) as (app, _):
            headers = {"authorization": "Bearer k"}
            found: dict[str, Any] = (await ask(app, "/openapi.json", headers=headers)).json
            return found

    return asyncio.run(main())


DIALECTS = ["cohere", "jina", "vllm", "xinference", "infinity", "voyage"]
PATHS = {
    ("/rerank", "post"),
    ("/v1/rerank", "post"),
    ("/v2/rerank", "post"),
    ("/reranking", "post"),
    ("/v1/reranking", "post"),
    ("/predict", "post"),
    ("/score", "post"),
    ("/v1/score", "post"),
    ("/compare", "post"),
    ("/explain", "post"),
    ("/health", "get"),
    ("/health/live", "get"),
    ("/ping", "get"),
    ("/version", "get"),
    ("/info", "get"),
    ("/metrics", "get"),
    ("/v1/models", "get"),
    ("/v1/models/{name}", "get"),
    ("/v1/cluster/auth", "get"),
    ("/models", "get"),
    ("/models/reload", "post"),
    *((f"/{name}/rerank", "post") for name in [*DIALECTS, "tei"]),
    *((f"/{name}/v1/rerank", "post") for name in DIALECTS),
    ("/cohere/v2/rerank", "post"),
    ("/vllm/v2/rerank", "post"),
    ("/vllm/score", "post"),
    ("/vllm/v1/score", "post"),
    ("/tei/predict", "post"),
}


def test_all_paths_are_described() -> None:
    paths = description()["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == PATHS


@pytest.mark.parametrize(
    "path", sorted(path for path, what in PATHS if what == "post" and "reload" not in path)
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_answers_and_errors_are_described(path: str, dialect: str) -> None:
    found = description(dialect=dialect)
    operation = found["paths"][path]["post"]
    schemas = found["components"]["schemas"]
    for reference in re.findall(r"#/components/schemas/(\w+)", str(operation)):
        assert schemas[reference]["properties"]
    assert operation["requestBody"]["required"]
    codes = set(operation["responses"])
    assert {"200", "400", "401", "408", "413", "429", "503", "504"} <= codes
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "X-Request-Id",
        "X-Client-Name",
        "X-Request-Timeout",
    }


@pytest.mark.parametrize("dialect", DIALECTS)
def test_everything_is_described(dialect: str) -> None:
    found = description(dialect=dialect)
    schemas = found["components"]["schemas"]
    undescribed = [name for name, schema in schemas.items() if not schema.get("description")]
    undescribed += [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, of in schema["properties"].items()
        if not of.get("description") or not (of.get("title") or "$ref" in of or "anyOf" in of)
    ]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            parts = {f"{path} {code}": each for code, each in operation["responses"].items()}
            parts |= {f"{path} {each['name']}": each for each in operation.get("parameters", ())}
            fastapis = ("", "Successful Response", "Validation Error")
            undescribed += [name for name, each in parts.items() if each.get("description", "") in fastapis]
            if not operation.get("summary"):
                undescribed.append(f"{method} {path}")
    assert undescribed == []
    assert "Raises:" not in str(found)  # what is only for readers of the code
    assert all(schema["title"] for schema in schemas.values())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_body_has_an_example_that_is_so(dialect: str) -> None:
    found = description(dialect=dialect)
    schemas = found["components"]["schemas"]

    def examples_of(body: object) -> list[Any]:
        names = dict.fromkeys(re.findall(r"#/components/schemas/(\w+)", str(body)))
        assert names, body
        return [example for name in names for example in schemas[name]["examples"]]

    async def main() -> None:
        async with app_of(fake(lambda ids: len(ids) / 8), dialect=dialect) as (app, _):
            for path, methods in found["paths"].items():
                if "post" not in methods or "reload" in path:
                    continue
                operation = methods["post"]
                answers = [example.keys() for example in examples_of(operation["responses"]["200"])]
                for asked in examples_of(operation["requestBody"]):
                    response = await ask(
                        app, path, {**asked, **({"model": "model"} if "model" in asked else {})}
                    )
                    assert response.status == 200, (path, asked, response.content)
                    given = response.json
                    while isinstance(given, list):
                        given = given[0]
                    assert given.keys() in answers
                errors = [example.keys() for example in examples_of(operation["responses"]["400"])]
                assert (await ask(app, path, b"{")).json.keys() in errors

    asyncio.run(main())


def test_what_has_no_schema_has_an_example_too() -> None:
    for path, methods in description()["paths"].items():
        for operation in methods.values():
            good = operation["responses"]["200"]["content"].get("application/json")
            assert good is None or "$ref" in str(good["schema"]) or good["example"], path


def test_the_documented_fields() -> None:
    schemas = description()["components"]["schemas"]
    assert {"query", "texts", "truncate", "truncation_direction", "raw_scores", "return_text"} == set(
        schemas["TeiRequest"]["properties"]
    )
    superset = (
        "model query documents top_n return_documents rank_fields max_chunks_per_doc max_tokens_per_doc"
    )
    superset += (
        " max_tokens_per_query truncate_prompt_tokens truncation_side use_activation raw_scores priority"
    )
    assert set(superset.split()) | {"request_id", "instruction", "long", "max_windows"} == set(
        schemas["SupersetRequest"]["properties"]
    )


def test_keys_are_described_where_they_are_asked_for() -> None:
    assert "security" not in description()
    secured = description(api_keys=("k",))
    assert secured["security"] == [{"key": []}]
    assert secured["paths"]["/health"]["get"]["security"] == []
    assert secured["paths"]["/ping"]["get"]["security"] == []
    assert "security" not in secured["paths"]["/vllm/rerank"]["post"]


def test_the_page_shows_everything_and_asks_no_other_host() -> None:
    async def main() -> str:
        async with app_of(fake()) as (app, _):
            response = await ask(app, "/docs")
            assert response.headers["content-type"].startswith("text/html")
            return response.content.decode()

    html = asyncio.run(main())
    for path, method in PATHS:
        assert f"{method.upper()} {path}</code>" in html
    assert html.count("For example:") > 20
    assert "Paris is the seat of government." in html
    for field in ("texts", "rank_fields", "truncate_prompt_tokens", "error_type", "X-Request-Timeout"):
        assert f"<td>{field}" in html
    assert "://" not in html
    assert "<script" not in html
