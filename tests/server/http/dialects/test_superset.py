"""/v1/rerank, /v2/rerank and /rerank with documents: what their dialects share, and where they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from crossrank.errors import InputError
from crossrank.pairs import Cut
from crossrank.server.http.dialects.superset import MAX_RANK_FIELDS, read_texts
from crossrank.server.settings import DIALECTS
from tests.server.asgi import Response, app_of, ask
from tests.server.serving import ENCODER, fake, until, value

TEXTS = ["one", "two words", "and three words"]
LONG = " ".join(str(i) for i in range(200))


def rerank(
    path: str = "/v1/rerank", dialect: str = "cohere", headers: Mapping[str, str] | None = None, **body: Any
) -> Response:
    """Longer documents are better."""

    async def main() -> Response:
        async with app_of(fake(lambda ids: len(ids) / 8), dialect=dialect) as (app, _):
            return await ask(app, path, {"query": "q", "documents": TEXTS, **body}, headers=headers)

    return asyncio.run(main())


def seen_by_the_engine(**body: Any) -> list[list[int]]:
    """Token ids of the pairs of a request, in its order."""
    seen: list[list[int]] = []

    async def main() -> None:
        engine = fake(lambda ids: seen.append(ids.tolist()) or 0.0)  # type: ignore[func-returns-value]
        async with app_of(engine) as (app, _):
            seen.clear()
            response = await ask(app, "/v1/rerank", {"query": "q", "documents": [LONG], **body})
            assert response.status == 200, response.content

    asyncio.run(main())
    return seen


KEYS = {"id", "object", "model", "created", "usage", "meta", "results"}


@pytest.mark.parametrize(
    ("path", "dialect", "version"),
    [
        ("/v1/rerank", "cohere", "1"),
        ("/v2/rerank", "cohere", "2"),
        ("/rerank", "cohere", "1"),
        ("/v1/rerank", "jina", "1"),
        ("/v1/rerank", "vllm", "1"),
        ("/v1/rerank", "xinference", "1"),
    ],
)
def test_an_answer_has_all_that_any_client_reads(path: str, dialect: str, version: str) -> None:
    answer = rerank(path, dialect).json
    assert set(answer) == KEYS
    tokens = sum(len(pair.token_ids) for pair in ENCODER.encode("q", TEXTS))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer["meta"] == {
        "api_version": {"version": version},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": tokens, "output_tokens": 0},
    }
    assert (answer["object"], answer["model"]) == ("rerank", "model")
    assert answer["created"] > 1_600_000_000
    assert [hit["index"] for hit in answer["results"]] == [2, 1, 0]
    assert all(0.5 < hit["relevance_score"] < 1 for hit in answer["results"])


NO_FIELDS: dict[str, Any] = {}
OBJECT = {"text": "two words"}
VLLM = OBJECT | {"multi_modal": None}


@pytest.mark.parametrize(
    ("path", "dialect", "default", "asked", "refused"),
    [
        ("/v1/rerank", "cohere", None, OBJECT, None),
        ("/v2/rerank", "cohere", None, None, None),
        ("/v1/rerank", "jina", OBJECT, OBJECT, None),
        ("/v1/rerank", "xinference", None, OBJECT, None),
        ("/v1/rerank", "vllm", VLLM, VLLM, None),
        ("/v2/rerank", "vllm", VLLM, VLLM, None),
        ("/rerank", "vllm", VLLM, VLLM, None),
        ("/rerank", "cohere", None, OBJECT, None),
        ("/rerank", "jina", None, OBJECT, None),
        ("/rerank", "infinity", None, "two words", None),
        ("/v1/rerank", "infinity", None, "two words", None),
    ],
)
def test_documents_come_back_as_the_dialect_has_it(
    path: str, dialect: str, default: Any, asked: Any, refused: Any
) -> None:
    for fields, expected in (
        (NO_FIELDS, default),
        ({"return_documents": True}, asked),
        ({"return_documents": False}, refused),
    ):
        answer = rerank(path, dialect, **fields).json
        found = answer["results"][1]
        assert found.get("document") == expected
        # infinity and Xinference say null, the others nothing.
        says_null = dialect in ("xinference", "infinity") or (path == "/rerank" and dialect != "vllm")
        assert ("document" in found) == (expected is not None or says_null)


@pytest.mark.parametrize(
    ("top_n", "dialect", "count"),
    [
        (2, "cohere", 2),
        (9, "jina", 3),
        (None, "cohere", 3),
        (-1, "vllm", 3),
        *((0, dialect, 3) for dialect in DIALECTS if dialect != "voyage"),
        *((wanted, "xinference", 2) for wanted in (2.0, "2", " 2 ", "2.0")),
    ],
)
def test_top_n(top_n: Any, dialect: str, count: int) -> None:
    assert len(rerank(dialect=dialect, top_n=top_n).json["results"]) == count


def answers(dialect: str, bodies: Sequence[tuple[str, dict[str, Any]]]) -> list[Response]:
    """The answers to several bodies, each with its path."""

    async def main() -> list[Response]:
        async with app_of(fake(lambda ids: len(ids) / 8), dialect=dialect) as (app, _):
            return [await ask(app, path, {"query": "q", "documents": TEXTS, **body}) for path, body in bodies]

    return asyncio.run(main())


PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_boolean_may_be_a_string_or_a_number(dialect: str) -> None:
    for path in PATHS:
        said = [True, "true", "True", "1", 1, 1.0, False, "false", "0", 0]
        found = answers(dialect, [(path, {"return_documents": each}) for each in said])
        assert [response.status for response in found] == [200] * len(said)
        results = [response.json.get("results") or response.json["data"] for response in found]
        assert results[:6] == [results[0]] * 6
        assert results[6:] == [results[6]] * 4
        assert ("and three words" in str(results[0])) == (path != "/v2/rerank" or dialect == "vllm")
        assert "and three words" not in str(results[6])


TWO: dict[str, Any] = {"model": "model", "documents": ["one", "two words"]}
BODIES: list[dict[str, Any]] = [
    TWO | {"top_n": 2, "return_documents": True},  # Dify's, to an API like Cohere's
    # Dify's for Xinference, through xinference_client
    TWO
    | {"top_n": 2, "return_documents": True, "max_chunks_per_doc": None, "return_len": None, "kwargs": "{}"},
    TWO | {"return_documents": "true", "return_len": "true"},  # RAGFlow's for Xinference
    TWO | {"top_n": 2},  # RAGFlow's for Jina
    TWO | {"top_n": 2, "return_documents": False, "truncate": "END"},
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_bodies_of_dify_and_ragflow(dialect: str) -> None:
    for response in answers(dialect, [(path, body) for path in PATHS for body in BODIES]):
        assert response.status == 200, response.content
        results = response.json.get("results") or response.json["data"]
        assert [hit["index"] for hit in results] == [1, 0]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/compare"])
@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (rb"party \ud83c", "party \ufffd"),
        (rb"\uDF89 party", "\ufffd party"),
        (rb"\ud83c\uD83C\uDF89\udf89", "\ufffd\U0001f389\ufffd"),
        (rb"\\ud83c \\\ud83c \n", "\\ud83c \\\ufffd \n"),
    ],
)
def test_half_a_surrogate_pair_is_replaced(path: str, sent: bytes, read: str) -> None:
    query = "queries" if "score" in path else "query"
    body = b'{"%b": "%b", "documents": ["a", "%b"]}' % (query.encode(), sent, sent)
    seen: list[list[int]] = []

    async def main() -> Response:
        engine = fake(lambda ids: seen.append(ids.tolist()) or 0.0)  # type: ignore[func-returns-value]
        async with app_of(engine) as (app, _):
            seen.clear()
            return await ask(app, path, body)

    assert asyncio.run(main()).status == 200
    assert sorted(seen) == sorted(pair.token_ids.tolist() for pair in ENCODER.encode(read, ["a", read]))


@pytest.mark.parametrize("fields", [{"raw_scores": True}, {"use_activation": False}])
def test_raw_scores(fields: dict[str, Any]) -> None:
    found = [hit["relevance_score"] for hit in rerank(**fields).json["results"]]
    assert found == [len(pair.token_ids) / 8 for pair in ENCODER.encode("q", TEXTS[::-1])]
    assert rerank(use_activation=True).json["results"] == rerank().json["results"]


def test_fields_of_a_document_come_back() -> None:
    documents = [{"text": "one", "page": 7, "tags": ["a", None]}, "two words"]
    results = rerank(documents=documents, return_documents=True).json["results"]
    assert results[1]["document"] == {"text": "one", "page": 7, "tags": ["a", None]}
    assert results[0]["document"] == {"text": "two words"}


@pytest.mark.parametrize("document", ["only", {"text": "only"}, {"type": "text", "text": "only"}])
def test_one_document_may_stand_alone(document: Any) -> None:
    results = rerank(documents=document, dialect="vllm").json["results"]
    assert [hit["document"]["text"] for hit in results] == ["only"]


PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two words"}]


def test_documents_may_be_parts_of_a_message() -> None:
    for documents in (PARTS, {"content": PARTS}):
        results = rerank(documents=documents, dialect="vllm").json["results"]
        assert [(hit["index"], hit["document"]["text"]) for hit in results] == [(1, "two words"), (0, "one")]
    results = rerank(documents=[{"content": PARTS}, "one"], dialect="vllm").json["results"]
    assert [hit["document"]["text"] for hit in results] == ["one\ntwo words", "one"]


def test_what_was_cut_is_said() -> None:
    answer = rerank(documents=["short", LONG, LONG]).json
    assert answer["meta"]["warnings"] == ["2 of 3 documents were cut to fit; their indices: 1, 2"]
    assert [hit.get("truncated") for hit in answer["results"]] == [True, True, None]


LONG_QUERY = "query " * 100


def test_a_query_that_was_cut_is_called_the_query() -> None:
    answer = rerank(query=LONG_QUERY, documents=["short", LONG]).json
    assert answer["meta"]["warnings"] == [
        "the query was cut to fit",
        "1 of 2 documents were cut to fit; their indices: 1",
    ]
    assert [hit["query_truncated"] for hit in answer["results"]] == [True, True]
    assert [hit.get("truncated") for hit in answer["results"]] == [True, None]
    answer = rerank(query=LONG_QUERY, documents=["short"], max_tokens_per_doc=5).json
    assert answer["meta"]["warnings"] == ["the query was cut to fit"]
    assert "truncated" not in answer["results"][0]
    answer = rerank(query="one two three", documents=["short"], max_tokens_per_query=2).json
    assert answer["meta"]["warnings"] == ["the query was cut to fit"]


def test_a_warning_stays_short() -> None:
    warning = rerank(documents=[LONG] * 101).json["meta"]["warnings"][0]
    assert warning.endswith("98, 99 and others")


@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        ({}, Cut()),
        ({"max_tokens_per_doc": 5}, Cut(document=5)),
        ({"truncate_prompt_tokens": 30}, Cut(pair=30)),
        ({"truncate_prompt_tokens": 4096}, Cut()),
        ({"truncate_prompt_tokens": -1, "max_tokens_per_doc": 0, "max_tokens_per_query": 0}, Cut()),
        ({"truncation_side": "left"}, Cut(side="left")),
        ({"truncation_side": "right", "max_chunks_per_doc": 10, "long": "cut"}, Cut()),
    ],
)
def test_what_is_cut(fields: dict[str, Any], cut: Cut) -> None:
    assert seen_by_the_engine(**fields) == [ENCODER.encode("q", [LONG], cut)[0].token_ids.tolist()]


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"long": "windows", "max_windows": 100}, 100),
        ({"long": "windows"}, 8),
        ({"max_chunks_per_doc": 3}, 3),
        ({"max_chunks_per_doc": 10_000}, 100),
        ({"max_chunks_per_doc": 3, "max_windows": 2}, 2),
        ({"max_tokens_per_doc": 150, "long": "windows"}, 8),
        ({"truncate_prompt_tokens": 40, "long": "windows"}, 8),
    ],
)
def test_what_is_read_in_windows(fields: dict[str, Any], most: int) -> None:
    cut = Cut(
        long="windows",
        max_windows=most,
        document=fields.get("max_tokens_per_doc"),
        pair=fields.get("truncate_prompt_tokens"),
    )
    (pairs,) = ENCODER.join_windows(ENCODER.query("q"), [LONG], cut)
    assert len(pairs) > 1
    seen = seen_by_the_engine(**fields)
    assert sorted(seen) == sorted(pair.token_ids.tolist() for pair in pairs)


def test_windows_are_said_and_counted() -> None:
    whole = rerank(documents=["short", LONG], long="windows", max_windows=100).json
    (pairs,) = ENCODER.join_windows(ENCODER.query("q"), [LONG], Cut(long="windows", max_windows=100))
    assert "warnings" not in whole["meta"]
    tokens = sum(pair.tokens for pair in pairs) + len(ENCODER.encode("q", ["short"])[0].token_ids)
    assert whole["usage"]["total_tokens"] == whole["meta"]["tokens"]["input_tokens"] == tokens
    best, short = whole["results"]
    assert (best["index"], "truncated" in best, "window" in short) == (1, False, False)
    longest = max(pairs, key=lambda pair: pair.tokens)
    assert best["window"] == list(longest.window or ())
    part = rerank(documents=["short", LONG], max_chunks_per_doc=2).json
    assert part["meta"]["warnings"] == [
        "1 of 2 documents have more windows than were read (max_windows); their indices: 1"
    ]
    assert part["results"][0]["truncated"] is True


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"long": "split"}, "long: "),
        ({"max_windows": 0}, "max_windows: "),
        ({"max_windows": 101}, "max_windows: "),
    ],
)
def test_mistakes_about_windows(fields: dict[str, Any], message: str) -> None:
    response = rerank(**fields)
    assert (response.status, message in response.json["message"]) == (400, True)


def test_a_query_is_cut_too() -> None:
    seen = seen_by_the_engine(query="one two three four", documents=["a"], max_tokens_per_query=2)
    assert seen == [ENCODER.encode("one two three four", ["a"], Cut(query=2))[0].token_ids.tolist()]


def test_search_units_are_hundreds_of_documents() -> None:
    assert rerank(documents=["a"] * 101).json["meta"]["billed_units"] == {"search_units": 2}


def test_priority_goes_first() -> None:
    async def main() -> None:
        order: list[int] = []
        engine = fake(lambda ids: order.append(len(ids)) or 0.0, batch_tokens=20)  # type: ignore[func-returns-value]
        async with app_of(engine) as (app, served):
            engine.gate.clear()
            begun: list[asyncio.Future[Response]] = []
            for priority, text in ((0, "first"), (9, "later later later"), (1, "soon soon")):
                body = {"query": "q", "documents": [text, f" {text}"], "priority": priority}
                waiting = 2 * len(begun)  # all but the first, which is in the engine
                begun.append(asyncio.ensure_future(ask(app, "/v1/rerank", body)))
                await until(lambda: engine.packs and value(served, "te_queue_size") == waiting)  # noqa: B023
            order.clear()
            engine.gate.set()
            for each in begun:
                await each
            first, later, soon = (
                len(pair.token_ids)
                for pair in ENCODER.encode("q", ["first", "later later later", "soon soon"])
            )
            assert order == [first, first, soon, soon, later, later]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("dialect", "prefix"),
    [("cohere", ""), ("jina", ""), ("xinference", ""), ("vllm", "rerank-")],
)
def test_ids(dialect: str, prefix: str) -> None:
    assert rerank(dialect=dialect, headers={"x-request-id": "a"}).json["id"] == f"{prefix}a"
    assert rerank(dialect=dialect, request_id="b").json["id"] == f"{prefix}b"
    both = rerank(dialect=dialect, headers={"x-request-id": "a"}, request_id="b")
    assert both.json["id"] == f"{prefix}a"
    assert len(rerank(dialect=dialect).json["id"]) == len(prefix) + 32
    assert rerank("/rerank").json["id"].startswith("infinity-")


@pytest.mark.parametrize("name", ["", None, "model"])
def test_names_of_the_first_model(name: str | None) -> None:
    assert rerank(model=name).status == 200
    assert rerank("/rerank", model="default/not-specified").status == 200


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"documents": []}, "documents is empty"),
    ({"documents": ["a", 1]}, "documents.1 is of type int"),
    ({"documents": [{"title": "a"}]}, "documents.0 has none of the fields"),
    ({"documents": [{"text": 1}]}, "documents.0.text must be a string"),
    ({"documents": {"title": "a"}}, "documents.0 has none of the fields"),
    ({"documents": [{"type": "image_url", "image_url": {}}]}, "documents.0 is of the type 'image_url'"),
    ({"documents": [{"content": [*PARTS, {"type": "image_url"}]}]}, "documents.0.content.2 is of the type"),
    ({"documents": {"content": []}}, "documents is empty"),
    ({"query": 1}, "query: "),
    ({"top_n": "three"}, "top_n: "),
    ({"top_n": [3]}, "top_n: "),
    ({"top_n": 2.5}, "top_n: "),
    ({"top_n": -1}, "top_n is -1"),
    ({"top_n": 10**30}, "top_n: "),
    ({"priority": 1000}, "priority: "),
    ({"priority": -1}, "priority: "),
    ({"truncation_side": "top"}, "truncation_side: "),
    ({"truncate_prompt_tokens": 3}, "takes at least"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens: "),
    ({"max_chunks_per_doc": 0}, "max_chunks_per_doc: "),
    ({"rank_fields": "title"}, "rank_fields: "),
    ({"rank_fields": ["a"] * (MAX_RANK_FIELDS + 1)}, "rank_fields: "),
    ({"return_documents": "maybe"}, "return_documents: "),
    ({"return_documents": 2}, "return_documents: "),
]


def test_a_field_that_is_named_again_is_read_once() -> None:
    looked: list[str] = []

    class Noted(dict[str, object]):
        def get(self, name: str, default: object = None) -> object:
            looked.append(name)
            return super().get(name, default)

    document = Noted(a={"b": 1}, c="text")
    assert read_texts([document], ["a", "c", "a", "a"]) == ['a: {"b": 1}\nc: text']
    assert looked == ["a", "c"]


@pytest.mark.parametrize(("fields", "message"), WRONG)
@pytest.mark.parametrize(
    ("path", "dialect", "status"),
    [
        ("/v1/rerank", "cohere", 400),
        ("/v2/rerank", "cohere", 400),
        ("/v1/rerank", "jina", 422),
        ("/v1/rerank", "xinference", 400),
        ("/rerank", "cohere", 422),
    ],
)
def test_mistakes(path: str, dialect: str, status: int, fields: dict[str, Any], message: str) -> None:
    response = rerank(path, dialect, **fields)
    assert response.status == status
    assert message in response.content.decode()


@pytest.mark.parametrize(
    ("path", "dialect", "shape"),
    [
        ("/v1/rerank", "cohere", {"id": "mine", "message": "…"}),
        ("/v2/rerank", "cohere", {"id": "mine", "message": "…"}),
        ("/v1/rerank", "jina", {"detail": "…"}),
        ("/v1/rerank", "xinference", {"detail": "…"}),
        ("/v1/rerank", "voyage", {"detail": "…"}),
        (
            "/v1/rerank",
            "vllm",
            {"error": {"message": "…", "type": "NotFoundError", "param": None, "code": 404}},
        ),
        (
            "/rerank",
            "cohere",
            {"error": {"message": "…", "type": "NotFoundError", "param": None, "code": 404}},
        ),
    ],
)
def test_the_shape_of_an_error(path: str, dialect: str, shape: Any) -> None:
    response = rerank(path, dialect, model="no-such", headers={"x-request-id": "mine"})
    assert response.status == 404

    def blank(value: Any, like: Any) -> Any:
        if isinstance(like, dict):
            return {key: blank(value[key], like.get(key)) for key in value}
        return like if like == "…" and "no-such" in value else value

    assert blank(response.json, shape) == shape


@pytest.mark.parametrize(
    ("document", "fields", "text"),
    [
        ("a", None, "a"),
        ("a", ["title"], "a"),
        ({"text": "a", "title": "b"}, None, "a"),
        ({"text": "a", "title": "b"}, ["title"], "b"),
        ({"text": "a", "title": "b"}, ["title", "text"], "title: b\ntext: a"),
        ({"text": "a", "title": None}, ["title", "text"], "a"),
        (
            {"page": 7, "new": True, "tags": ["中"]},
            ["page", "new", "tags"],
            'page: 7\nnew: true\ntags: ["中"]',
        ),
        ({"text": ""}, None, ""),
    ],
)
def test_the_text_of_a_document(document: Any, fields: list[str] | None, text: str) -> None:
    assert read_texts([document], fields) == [text]


@pytest.mark.parametrize("document", [1, None, ["a"], {}, {"text": None}])
def test_what_has_no_text(document: Any) -> None:
    with pytest.raises(InputError, match=r"documents\.1"):
        read_texts(["a", document], None)
