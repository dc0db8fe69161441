from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from crossrank import Reranker
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import PairEncoder
from crossrank.server.http.dialects.crossrank import DOCUMENT_CHARACTERS, QUERY_CHARACTERS
from crossrank.server.settings import Limits
from crossrank.text.keywords import KeywordIndex, keywords
from tests.server.asgi import Asked, Response, app_of, ask
from tests.server.serving import ENCODER, checksum, fake, serve, until, value

QUERY = "Why is the sky blue?"
DOCUMENTS = [
    "The sky was blue and the sea was calm that day.",
    "Blue Sky is a hotel 😀 under a blue roof.",
    "Air molecules scatter short wavelengths.",
    "long " * 100,
]
TEXT = "One sentence.  Another sentence! 第三句。" + "And one that is long. " * 20


def post(path: str, body: dict[str, Any], **settings: Any) -> Response:
    async def main() -> Response:
        async with app_of(fake(lambda ids: checksum(ids) / 1e5), **settings) as (app, _):
            return await ask(app, path, body)

    return asyncio.run(main())


def library() -> Reranker:
    return Reranker.from_parts(ENCODER, fake(lambda ids: checksum(ids) / 1e5))


def test_compare_has_both_orders_in_the_order_of_the_documents() -> None:
    found = post("/compare", {"query": QUERY, "documents": DOCUMENTS}).json
    documents = found["documents"]
    ranking = library().rank(QUERY, DOCUMENTS)
    index = KeywordIndex(DOCUMENTS)
    assert (found["object"], found["model"]) == ("comparison", "model")
    assert [document["index"] for document in documents] == [0, 1, 2, 3]
    assert [documents[hit.index]["rank"] for hit in ranking] == [1, 2, 3, 4]
    for hit in ranking:
        document = documents[hit.index]
        assert (document["score"], document["logit"]) == (hit.score, hit.logit)
        assert document["truncated"] == hit.truncated == (hit.index == 3)
    assert [documents[i]["keyword_rank"] for i in index.order(QUERY)] == [1, 2, 3, 4]
    assert [d["keyword_score"] for d in documents] == pytest.approx(index.scores(QUERY).tolist())
    assert sum(document["tokens"] for document in documents) == found["usage"]["total_tokens"]
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert found["query_truncated"] is False
    found = post("/compare", {"query": "long " * 100, "documents": ["one"]}).json
    assert (found["query_truncated"], found["documents"][0]["truncated"]) == (True, False)


def test_compare_reads_long_documents_in_windows() -> None:
    body = {"query": QUERY, "documents": [TEXT * 9, "short"], "long": "windows", "max_windows": 100}
    long, short = post("/compare", body).json["documents"]
    reranker = Reranker.from_parts(
        PairEncoder(resolve(BUNDLED) / "tokenizer.json", max_length=64, long="windows", max_windows=100),
        fake(lambda ids: checksum(ids) / 1e5),
    )
    (hit,) = reranker.rank(QUERY, [TEXT * 9])
    assert (long["logit"], long["window"]) == (hit.logit, list(hit.window or ()))
    assert (long["truncated"], short["window"]) == (False, None)
    assert long["tokens"] > 64


def test_compare_marks_what_a_document_repeats_of_the_query() -> None:
    documents = post("/compare", {"query": QUERY, "documents": DOCUMENTS}).json["documents"]
    marked = [
        [text[start:end] for start, end in document["keyword_spans"]]
        for text, document in zip(DOCUMENTS, documents, strict=True)
    ]
    assert marked == [["The", "sky", "blue", "the"], ["Blue", "Sky", "is", "blue"], [], []]
    far = post("/compare", {"query": "sky", "documents": ["x " * 1999 + "sky sky"]}).json["documents"][0]
    assert far["keyword_spans"] == [[3998, 4000]] or far["keyword_spans"] == []


def test_compare_looks_for_the_keywords_of_a_query_once_and_never_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def noted(text: str) -> list[str]:
        asked.append((text, threading.current_thread().name))
        return keywords(text)

    monkeypatch.setattr("crossrank.text.keywords.keywords", noted)
    monkeypatch.setattr("crossrank.server.http.dialects.crossrank.keywords", noted)
    post("/compare", {"query": QUERY, "documents": DOCUMENTS})
    assert sorted(text for text, _ in asked) == sorted([QUERY, *DOCUMENTS])
    assert all(thread.startswith("crossrank-texts-") for _, thread in asked)


def test_compare_reads_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def noted(text: str) -> list[str]:
        read.append(len(text))
        return keywords(text)

    monkeypatch.setattr("crossrank.text.keywords.keywords", noted)
    monkeypatch.setattr("crossrank.server.http.dialects.crossrank.keywords", noted)
    body = {"query": "中文" * 50_000, "documents": ["国" * 10_000] * 120}
    found = post("/compare", body, options={"warm_up": False})
    assert found.status == 200
    assert sum(read) <= QUERY_CHARACTERS + DOCUMENT_CHARACTERS
    assert len(read) == 121


