"""What is true in every dialect: faults, limits, keys, and what is around the answers."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.types import ASGIApp

from crossrank.errors import ModelNotFoundError
from crossrank.loading import LoadedModel
from crossrank.server.core.model import ModelSpec
from crossrank.server.core.registry import Registry
from crossrank.server.http import endpoint as service_module
from crossrank.server.http.dialects import Dialect, Dialects
from crossrank.server.settings import DIALECTS, Limits
from tests.server.asgi import Asked, Response, app_of, ask, body_of
from tests.server.serving import ENCODER, encode, fake, serve, until, value


def _dialects() -> list[type[Dialect]]:
    """Every dialect, by the one that has its requests."""
    found: list[type[Dialect]] = []
    for name in DIALECTS:
        found += [type(each) for _, kinds in Dialects(name).paths.values() for each in kinds]
    return list({kind.Request: kind for kind in found}.values())


PATHS = ["/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score", "/compare"]


def message_of(response: Response) -> str:
    """What an error says, in any dialect; it must say something."""
    body = response.json
    found = body.get("message") or body.get("detail") or body["error"]
    message = found["message"] if isinstance(found, dict) else found
    assert isinstance(message, str)
    assert message
    return message


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- bodies that are not requests ---

WRONG_BODIES = {
    "nothing": b"",
    "not JSON": b"query=1",
    "half": b'{"query": "a", "texts": ["b"',
    "invalid UTF-8": b'{"query": "\xff\xfe"}',
    "UTF-16": '{"query": "a"}'.encode("utf-16"),
    "NaN": b'{"query": "a", "top_n": NaN}',
    "infinity": b'{"query": "a", "x": -Infinity}',
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep document": b'{"query": "a", "documents": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    "huge integer": b'{"query": "a", "top_n": ' + b"9" * 5000 + b"}",
    "a list": b"[1, 2]",
    "a string": b'"query"',
    "null": b"null",
    "no fields": b"{}",
    "no documents": b'{"query": "a", "queries": "a"}',
    "no query": b'{"texts": ["a"], "documents": ["a"]}',
}
ALL = '"query": "a", "queries": "a", "texts": ["a"], "documents": ["a"]'
WRONG_TYPES = [
    {"query": 1, "queries": 1},
    {"query": None, "queries": None},
    {"query": ["a"], "queries": [1]},
    {"texts": "a", "documents": {"text": 1}},
    {"texts": [1], "documents": [1]},
    {"texts": [None], "documents": [None]},
    {"texts": [["a"]], "documents": [["a"]]},
    {"texts": {}, "documents": {}},
]


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_a_body_that_is_no_request_is_the_clients_mistake(path: str, body: bytes) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, served):
            response = await ask(app, path, body, method="POST")
            assert response.status in (400, 422)
            assert message_of(response)
            assert value(served, "te_request_failure", err="validation") == 1
            assert value(served, "te_request_count", method="batch") == 1
            assert (await ask(app, path, body_of(path))).status == 200

    asyncio.run(main())


@pytest.mark.parametrize("wrong", WRONG_TYPES)
def test_wrong_types_are_the_clients_mistake(path: str, wrong: dict[str, object]) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, path, json.loads(f"{{{ALL}}}") | wrong)
            assert response.status in (400, 422)
            assert any(name in message_of(response) for name in [*wrong, "documents.0"])

    asyncio.run(main())


def test_unknown_fields_and_other_media_types_are_ignored(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            headers = {"content-type": "text/plain"}
            assert (await ask(app, path, body_of(path, user="me", x=[1]), headers=headers)).status == 200

    asyncio.run(main())


# --- limits ---


@pytest.mark.parametrize(
    ("settings", "body", "status", "message"),
    [
        ({"limits": Limits(max_body_bytes=20)}, {}, (413,), "--max-body"),
        ({"limits": Limits(max_documents=1)}, {}, (400, 422), "--max-documents"),
        ({"limits": Limits(max_document_chars=5)}, {}, (400, 422), "--max-document-chars"),
    ],
)
def test_what_is_too_much_is_refused(
    path: str, settings: dict[str, Any], body: dict[str, Any], status: tuple[int, ...], message: str
) -> None:
    async def main() -> None:
        async with app_of(fake(), **settings) as (app, _):
            response = await ask(app, path, body_of(path))
            assert response.status in status
            assert message in message_of(response)

    asyncio.run(main())


def test_half_a_body_and_then_silence(path: str) -> None:
    async def main() -> None:
        async with app_of(fake(), limits=Limits(read_timeout=0.05)) as (app, _):
            asked = Asked(app, "POST", path, {})
            asked.send(b'{"query": "a", ', more=True)
            response = await asked.response()
            assert response is not None
            assert response.status == 408
            assert "--read-timeout" in message_of(response)

    asyncio.run(main())


def test_one_request_too_many_is_refused_and_told_when_to_come_again(path: str) -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine, max_concurrent_requests=1) as (app, served):
            engine.gate.clear()
            first = asyncio.ensure_future(ask(app, path, body_of(path)))
            await until(lambda: engine.packs)
            second = await ask(app, path, body_of(path))
            assert (second.status, second.headers["retry-after"]) == (429, "1")
            assert "--max-concurrent-requests" in message_of(second)
            assert value(served, "crossrank_refused_total", reason="concurrency") == 1
            assert value(served, "te_request_failure", err="overloaded") == 1
            assert value(served, "crossrank_concurrent_requests") == 1
            engine.gate.set()
            assert (await first).status == 200
            assert (await ask(app, path, body_of(path))).status == 200

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_again(path: str) -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine, options={"max_queue_tokens": 60}) as (app, _):
            engine.gate.clear()
            many = ["word " * 6, "word " * 5 + "two", "word " * 5 + "six"]
            first = asyncio.ensure_future(ask(app, path, body_of(path, many)))
            await until(lambda: engine.packs)
            second = await ask(app, path, body_of(path, many))
            assert second.status == 429
            assert 1 <= int(second.headers["retry-after"]) <= 300
            assert "max_queue_tokens" in message_of(second)
            engine.gate.set()
            assert (await first).status == 200

    asyncio.run(main())


# --- what fails on the way ---


def test_a_request_whose_time_is_over(path: str) -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine) as (app, served):
            engine.gate.clear()
            response = await ask(app, path, body_of(path), headers={"x-request-timeout": "0.1"})
            assert response.status == 504
            assert "time is over" in message_of(response)
            assert value(served, "crossrank_deadline_total") == 1
            engine.gate.set()

    asyncio.run(main())


def test_the_servers_own_timeout_holds_where_a_request_asks_for_none(path: str) -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine, limits=Limits(timeout=0.1)) as (app, _):
            engine.gate.clear()
            headers = {"x-request-timeout": "100"}
            assert (await ask(app, path, body_of(path))).status == 504
            assert (await ask(app, path, body_of(path), headers=headers)).status == 504
            engine.gate.set()

    asyncio.run(main())


@pytest.mark.parametrize("header", ["soon", "0", "-3", "nan"])
def test_a_timeout_that_is_none(path: str, header: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, path, body_of(path), headers={"x-request-timeout": header})
            assert response.status in (400, 422)
            assert "X-Request-Timeout" in message_of(response)

    asyncio.run(main())


def test_an_engine_that_fails_fails_the_request_and_works_again(path: str) -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine) as (app, served):
            engine.fail = RuntimeError("the chip is on fire")
            response = await ask(app, path, body_of(path))
            assert response.status == (424 if path == "/rerank" else 503)
            assert "the chip is on fire" in message_of(response)
            assert int(response.headers["retry-after"]) >= 1
            await until(lambda: served.state.ready)
            assert (await ask(app, path, body_of(path))).status == 200

    asyncio.run(main())


def test_a_logit_that_is_no_number_is_an_error_not_a_score(path: str) -> None:
    async def main() -> None:
        broken = False
        async with app_of(fake(lambda ids: math.nan if broken else 1.0)) as (app, _):
            broken = True
            response = await ask(app, path, body_of(path))
            assert response.status == (424 if path == "/rerank" else 503)
            assert re.search("pair [01] has the logit nan", message_of(response))
            assert "retry-after" not in response.headers  # it will be no number again

    asyncio.run(main())


def test_a_client_that_goes_takes_its_pairs_out_of_the_queue(path: str) -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine) as (app, served):
            engine.gate.clear()
            other = asyncio.ensure_future(ask(app, path, body_of(path)))
            await until(lambda: engine.packs)
            asked = Asked(app, "POST", path, {})
            asked.send(json.dumps(body_of(path, [f"word {i} " * 5 for i in range(30)])).encode())
            await until(lambda: value(served, "te_queue_size") == 30)
            asked.go()
            assert await asked.response() is None
            assert value(served, "te_queue_size") == 0
            assert value(served, "crossrank_cancelled_total") == 1
            assert value(served, "crossrank_cancelled_pairs_total") == 30
            engine.gate.set()
            assert (await other).status == 200
            assert value(served, "crossrank_concurrent_requests") == 0

    asyncio.run(main())


def test_a_client_that_goes_within_its_body(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, served):
            asked = Asked(app, "POST", path, {})
            asked.send(b"{", more=True)
            asked.go()
            assert await asked.response() is None
            assert value(served, "crossrank_concurrent_requests") == 0

    asyncio.run(main())


def test_what_nobody_foresaw_is_logged_and_says_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    async def main() -> None:
        async with app_of(fake()) as (app, _):
            monkeypatch.setattr(service_module, "_respond", fail)
            response = await ask(app, path, body_of(path))
            assert response.status == 500
            assert "secret" not in response.content.decode()
            assert "log" in message_of(response)

    asyncio.run(main())
    assert "a secret" in caplog.text


def test_a_server_that_stops_takes_nothing_new(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, served):
            assert await served.drain(1)
            response = await ask(app, path, body_of(path))
            assert (response.status, response.headers["retry-after"]) == (503, "1")
            health = await ask(app, "/health")
            assert (health.status, health.json["status"]) == (503, "unavailable")
            assert health.json["message"] == "the server is stopping"

    asyncio.run(main())


def test_an_unknown_model(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, path, body_of(path, model="no-such"))
            if path == "/rerank":  # TEI has no models: the field is ignored
                assert response.status == 200
            else:
                assert response.status == 404
                assert "no model 'no-such' is served here; there is: model" in message_of(response)

    asyncio.run(main())


def test_requests_choose_a_model(path: str) -> None:
    async def main() -> None:
        one, two = fake(lambda ids: 1.0), fake(lambda ids: 2.0)
        async with app_of(serve(one, "one"), serve(two, "two")) as (app, _):
            one.packs.clear()
            two.packs.clear()
            await ask(app, path, body_of(path))
            assert (len(one.packs), len(two.packs)) == (1, 0)
            if path != "/rerank":
                assert (await ask(app, path, body_of(path, model="two"))).json["model"] == "two"
                assert (len(one.packs), len(two.packs)) == (1, 1)

    asyncio.run(main())


# --- large requests and answers ---


def test_many_documents_are_answered_as_few_are() -> None:
    async def main() -> None:
        async with app_of(fake(batch_tokens=8192)) as (app, _):
            documents = [f"document {i} of many " * 3 for i in range(2000)]
            large = await ask(app, "/v1/rerank", body_of("/v1/rerank", documents))
            scores = {hit["index"]: hit["relevance_score"] for hit in large.json["results"]}
            assert sorted(scores) == list(range(2000))
            for i in (0, 999, 1999):
                alone = await ask(app, "/v1/rerank", body_of("/v1/rerank", [documents[i]]))
                assert alone.json["results"][0]["relevance_score"] == scores[i]

    asyncio.run(main())


# --- around the answers ---


def test_a_request_id_comes_back(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            mine = await ask(app, path, body_of(path), headers={"x-request-id": "mine-1"})
            assert mine.headers["x-request-id"] == "mine-1"
            if path != "/rerank":
                assert mine.json["id"].endswith("mine-1")
            wrong = await ask(app, path, {}, headers={"x-request-id": "mine-2"})
            assert wrong.headers["x-request-id"] == "mine-2"
            ids = {(await ask(app, path, body_of(path))).headers["x-request-id"] for _ in range(3)}
            assert len(ids) == 3

    asyncio.run(main())


@pytest.mark.parametrize("given", ["x" * 129, "a\x07b", ""])
def test_a_request_id_that_would_spoil_a_log_is_replaced(given: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, "/health", headers={"x-request-id": given})
            assert len(response.headers["x-request-id"]) == 32

    asyncio.run(main())


def test_headers_say_where_the_time_went(path: str) -> None:
    async def main() -> None:
        async with app_of(fake(seconds=0.05)) as (app, _):
            headers = (await ask(app, path, body_of(path, ["one", "中文"]))).headers
            pairs = [("which?", "one"), ("which?", "中文")]
            tokens = sum(len(pair.token_ids) for pair in encode(pairs))
            assert int(headers["x-compute-tokens"]) == tokens
            assert int(headers["x-compute-characters"]) == 5
            assert int(headers["x-inference-time"]) >= 50
            assert int(headers["x-total-time"]) >= int(headers["x-compute-time"]) >= 50
            assert {"x-tokenization-time", "x-queue-time"} <= set(headers)
            assert "x-truncated" not in headers

    asyncio.run(main())


def test_a_header_says_which_documents_were_cut(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            documents = ["short", "long " * 100, "short", "long " * 200]
            assert (await ask(app, path, body_of(path, documents))).headers["x-truncated"] == "1,3"

    asyncio.run(main())


def test_a_header_says_that_the_query_was_cut(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            body = body_of(path, ["short", "short"])
            assert "x-query-truncated" not in (await ask(app, path, body)).headers
            body["queries" if "score" in path else "query"] = "long " * 100
            headers = (await ask(app, path, body)).headers
            assert headers["x-query-truncated"] == "true"
            assert "x-truncated" not in headers

    asyncio.run(main())


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    with caplog.at_level(logging.INFO, "crossrank"):
        yield lambda: [vars(record)["fields"] for record in caplog.records if hasattr(record, "fields")]


def test_a_request_has_a_line_in_the_log(path: str, records: Callable[[], list[dict[str, Any]]]) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            headers = {"x-request-id": "mine", "x-client-name": "a test"}
            await ask(app, path, body_of(path, ["a", "long " * 100]), headers=headers)
            await ask(app, path, b"{")
            await ask(app, "/health")

    asyncio.run(main())
    good, bad = records()
    expected = {"method": "POST", "path": path, "status": 200, "request_id": "mine", "client": "a test"}
    assert good | expected | {"documents": 2, "truncated": 1, "model": "model"} == good
    assert {"tokens", "queue_ms", "inference_ms", "ms", "dialect"} <= set(good)
    assert bad["status"] == 400
    assert "JSON" in bad["error"]


# --- who may ask ---


def test_without_a_key_only_health_is_open(path: str) -> None:
    async def main() -> None:
        async with app_of(fake(), api_keys=["one", "two"]) as (app, _):
            for header in (None, "Bearer three", "Basic one"):
                headers = {"authorization": header} if header else {}
                response = await ask(app, path, body_of(path), headers=headers)
                assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
                assert "Authorization" in message_of(response)
                for other in ("/info", "/metrics", "/v1/models", "/docs", "/openapi.json", "/none"):
                    assert (await ask(app, other, headers=headers)).status == 401
                for open_path in ("/health", "/health/live", "/v1/cluster/auth"):
                    assert (await ask(app, open_path, headers=headers)).status == 200
            for key in ("one", "two"):
                headers = {"authorization": f"Bearer {key}"}
                assert (await ask(app, path, body_of(path), headers=headers)).status == 200

    asyncio.run(main())


def test_other_pages_may_not_ask_from_a_browser_unless_told_so() -> None:
    async def main() -> None:
        headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
        async with app_of(fake()) as (app, _):
            response = await ask(app, "/rerank", body_of("/rerank"), headers=headers)
            assert "access-control-allow-origin" not in response.headers
            assert (await ask(app, "/rerank", method="OPTIONS", headers=headers)).status == 405
        async with app_of(fake(), cors_origins=["https://a.example"], api_keys=["k"]) as (app, _):
            before = await ask(app, "/rerank", method="OPTIONS", headers=headers)
            assert (before.status, before.headers["access-control-allow-origin"]) == (
                200,
                "https://a.example",
            )
            refused = await ask(app, "/rerank", body_of("/rerank"), headers=headers)
            assert refused.status == 401
            assert refused.headers["access-control-allow-origin"] == "https://a.example"
            other = await ask(
                app, "/rerank", body_of("/rerank"), headers=headers | {"origin": "https://b.example"}
            )
            assert "access-control-allow-origin" not in other.headers

    asyncio.run(main())


# --- operations ---


def test_health_says_that_models_are_loading() -> None:
    async def main() -> None:
        from crossrank.server.http.app import create_app
        from crossrank.server.settings import Settings

        served = Registry([serve(fake())])
        app = create_app(Settings(), served)
        loading = await ask(app, "/health")
        assert (loading.status, loading.json["status"]) == (503, "loading")
        assert loading.json["message"] == "model is loading"
        assert (await ask(app, "/health/live")).status == 200
        assert (await ask(app, "/rerank", body_of("/rerank"))).status == 503
        assert (await ask(app, "/info")).json["models"][0]["state"] == "loading"
        app.state.failure = "its files are missing"
        failed = await ask(app, "/health")
        assert failed.json == {"status": "unavailable", "message": "its files are missing"}
        app.state.failure = ""
        await served.start()
        assert (await ask(app, "/health")).json == {"status": "ready"}
        await served.close()

    asyncio.run(main())


def test_health_says_that_an_engine_is_restarted() -> None:
    async def main() -> None:
        engine = fake()
        loads = 0

        def load() -> LoadedModel:
            nonlocal loads
            loads += 1
            if loads == 2:
                raise RuntimeError("still on fire")
            return LoadedModel(ENCODER, engine)

        async with app_of(ModelSpec("model", load)) as (app, _):
            engine.fail = RuntimeError("on fire")
            await ask(app, "/rerank", body_of("/rerank"))
            health = await ask(app, "/health")
            assert (health.status, health.json["status"]) == (503, "unavailable")
            assert "on fire" in health.json["message"]
            response = await ask(app, "/rerank", body_of("/rerank"))
            assert (response.status, response.json["error_type"]) == (503, "Unhealthy")

    asyncio.run(main())


def test_info_is_teis_and_lists_all_models() -> None:
    async def main() -> None:
        async with app_of(
            ModelSpec("a", serve(fake()).load, "org/a"),
            serve(fake(), "b"),
            max_concurrent_requests=7,
            limits=Limits(max_documents=8),
        ) as (app, registry):
            info = (await ask(app, "/info")).json
            own: dict[str, object] = {
                "model_id": "org/a",
                "model_sha": None,
                "model_dtype": "float32",
                "auto_truncate": True,
            }
            own |= {"max_concurrent_requests": 7, "max_client_batch_size": 8, "max_input_length": 64}
            own |= {"max_batch_tokens": 100, "tokenization_workers": registry.texts.threads}
            assert info | own == info
            assert info["model_type"] == {
                "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
            }
            assert [model["name"] for model in info["models"]] == ["a", "b"]
            assert info["version"]

    asyncio.run(main())


def test_one_model_is_described_as_xinference_does() -> None:
    async def main() -> None:
        async with app_of(fake(), serve(fake(), "a/b"), api_keys=["one"]) as (app, _):
            headers = {"authorization": "Bearer one"}
            listed = (await ask(app, "/v1/models", headers=headers)).json["data"]
            for name, model in zip(("model", "a/b"), listed, strict=True):
                found = await ask(app, f"/v1/models/{name}", headers=headers)
                assert found.json == model
                assert (model["id"], model["model_type"]) == (name, "rerank")
            unknown = await ask(app, "/v1/models/none", headers=headers)
            assert unknown.status == 404
            assert "no model 'none' is served here" in message_of(unknown)
            assert (await ask(app, "/v1/models/model")).status == 401
            assert (await ask(app, "/v1/cluster/auth")).json == {"auth": True}
        async with app_of(fake()) as (app, _):
            assert (await ask(app, "/v1/cluster/auth")).json == {"auth": False}

    asyncio.run(main())


@pytest.mark.parametrize(("where", "owner"), [("/v1/models", "crossrank"), ("/models", "infinity")])
def test_models_are_listed(where: str, owner: str) -> None:
    async def main() -> None:
        async with app_of(serve(fake(), "a"), serve(fake(), "b")) as (app, _):
            listed = (await ask(app, where)).json
            assert listed["object"] == "list"
            assert [model["id"] for model in listed["data"]] == ["a", "b"]
            assert {model["object"] for model in listed["data"]} == {"model"}
            assert {model["owned_by"] for model in listed["data"]} == {owner}

    asyncio.run(main())


def test_metrics_are_prometheus() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            await ask(app, "/rerank", body_of("/rerank"))
            response = await ask(app, "/metrics")
            assert response.headers["content-type"].startswith("text/plain")
            lines = response.content.decode().splitlines()
            assert 'te_request_success{method="batch"} 1.0' in lines
            assert "crossrank_concurrent_requests_limit 512.0" in lines
            assert any(line.startswith("process_resident_memory_bytes") for line in lines)

    asyncio.run(main())


def test_only_the_admin_reloads_models() -> None:
    async def main(app: ASGIApp, loads: list[str]) -> None:
        async def reload(key: str, query: str = "") -> Response:
            headers = {"authorization": f"Bearer {key}"}
            return await ask(app, f"/models/reload{query}", method="POST", headers=headers)

        assert (await reload("other")).status == 401
        assert (await reload("user")).status == 403
        assert loads == ["a", "b"]
        done = await reload("boss")
        assert (done.status, done.json) == (200, {"reloaded": ["a", "b"]})
        assert loads == ["a", "b"] * 2
        assert (await reload("boss", "?model=b")).json == {"reloaded": ["b"]}
        assert loads == ["a", "b"] * 2 + ["b"]
        assert (await reload("boss", "?model=c")).status == 404
        assert (await reload("boss", "?model=b&broken")).status == 200

    async def serve_two() -> None:
        loads: list[str] = []

        def loading(name: str) -> ModelSpec:
            def load() -> LoadedModel:
                loads.append(name)
                return LoadedModel(ENCODER, fake())

            return ModelSpec(name, load)

        async with app_of(loading("a"), loading("b"), api_keys=["user"], admin_key="boss") as (app, _):
            await main(app, loads)

    asyncio.run(serve_two())


def test_a_model_that_cannot_be_reloaded_stays_as_it_was() -> None:
    async def main() -> None:
        loads = 0

        def load() -> LoadedModel:
            nonlocal loads
            loads += 1
            if loads > 1:
                raise ModelNotFoundError("its files are gone")
            return LoadedModel(ENCODER, fake())

        async with app_of(ModelSpec("model", load), admin_key="boss") as (app, _):
            headers = {"authorization": "Bearer boss"}
            failed = await ask(app, "/models/reload", method="POST", headers=headers)
            assert (failed.status, message_of(failed)) == (500, "its files are gone")
            assert (await ask(app, "/rerank", body_of("/rerank"))).status == 200

    asyncio.run(main())


def test_without_an_admin_key_nobody_reloads_models() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, "/models/reload", method="POST")
            assert response.status == 403
            assert "--admin-key" in message_of(response)

    asyncio.run(main())


def test_paths_and_methods_that_are_not_there() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            none = await ask(app, "/v3/rerank", {})
            assert (none.status, none.json["error"]["type"]) == (404, "NotFoundError")
            for path in PATHS:
                response = await ask(app, path)
                assert (response.status, response.headers["allow"]) == (405, "POST")
                assert f"{path} takes POST, and this is GET" in message_of(response)

    asyncio.run(main())


def test_a_compressed_body_is_refused_by_its_header() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            for coding in ("gzip", "br"):
                headers = {"content-encoding": coding}
                response = await ask(app, "/v1/rerank", gzip.compress(b"{}"), headers=headers)
                assert response.status == 400
                assert f"has the Content-Encoding {coding}" in message_of(response)
            body = {"query": "q", "documents": ["a"]}
            as_it_is = await ask(app, "/v1/rerank", body, headers={"content-encoding": "identity"})
            assert as_it_is.status == 200

    asyncio.run(main())


def test_the_query_that_is_too_long_is_named_by_its_place() -> None:
    async def main() -> None:
        async with app_of(fake(), limits=Limits(max_document_chars=20)) as (app, _):
            body = {"queries": ["x", "x", "x" * 21], "documents": ["a", "b", "c"]}
            response = await ask(app, "/score", body)
            assert "query 2 has 21 characters" in message_of(response)

    asyncio.run(main())


# --- what a client may send, quote and pretend ---


def test_a_body_that_comes_slowly_is_no_work(path: str) -> None:
    async def main() -> None:
        async with app_of(fake(), max_concurrent_requests=1) as (app, served):
            slow = [Asked(app, "POST", path, {}) for _ in range(9)]
            data = json.dumps(body_of(path)).encode()
            for each in slow:
                each.send(data[:10], more=True)
            for _ in range(3):
                assert (await ask(app, path, body_of(path))).status == 200
            assert value(served, "crossrank_concurrent_requests") == 0
            for each in slow:
                each.send(data[10:])
            assert {(await each.response()).status for each in slow} <= {200, 429}  # type: ignore[union-attr]

    asyncio.run(main())


def test_bodies_on_their_way_are_bounded_by_their_bytes(path: str) -> None:
    async def main() -> None:
        limits = Limits(max_body_bytes=1000, max_bodies_bytes=3000)
        async with app_of(fake(), limits=limits) as (app, _):
            slow = [Asked(app, "POST", path, {}) for _ in range(2)]
            for each in slow:
                each.send(b" " * 700, more=True)
            third = await ask(app, path, b" " * 700 + json.dumps(body_of(path)).encode())
            assert (third.status, third.headers["retry-after"]) == (429, "1")
            assert "--max-bodies" in message_of(third)
            for each in slow:
                each.go()
                assert await each.response() is None
            assert (await ask(app, path, b" " * 700 + json.dumps(body_of(path)).encode())).status == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "\U000e0001" * 100_000},
        {"rank_fields": ["f" * 500] * 1000, "documents": [{}], "texts": [{}]},
        {"query": 1, "queries": 1, "x" * 100_000: 1},
        {"truncation_side": "x" * 100_000, "truncation_direction": "x" * 100_000},
        {"request_id": "x" * 100_000},
        {"texts": [0] * 100_000, "documents": [0] * 100_000},
        {"texts": [[]] * 100_001, "documents": [[]] * 100_001},
        {"ignored": [[]] * 100_001},
        {"ignored": [{}] * 100_001},
    ],
)
def test_an_error_is_short_whatever_is_sent(
    path: str, wrong: dict[str, object], records: Callable[[], list[dict[str, Any]]]
) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            response = await ask(app, path, json.loads(f"{{{ALL}}}") | wrong)
            assert response.status in (200, 400, 404, 422)  # 200: where the field is none
            assert len(response.content) < 3000
            assert len(str(records()[-1])) < 3000

    asyncio.run(main())


def mistakes(kind: type[Dialect], body: dict[str, object]) -> int:
    try:
        kind.Request.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize("kind", _dialects(), ids=lambda kind: kind.Request.__name__)
def test_one_mistake_is_looked_for_however_many_there_are(kind: type[Dialect]) -> None:
    """Each costs hundreds of bytes, and the client is told of one."""
    good: dict[str, object] = json.loads(f"{{{ALL}}}") | {"document": "a"}
    for name in kind.Request.model_fields:
        wrongs: list[object] = [[0] * 10_000, [[]] * 10_000, {str(i): i for i in range(10_000)}]
        for wrong in wrongs:
            assert mistakes(kind, good | {name: wrong}) < 10, name


def test_a_slash_at_the_end_changes_nothing() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, _):
            for path in PATHS:
                response = await ask(app, f"{path}/", body_of(path))
                assert response.status == 200
                assert response.content != b""
                wrong = await ask(app, f"{path}/", {})
                assert wrong.content.split(b'"id"')[0] == (await ask(app, path, {})).content.split(b'"id"')[0]
            for path in (
                "/health/",
                "/health/live/",
                "/info/",
                "/metrics/",
                "/models/",
                "/v1/models/",
                "/docs/",
            ):
                assert (await ask(app, path)).status == 200, path
            assert (await ask(app, "/v3/rerank/", {})).status == 404
        async with app_of(fake(), api_keys=["k"]) as (app, _):
            assert (await ask(app, "/health/")).status == 200
            assert (await ask(app, "/info/")).status == 401

    asyncio.run(main())


def test_a_browser_may_not_be_sent_by_a_foreign_page(path: str) -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, served):
            for headers in (
                {"host": "localhost", "origin": "http://evil.example", "content-type": "text/plain"},
                {"host": "evil.example", "origin": "http://evil.example"},
                {"host": "evil.example", "user-agent": "Mozilla/5.0"},
            ):
                response = await ask(app, path, body_of(path), headers=headers)
                assert response.status == 403
                assert "evil.example" in message_of(response)
            assert value(served, "te_request_count", method="batch") == 0
            for where in ("/", "/page/app.js"):
                assert (await ask(app, where, headers={"host": "evil.example"})).status == 403
                assert (await ask(app, where, headers={"host": "127.0.0.1:8080"})).status == 200
            own = {"host": "localhost:8080", "origin": "http://localhost:8080"}
            assert (await ask(app, path, body_of(path), headers=own)).status == 200
            assert (await ask(app, path, body_of(path), headers={"host": "any.example"})).status == 200

    asyncio.run(main())


def test_a_browser_may_know_the_server_by_a_name_of_its_own() -> None:
    async def main() -> None:
        headers = {"host": "rerank.example", "origin": "https://rerank.example"}
        # A foreign page has no key.
        knows: list[dict[str, Any]] = [{"allowed_hosts": ["rerank.example"]}, {"api_keys": ["k"]}]
        for settings in knows:
            async with app_of(fake(), **settings) as (app, _):
                key = {"authorization": "Bearer k"}
                body = body_of("/rerank")
                assert (await ask(app, "/", headers=headers)).status == 200
                assert (await ask(app, "/rerank", body, headers=headers | key)).status == 200

    asyncio.run(main())
