"""One server for all dialects at once: prefixes, aliases, and paths that only one project has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from crossrank import __version__
from crossrank.loading import LoadedModel
from crossrank.server.core.model import ModelSpec
from crossrank.server.http.app import create_app
from crossrank.server.http.dialects import PREFIXED, Dialects
from crossrank.server.settings import DIALECTS, Limits, Settings
from tests.server.asgi import app_of, ask, body_of
from tests.server.serving import ENCODER, fake, registry, serve

PATHS = list(Dialects("cohere").paths)
ASKED = {
    "query": "which?",
    "documents": ["one", {"text": "two and more", "page": 7}],
    "return_documents": True,
}
PLAIN = {"query": "which?", "documents": ["one", "two and more"]}
ONE, MORE = {"index": 0}, {"index": 1}


def logit(ids: Any) -> float:
    return len(ids) / 8


def of_path(path: str, body: dict[str, Any], **settings: Any) -> Any:
    async def main() -> Any:
        async with app_of(fake(logit), **settings) as (app, _):
            return (await ask(app, path, body)).json

    return asyncio.run(main())


def shape(error: Any) -> list[str]:
    """By what the errors of dialects differ."""
    return sorted(error) + (["an object"] if isinstance(error.get("error"), dict) else [])


TEI, OPENAI, COHERE, DETAIL = ["error", "error_type"], ["error", "an object"], ["id", "message"], ["detail"]
ERRORS = {
    "tei": TEI,
    "cohere": COHERE,
    "jina": DETAIL,
    "vllm": OPENAI,
    "xinference": DETAIL,
    "infinity": OPENAI,
    "voyage": DETAIL,
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("prefix", "document"),
    [
        ("cohere", {"text": "two and more", "page": 7}),
        ("jina", {"text": "two and more", "page": 7}),
        ("vllm", {"text": "two and more", "multi_modal": None, "page": 7}),
        ("xinference", {"text": "two and more", "page": 7}),
        ("infinity", "two and more"),
    ],
)
def test_the_same_body_is_answered_as_its_prefix_has_it(prefix: str, document: Any, dialect: str) -> None:
    for path in ("rerank", "v1/rerank"):
        found = of_path(f"/{prefix}/{path}", ASKED, dialect=dialect)
        assert [hit["index"] for hit in found["results"]] == [1, 0]
        assert found["results"][0]["document"] == document


@pytest.mark.parametrize(
    ("prefix", "fields"),
    [
        ("cohere", {"index", "relevance_score"}),
        ("jina", {"index", "relevance_score", "document"}),
        ("vllm", {"index", "relevance_score", "document"}),
        ("xinference", {"index", "relevance_score", "document"}),
        ("infinity", {"index", "relevance_score", "document"}),
    ],
)
def test_a_prefix_has_its_own_defaults(prefix: str, fields: set[str]) -> None:
    found = of_path(f"/{prefix}/v1/rerank", PLAIN)
    assert set(found["results"][0]) == fields


def test_voyage_and_tei_have_another_answer() -> None:
    for path in ("/voyage/rerank", "/voyage/v1/rerank"):
        found = of_path(path, PLAIN | {"top_k": 1})
        assert [hit["index"] for hit in found["data"]] == [1]
    found = of_path("/tei/rerank", {"query": "which?", "texts": PLAIN["documents"]})
    assert [hit["index"] for hit in found] == [1, 0]
    assert of_path("/tei/predict", {"inputs": ["which?", "one"]})[0]["label"] == "LABEL_0"


def test_versions_of_cohere_and_paths_of_vllm() -> None:
    found = of_path("/cohere/v2/rerank", ASKED)
    assert found["meta"]["api_version"] == {"version": "2"}
    assert all("document" not in hit for hit in found["results"])
    assert of_path("/vllm/v2/rerank", PLAIN)["results"][0]["document"]["multi_modal"] is None
    for path in ("/vllm/score", "/vllm/v1/score"):
        assert of_path(path, {"queries": "which?", "documents": ["one"]})["object"] == "list"


@pytest.mark.parametrize("prefix", ERRORS)
@pytest.mark.parametrize("body", [b"{", {}, {"texts": []}, {"documents": []}, {"query": "a"}])
def test_a_body_of_another_dialect_is_this_ones_error(prefix: str, body: Any) -> None:
    assert shape(of_path(f"/{prefix}/rerank", body)) == ERRORS[prefix]


def test_texts_or_documents_do_not_choose_the_dialect_below_a_prefix() -> None:
    both = {**PLAIN, "texts": ["a"]}
    assert len(of_path("/infinity/rerank", both)["results"]) == 2
    assert of_path("/tei/rerank", both)[0]["index"] == 0
    assert "missing field `texts`" in of_path("/tei/rerank", PLAIN)["error"]
    assert (
        "missing field `documents`"
        in of_path("/vllm/rerank", {"query": "q", "texts": ["a"]})["error"]["message"]
    )


# --- what is around the requests ---


@pytest.mark.parametrize("path", PATHS)
def test_keys_and_limits_hold_on_every_path(path: str) -> None:
    async def main() -> None:
        settings: dict[str, Any] = {"api_keys": ["k"], "limits": Limits(max_body_bytes=300, max_documents=2)}
        async with app_of(fake(), **settings) as (app, _):
            key = {"authorization": "Bearer k"}
            body = body_of(path)
            if path == "/explain":
                body = {"query": "which?", "document": "One. Two."}
            expected = shape((await ask(app, path, {}, headers=key)).json)
            refused = await ask(app, path, body)
            assert (refused.status, shape(refused.json)) == (401, expected)
            large = await ask(app, path, body | {"x": "x" * 300}, headers=key)
            assert (large.status, shape(large.json)) == (413, expected)
            assert (await ask(app, path, body, headers=key)).status == 200
            if path != "/explain":
                many = await ask(app, path, body_of(path, ["a", "b", "c"]), headers=key)
                assert many.status in (400, 422)
                assert "--max-documents" in many.content.decode()
            assert (await ask(app, path, headers=key)).status == 405

    asyncio.run(main())


SAME = ["/health", "/health/live", "/ping", "/version", "/info", "/v1/models", "/v1/models/model", "/models"]


@pytest.mark.parametrize("prefix", PREFIXED)
def test_other_paths_are_the_same_below_a_prefix(prefix: str) -> None:
    async def main() -> None:
        async with app_of(fake(), api_keys=["k"]) as (app, _):
            for path in [*SAME, "/v1/cluster/auth"]:
                for headers in ({}, {"authorization": "Bearer k"}):
                    plain = await ask(app, path, headers=headers)
                    below = await ask(app, f"/{prefix}{path}", headers=headers)
                    assert below.status == plain.status
                    if plain.status == 200:
                        assert below.json == plain.json
                    else:
                        assert (plain.status, shape(below.json)) == (401, ERRORS[prefix])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/jina/nothing", DETAIL),
        ("/tei/v1/rerank", TEI),
        ("/vllm/compare", OPENAI),
        ("/vllm/tei/rerank", OPENAI),
        ("/xinference/v1/models/none", DETAIL),
        ("/nobody/rerank", OPENAI),
        ("/vllm", OPENAI),
        ("/vllm//health", OPENAI),
    ],
)
def test_what_is_not_below_a_prefix(path: str, expected: list[str]) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, path, method="GET" if "models" in path else "POST")
            assert (response.status, shape(response.json)) == (404, expected)
            if "models" not in path:
                assert f"POST {path} is not served here" in response.content.decode()

    asyncio.run(main())


def test_a_model_is_reloaded_below_a_prefix_only_by_the_admin() -> None:
    async def main() -> None:
        async with app_of(fake(), api_keys=["k"], admin_key="boss") as (app, _):
            for key, status in (("k", 403), ("x", 401), ("boss", 200)):
                headers = {"authorization": f"Bearer {key}"}
                response = await ask(app, "/vllm/models/reload", method="POST", headers=headers)
                assert response.status == status

    asyncio.run(main())


# --- paths of single projects ---


@pytest.mark.parametrize("path", ["/reranking", "/v1/reranking"])
def test_llama_cpps_paths_take_documents_or_texts(path: str) -> None:
    found = of_path(path, PLAIN | {"top_n": 1})
    assert found["results"][0]["index"] == 1
    assert {"model", "object", "usage", "results"} <= set(found)
    assert [hit["index"] for hit in of_path(path, {"query": "which?", "texts": ["one"]})] == [0]


def test_vllms_ping_and_version() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, served):
            assert (await ask(app, "/ping")).status == 200
            assert (await ask(app, "/version")).json == {"version": __version__}
            await served.drain(1)
            assert (await ask(app, "/ping")).status == 503

    asyncio.run(main())


# --- aliases ---


def test_an_alias_costs_no_second_copy_and_is_listed() -> None:
    loads: list[str] = []

    def loading(name: str) -> ModelSpec:
        def load() -> LoadedModel:
            loads.append(name)
            return LoadedModel(ENCODER, fake(logit))

        return ModelSpec(name, load, f"org/{name}")

    async def main() -> None:
        settings = Settings(models=["a", "b"], aliases=["rerank-v3.5=b"], admin_key="boss")
        async with registry(loading("a"), loading("b"), aliases=settings.names_of_aliases()) as served:
            app = create_app(settings, served)
            assert loads == ["a", "b"]
            for path in ("/v1/models", "/models"):
                listed = (await ask(app, path)).json["data"]
                assert [each["id"] for each in listed] == ["a", "b", "rerank-v3.5"]
                assert listed[2] == listed[1] | {"id": "rerank-v3.5"}
            assert (await ask(app, "/v1/models/rerank-v3.5")).json["root"] == "org/b"
            info = (await ask(app, "/info")).json["models"]
            assert [(each["name"], each["alias_of"]) for each in info][1:] == [
                ("b", None),
                ("rerank-v3.5", "b"),
            ]
            for path in ("/v1/rerank", "/v2/rerank", "/score", "/compare"):
                answer = await ask(app, path, body_of(path, model="rerank-v3.5"))
                assert (answer.status, answer.json["model"]) == (200, "b")
            unknown = (await ask(app, "/v1/rerank", body_of("/v1/rerank", model="c"))).json
            assert unknown["message"].endswith("there is: a, b, rerank-v3.5")
            headers = {"authorization": "Bearer boss"}
            one = await ask(app, "/models/reload?model=rerank-v3.5", method="POST", headers=headers)
            assert (one.status, loads) == (200, ["a", "b", "b"])
            every = await ask(app, "/models/reload", method="POST", headers=headers)
            assert (every.json, loads) == ({"reloaded": ["a", "b"]}, ["a", "b", "b", "a", "b"])

    asyncio.run(main())


def test_an_alias_of_the_first_model_reads_alone() -> None:
    async def main() -> None:
        small, large = fake(logit), fake(logit)
        models = [serve(large, "large"), serve(small, "small")]
        async with registry(*models, first="small", keep=1, aliases={"s": "small", "l": "large"}) as served:
            app = create_app(Settings(), served)
            large.packs.clear()
            await ask(app, "/v1/rerank", body_of("/v1/rerank", model="s"))
            assert not large.packs
            answer = (await ask(app, "/v1/rerank", body_of("/v1/rerank", model="l"))).json
            assert (answer["model"], len(large.packs)) == ("large", 1)

    asyncio.run(main())