def test_compare_is_over_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def slow(text: str) -> list[str]:
        gate.wait()
        return keywords(text)

    monkeypatch.setattr("crossrank.server.http.dialects.crossrank.keywords", slow)

    async def main() -> None:
        async with app_of(fake()) as (app, _):
            body = {"query": QUERY, "documents": DOCUMENTS}
            found = await ask(app, "/compare", body, headers={"x-request-timeout": "0.3"})
            gate.set()
            assert found.status == 504
            assert "time was over" in found.json["error"]["message"]

    asyncio.run(main())


def test_explain_says_what_the_library_says() -> None:
    expected = library().explain(QUERY, TEXT, max_sentences=9)
    for document in (TEXT, {"text": TEXT, "id": 3}):
        found = post("/explain", {"query": QUERY, "document": document, "max_sentences": 9}).json
        assert (found["object"], found["model"]) == ("explanation", "model")
        for name in ("score", "logit", "truncated", "query_truncated", "read", "sentences_left_out"):
            assert found[name] == getattr(expected, name)
        assert found["truncated"]
        assert found["sentences_left_out"] == 14
        for sentence, wanted in zip(found["sentences"], expected.sentences, strict=True):
            assert sentence == {name: getattr(wanted, name) for name in wanted.__slots__}
        assert found["usage"]["total_tokens"] > 0


def test_explain_is_one_request_of_the_queue_and_goes_with_its_client() -> None:
    async def main() -> None:
        engine = fake()
        async with app_of(engine) as (app, registry):
            engine.gate.clear()
            asked = Asked(app, "POST", "/explain", {})
            asked.send(b'{"query": "q", "document": "One. Two. Three."}')
            await until(lambda: value(registry, "crossrank_queue_requests") == 1)
            asked.go()
            assert await asked.response() is None
            engine.gate.set()
            assert value(registry, "crossrank_cancelled_total") == 1
            assert (await ask(app, "/explain", {"query": "q", "document": "One. Two."})).status == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"document": "d"}, 400, "missing field `query`"),
        ({"query": "q"}, 400, "missing field `document`"),
        ({"query": "q", "document": 7}, 400, "document is of type int; it must be a string"),
        ({"query": "q", "document": {"title": "t"}}, 400, "document has none of the fields"),
        ({"query": "q", "document": {"text": 7}}, 400, "document.text must be a string"),
        ({"query": "q", "document": "d", "max_sentences": 0}, 400, "max_sentences: "),
        ({"query": "q", "document": "d", "max_sentences": 1001}, 400, "max_sentences: "),
        ({"query": "q", "document": "d" * 2000}, 400, "document 0 has 2000 characters"),
        ({"query": "q", "document": "d", "model": "none"}, 404, "no model 'none' is served here"),
        ({"query": "q", "document": "One. " * 90}, 400, "this server queues at most 1000"),
    ],
)
def test_what_explain_refuses(body: dict[str, Any], status: int, message: str) -> None:
    found = post("/explain", body, limits=Limits(max_document_chars=1000), options={"max_queue_tokens": 1000})
    assert found.status == status
    assert message in found.json["error"]["message"]


def test_explain_needs_few_documents_of_the_limit() -> None:
    body = {"query": "q", "document": "One. Two. Three."}
    assert post("/explain", body, limits=Limits(max_documents=1)).status == 200


@pytest.mark.parametrize("document", ["", " ", "。"])
def test_explain_of_next_to_nothing(document: str) -> None:
    found = post("/explain", {"query": "q", "document": document})
    assert found.status == 200
    assert len(found.json["sentences"]) == len(document.strip())


def test_explain_asks_the_model_that_is_named() -> None:
    async def main() -> None:
        first, second = fake(lambda ids: 1.0), fake(lambda ids: 2.0)
        async with app_of(serve(first, "a"), serve(second, "b")) as (app, _):
            for name, logit in (("a", 1), ("b", 2), (None, 1)):
                body = {"query": "q", "document": "One. Two.", "model": name}
                found = (await ask(app, "/explain", body)).json
                assert (found["model"], found["logit"]) == (name or "a", logit)

    asyncio.run(main())


def test_explain_where_the_model_is_not_there_is_the_servers_failure() -> None:
    async def main() -> None:
        async with app_of(fake()) as (app, registry):
            await registry.drain(0.1)
            found = await ask(app, "/explain", {"query": "q", "document": "One."})
            assert (found.status, found.headers["retry-after"]) == (503, "1")
            assert value(registry, "te_request_failure", err="inference") == 1

    asyncio.run(main())


def test_a_window_is_explained() -> None:
    found = post("/explain", {"query": QUERY, "document": TEXT * 9, "window": [100, 300]}).json
    expected = library().explain(QUERY, TEXT * 9, window=(100, 300))
    assert (found["window"], found["read"], found["logit"]) == ([100, 300], expected.read, expected.logit)
    assert [each["start"] for each in found["sentences"]] == [each.start for each in expected.sentences]
    assert post("/explain", {"query": QUERY, "document": TEXT}).json["window"] is None
    for window in ([1], [300, 100], [0, 10_000], "ab"):
        assert post("/explain", {"query": QUERY, "document": TEXT, "window": window}).status == 400
