"""The client against a real server; its retries against one that says what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from crossrank import Reranker
from crossrank.client import AsyncClient, Client
from crossrank.errors import (
    CrossRankError,
    DeadlineError,
    InputError,
    OverloadedError,
    ServiceError,
    UnavailableError,
    UnknownModelError,
)
from tests.server.process import Server, serving

QUERY = "capital of France"
DOCUMENTS: list[Any] = [
    "Lyon is a city in France.",
    {"text": "Paris is the seat of the French government.", "id": 7, "text2": "no"},
    "Cats sleep a lot. " * 300,
    "",
    "a\udcffb 北京",
]
KEY = "a-secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--model", "crossrank-mini", "--model", "other=crossrank-mini", "--threads", "1"]
    options += ["--api-key", KEY, "--dialect", "voyage", "--max-documents", "100", "--max-length", "128"]
    with serving(tmp_path_factory.mktemp("client"), *options, holdable=True) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(threads=1, max_length=128)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, api_key=KEY) as asking:
        yield asking


# --- as the library, bit for bit ---


@pytest.mark.parametrize("options", [{}, {"top_n": 2}, {"top_n": 0}, {"threshold": 0.5}, {"threshold": 1.0}])
def test_a_ranking_is_the_librarys(client: Client, reranker: Reranker, options: dict[str, Any]) -> None:
    ranking = client.rank(QUERY, DOCUMENTS, **options)
    assert ranking == reranker.rank(QUERY, DOCUMENTS, **options)
    assert [hit.truncated for hit in ranking] == [hit.index == 2 for hit in ranking]
    assert [hit.fields for hit in ranking if hit.index == 1] in ([], [{"id": 7, "text2": "no"}])


def test_numbers_are_the_librarys(client: Client, reranker: Reranker) -> None:
    pairs = [(QUERY, "Paris"), ("another query", "Paris"), (QUERY, "Lyon " * 600)]
    assert client.logits(pairs).tobytes() == reranker.logits(pairs).tobytes()
    assert client.score(pairs).tobytes() == reranker.score(pairs).tobytes()
    assert client.score(pairs).dtype == np.float32
    assert client.score_pairs(pairs) == reranker.score_pairs(pairs)
    assert [pair.truncated for pair in client.score_pairs(pairs)] == [False, False, True]


def test_nothing_to_score_asks_nobody() -> None:
    with Client("http://127.0.0.1:9", retries=0) as nowhere:
        assert len(nowhere.rank("q", [])) == 0
        assert nowhere.score([]).shape == (0,)
        assert nowhere.score_pairs([]) == []


@pytest.mark.parametrize("count", [0, 1, 7, 30])
def test_many_queries_in_their_order(client: Client, reranker: Reranker, count: int) -> None:
    requests = [(f"query {i}", [f"document {j}" for j in range(i % 4)]) for i in range(count)]
    assert list(client.rank_many(iter(requests), top_n=2)) == [
        reranker.rank(query, documents, top_n=2) for query, documents in requests
    ]


def test_many_queries_are_drawn_no_further_ahead_than_they_are_sent(server: Server) -> None:
    drawn: list[int] = []

    def requests() -> Iterator[tuple[str, list[str]]]:
        for i in range(20):
            drawn.append(i)
            yield f"query {i}", ["one", "two"]

    with Client(server.url, api_key=KEY, concurrency=3) as client:
        rankings = client.rank_many(requests())
        for i in range(5):
            assert next(rankings).query == f"query {i}"
            assert len(drawn) == i + 3
        rankings.close()  # type: ignore[attr-defined]


def test_many_threads_at_once(client: Client, reranker: Reranker) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.rank, f"query {i}", ["one", f"two {i}"]) for i in range(24)]
        for i, each in enumerate(asked):
            assert each.result() == reranker.rank(f"query {i}", ["one", f"two {i}"])


LONG = (
    "Lyon is a city. Paris is the seat of the French government! Nobody\udcff knows? 北京是首都。"
    + " Cats." * 400
)


@pytest.mark.parametrize("document", [LONG, {"text": "Paris. Lyon.", "id": 7}, ""])
def test_an_explanation_is_the_librarys(client: Client, reranker: Reranker, document: Any) -> None:
    assert client.explain(QUERY, document) == reranker.explain(QUERY, document)
    some = client.explain(QUERY, document, max_sentences=2)
    assert some == reranker.explain(QUERY, document, max_sentences=2)
    assert some.sentences_left_out == (402 if document is LONG else 0)


def test_all_of_it_to_await(server: Server, reranker: Reranker) -> None:
    pairs = [(QUERY, "Paris"), ("another query", "Paris")]
    requests = [(f"query {i}", ["one", "two", "three"][: i % 4]) for i in range(20)]

    async def more() -> AsyncIterator[tuple[str, list[str]]]:
        for request in requests:
            yield request

    async def ask() -> None:
        async with AsyncClient(server.url, api_key=KEY, model="other") as client:
            assert await client.rank(QUERY, DOCUMENTS, top_n=3) == reranker.rank(QUERY, DOCUMENTS, top_n=3)
            assert (await client.logits(pairs)).tobytes() == reranker.logits(pairs).tobytes()
            assert (await client.score(pairs)).tobytes() == reranker.score(pairs).tobytes()
            assert await client.score_pairs(pairs) == reranker.score_pairs(pairs)
            assert await client.explain(QUERY, LONG) == reranker.explain(QUERY, LONG)
            assert await client.models() == ["crossrank-mini", "other"]
            expected = list(reranker.rank_many(requests))
            assert [each async for each in client.rank_many(requests)] == expected
            assert [each async for each in client.rank_many(more())] == expected
            assert len(await client.rank("q", [])) == 0

    asyncio.run(ask())


# --- mistakes, and what a server says of them ---


def test_mistakes_are_found_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9", retries=0) as client:
        for wrong in ("one document", {"text": "one"}, ["a", 7], [{"title": "b"}]):
            with pytest.raises(InputError, match="document"):
                client.rank("q", wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="top_n is -1"):
            client.rank("q", ["a"], top_n=-1)
        with pytest.raises(InputError, match="threshold is 2"):
            next(client.rank_many([], threshold=2))
        with pytest.raises(InputError, match="pair 1 is"):
            client.logits([("a", "b"), ("c",)])  # type: ignore[list-item]
        with pytest.raises(InputError, match="documents is None; it must be a list"):
            client.rank("q", None)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="request 0 is 'ab'"):
            next(client.rank_many(["ab"]))  # type: ignore[list-item]
        with pytest.raises(InputError, match="max_sentences is 'x'"):
            client.explain("q", "a", max_sentences="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="this client is closed"):
        client.rank("q", ["a"])


def test_requests_of_an_asynchronous_client_are_named_too() -> None:
    async def main() -> None:
        async with AsyncClient("http://127.0.0.1:9", retries=0) as client:
            with pytest.raises(InputError, match="request 0: document 1 is a int"):
                await anext(client.rank_many([("q", ["a", 7])]))  # type: ignore[list-item]
        with pytest.raises(InputError, match="this client is closed"):
            await client.rank("q", ["a"])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "127.0.0.1:8080"}, "is not an address"),
        ({"base_url": "ftp://a"}, "is not an address"),
        ({"base_url": "http://"}, "is not an address"),
        ({"base_url": "http://a?b=c"}, "is not an address"),
        ({"api_key": ""}, "API key"),
        ({"api_key": "a\nb"}, "API key"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"priority": 1000}, "priority is 1000"),
        ({"api_key": 5}, "api_key is a int"),
        ({"model": b"m"}, "model is b'm'"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"timeout": "60"}, "timeout is '60'"),
        ({"retries": None}, "retries is None"),
        ({"concurrency": 2.5}, "concurrency is 2.5"),
        ({"priority": "first"}, "priority is 'first'"),
        ({"long": "split"}, "long is 'split'"),
        ({"max_windows": 0}, "max_windows is 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InputError, match=re.escape(message)):
            kind(**{"base_url": "http://a", **options})


def test_errors_of_a_real_server(server: Server, client: Client) -> None:
    with pytest.raises(InputError, match=r"maximum allowed batch size 100 \(--max-documents\)"):
        client.rank("q", ["a"] * 101)
    with Client(server.url) as stranger, pytest.raises(ServiceError, match="Authorization: Bearer KEY"):
        stranger.rank("q", ["a"])
    with Client(server.url, api_key=KEY, model="no-such") as wrong:
        with pytest.raises(UnknownModelError, match="crossrank-mini, other") as caught:
            wrong.rank("q", ["a"])
        with pytest.raises(UnknownModelError, match="crossrank-mini, other"):
            wrong.explain("q", "a")
        assert caught.value.known == ["crossrank-mini", "other"]
    with (
        Client(f"{server.url}/elsewhere", api_key=KEY) as lost,
        pytest.raises(ServiceError, match="POST /elsewhere/score is not served here"),
    ):
        lost.rank("q", ["a"])

    with pytest.raises(InputError, match="max_sentences"):
        client.explain("q", "a", max_sentences=0)
    with pytest.raises(InputError, match="document 0 is a int"):
        client.explain("q", 7)  # type: ignore[arg-type]

    async def ask() -> None:
        async with AsyncClient(server.url, api_key=KEY, model="no-such") as wrong:
            with pytest.raises(UnknownModelError, match="crossrank-mini, other"):
                await wrong.rank("q", ["a"])
            with pytest.raises(UnknownModelError, match="crossrank-mini, other"):
                await wrong.explain("q", "a")

    asyncio.run(ask())


def test_a_model_here_thins_what_the_servers_model_reads(server: Server, reranker: Reranker) -> None:
    with Client(server.url, api_key=KEY, model="other", first=reranker, keep=2) as client:
        ranking = client.rank(QUERY, DOCUMENTS)
        assert [hit.model for hit in ranking[:3]] == ["other", "other", "crossrank-mini"]
        # Both are the same model, so that the order is what it is alone.
        assert ranking.indices == reranker.rank(QUERY, DOCUMENTS).indices
        again, empty = client.rank_many([(QUERY, DOCUMENTS), ("q", [])])
        assert (again, len(empty)) == (ranking, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 5}, "first is 5; it must be a model's name, a folder or a Reranker"),
        ({"first": "/none/such"}, "/none/such"),
        ({"keep": 0}, "keep is 0"),
    ],
)
def test_what_a_first_model_may_not_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossRankError, match=message):
        Client("http://127.0.0.1:1", **options)


def test_time_that_is_over_is_said_by_the_server(server: Server) -> None:
    with (
        Client(server.url, api_key=KEY, timeout=0.05) as hasty,
        pytest.raises(DeadlineError, match=r"send fewer documents|time is over|did not answer"),
    ):
        hasty.rank("q", [f"a long document {i} " * 400 for i in range(100)])


def test_cancelling_takes_the_request_off_the_server(server: Server) -> None:
    request = ("q", ["one", "two"])

    def metric(name: str) -> float:
        text = server.request("GET", "/metrics", headers={"authorization": f"Bearer {KEY}"})[1]
        return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])

    async def until(name: str, value: float) -> None:
        end = time.monotonic() + 20
        while metric(name) != value:
            assert time.monotonic() < end, (name, metric(name))
            await asyncio.sleep(0.02)

    async def ask() -> None:
        before = metric("crossrank_cancelled_total")
        async with AsyncClient(server.url, api_key=KEY, concurrency=3) as client:
            asked = asyncio.ensure_future(client.rank(*request))
            drawn = asyncio.ensure_future(anext(client.rank_many([request] * 9)))
            await until("crossrank_queue_requests", 4)
            for count, each in ((1, asked), (4, drawn)):
                each.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await each
                await until("crossrank_cancelled_total", before + count)

    with server.held():  # or some might be answered before all are there
        asyncio.run(ask())


# --- tries ---


class Scripted:
    """A server that gives one answer after the other: (status, headers, body), or None, and hangs up."""

    def __init__(self, *answers: tuple[int, dict[str, str], Any] | None) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        left = list(answers)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {key.lower(): value for key, value in self.headers.items()}
                outer.asked.append((self.path, headers, body))
                answer = left.pop(0)
                if answer is None:
                    self.close_connection = True
                    return
                status, more, content = answer
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


GOOD: tuple[int, dict[str, str], Any] = (
    200,
    {},
    {"data": [{"index": 1, "score": -1.5, "truncated": True}, {"index": 0, "score": 2.5}]},
)


def refused(status: int, after: str | None = None, message: str = "busy") -> tuple[int, dict[str, str], Any]:
    headers = {} if after is None else {"retry-after": after}
    return status, headers, {"error": {"message": message, "type": "any", "param": None, "code": status}}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes any time."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr("time.sleep", made.append)
    monkeypatch.setattr("asyncio.sleep", sleep)
    return made


def ask(kind: type[Client] | type[AsyncClient], url: str, **options: Any) -> Any:
    """Rank two documents with either client."""
    if kind is Client:
        with Client(url, **options) as client:
            return client.rank("q", ["a", "b"])

    async def asked() -> Any:
        async with AsyncClient(url, **options) as client:
            return await client.rank("q", ["a", "b"])

    return asyncio.run(asked())


both = pytest.mark.parametrize("kind", [Client, AsyncClient])


@both
def test_what_is_sent(kind: Any, pauses: list[float]) -> None:
    with Scripted(GOOD) as server:
        ranking = ask(kind, f"{server.url}/prefix/", api_key="k", model="m", priority=5, timeout=20)
    path, headers, body = server.asked[0]
    assert path == "/prefix/score"
    assert body == {
        "queries": "q",
        "documents": ["a", "b"],
        "use_activation": False,
        "ranking": True,
        "model": "m",
        "priority": 5,
    }
    assert headers["authorization"] == "Bearer k"
    assert headers["user-agent"].startswith("crossrank/")
    assert 18 < float(headers["x-request-timeout"]) <= 19.5
    assert [(hit.index, hit.logit, hit.truncated) for hit in ranking] == [(0, 2.5, False), (1, -1.5, True)]
    assert not pauses


@both
def test_windows_are_asked_for_and_read(kind: Any) -> None:
    data = [{"index": 0, "score": 1.0}, {"index": 1, "score": 2.0, "window": [3, 40], "truncated": True}]
    with Scripted((200, {}, {"data": data})) as server:
        ranking = ask(kind, server.url, long="windows", max_windows=4)
    assert (server.asked[0][2]["long"], server.asked[0][2]["max_windows"]) == ("windows", 4)
    assert [(hit.index, hit.window, hit.truncated) for hit in ranking] == [
        (1, (3, 40), True),
        (0, None, False),
    ]


@both
@pytest.mark.parametrize("window", [3, [1], "ab", [None, 2]])
def test_a_window_that_is_none_is_no_answer(kind: Any, window: Any) -> None:
    data = [{"index": 0, "score": 1.0}, {"index": 1, "score": 2.0, "window": window}]
    with Scripted((200, {}, {"data": data})) as server, pytest.raises(ServiceError, match="without 2 scores"):
        ask(kind, server.url)


@both
@pytest.mark.parametrize("status", [429, 502, 503])
def test_it_comes_again_when_it_was_told_to(kind: Any, status: int, pauses: list[float]) -> None:
    with Scripted(refused(status, "3"), refused(status, "2"), None, GOOD) as server:
        assert len(ask(kind, server.url)) == 2
    assert len(server.asked) == 4
    assert 3 <= pauses[0] <= 3.75
    assert 2 <= pauses[1] <= 2.5
    assert 1 <= pauses[2] <= 1.25  # the third of 0.25, 0.5, 1: a connection that breaks says nothing


def test_a_date_says_when_too(pauses: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    with Scripted(refused(503, date), refused(503, "soon"), refused(503, "inf"), GOOD) as server:
        ask(Client, server.url)
    assert 18 < pauses[0] <= 25
    assert 0.5 <= pauses[1] <= 0.625
    assert 1 <= pauses[2] <= 1.25


@both
def test_tries_come_to_an_end(kind: Any, pauses: list[float]) -> None:
    with Scripted(*[refused(429, "1")] * 3) as server:
        with pytest.raises(OverloadedError, match="busy") as caught:
            ask(kind, server.url, retries=2)
        assert caught.value.retry_after == 1
    assert len(server.asked) == 3
    assert len(pauses) == 2


@both
def test_there_is_no_try_that_the_time_does_not_allow(kind: Any, pauses: list[float]) -> None:
    with Scripted(refused(503, "300")) as server, pytest.raises(UnavailableError, match="busy") as caught:
        ask(kind, server.url, timeout=10)
    assert caught.value.retry_after == 300
    assert not pauses


def test_all_tries_share_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    with Scripted(*[refused(503, "4")] * 9) as server, pytest.raises(UnavailableError):
        ask(Client, server.url, timeout=10, retries=8)
    limits = [float(headers["x-request-timeout"]) for _, headers, _ in server.asked]
    assert limits[0] == 9.5
    assert limits == sorted(limits, reverse=True)
    assert 2 <= len(limits) <= 3


def test_a_pause_that_takes_all_the_time_ends_with_what_failed_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += 60 * seconds  # a busy machine wakes nobody in time

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    with Scripted(refused(503, "1"), GOOD) as server, pytest.raises(UnavailableError, match="busy"):
        ask(Client, server.url, timeout=10)
    assert len(server.asked) == 1


@both
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (refused(400, message="top_n is odd"), InputError, "top_n is odd"),
        (refused(413), InputError, "busy"),
        (refused(422), InputError, "busy"),
        (refused(401), ServiceError, "busy"),
        (refused(404), ServiceError, "busy"),
        (refused(500, "1"), ServiceError, "busy"),
        (refused(504, "1"), DeadlineError, "busy"),
        ((500, {}, b"<html>"), ServiceError, "answered 500 Internal Server Error"),
        ((418, {}, [1]), ServiceError, "answered 418"),
        ((308, {"location": "https://b/score"}, b""), ServiceError, "points to https://b/score"),
        ((200, {}, b"<html>"), ServiceError, "without 2 scores; is it CrossRank?"),
        ((200, {}, {"data": []}), ServiceError, "without 2 scores"),
        ((200, {}, {"data": [1, 2]}), ServiceError, "without 2 scores"),
        ((200, {}, {"data": {"index": 0}}), ServiceError, "without 2 scores"),
        ((200, {}, {"data": [{"index": 0, "score": 1}] * 2}), ServiceError, "without 2 scores"),
        (
            (200, {}, {"data": [{"index": i, "score": None} for i in (0, 1)]}),
            ServiceError,
            "without 2 scores",
        ),
        ((200, {}, {"data": [{"index": i, "score": 1e99} for i in (0, 1)]}), CrossRankError, "pair 0 has"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_what_is_final_is_said_at_once(
    kind: Any, answer: Any, error: type[CrossRankError], message: str, pauses: list[float]
) -> None:
    with Scripted(answer) as server, pytest.raises(CrossRankError, match=re.escape(message)) as caught:
        ask(kind, server.url)
    assert type(caught.value) is error or error is CrossRankError
    assert len(server.asked) == 1
    assert not pauses


@both
def test_nobody_is_there(kind: Any, pauses: list[float]) -> None:
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:9/ does not answer"):
        ask(kind, "http://127.0.0.1:9", retries=2)
    assert len(pauses) == 2


@both
def test_a_server_that_is_silent(kind: Any) -> None:
    def hold(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("silent", request=request)

    with pytest.raises(DeadlineError, match=r"within 5 s \(timeout\)"):
        ask(kind, "http://a", timeout=5, transport=httpx.MockTransport(hold))


def test_a_unix_socket(tmp_path: Path) -> None:
    path = Path(f"/tmp/crossrank-client-{id(tmp_path)}.sock")
    with serving(tmp_path, "--threads", "1", "--uds", str(path)) as server:
        server.logged("crossrank-mini is ready")
        for address in (f"unix:{path}", f"unix://{path}"):
            with Client(address) as client:
                assert client.models() == ["crossrank-mini"]
                assert client.rank("q", ["a"])[0].text == "a"
                assert client.info()["models"][0]["name"] == "crossrank-mini"

        async def asked() -> Any:
            async with AsyncClient(f"unix:{path}") as client:
                return await client.models(), await client.info()

        models, info = asyncio.run(asked())
        assert models == [info["models"][0]["name"]] == ["crossrank-mini"]
    path.unlink(missing_ok=True)


def test_no_socket_is_there(pauses: list[float]) -> None:
    with pytest.raises(UnavailableError, match=r"unix:/no/such.sock does not answer: "):
        ask(
            AsyncClient, "unix:/no/such.sock", retries=1
        )  # httpcore leaves the other's socket to be collected
    with pytest.raises(InputError, match="unix:/PATH/TO/SOCKET"):
        Client("unix:")


# --- what a server may do to a client ---


class Raw:
    """A server that sends bytes as they are made, to one client, and then hangs up."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(parts,))

    def _serve(self, parts: Iterable[bytes]) -> None:
        connection, _ = self._listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    def __enter__(self) -> Raw:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listening.close()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"])
def test_the_timeout_is_of_the_whole_call(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def trickle() -> Iterator[bytes]:
        nonlocal now
        yield head
        for _ in range(100):
            now += 1
            yield b"x"

    monkeypatch.setattr("time.monotonic", lambda: now)
    with (
        Raw(trickle()) as server,
        pytest.raises(DeadlineError, match=r"within 20 s \(timeout\)"),
    ):
        ask(Client, server.url, timeout=20, retries=0)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"])
def test_the_timeout_is_of_the_whole_call_to_await(head: bytes) -> None:
    gone = threading.Event()

    def trickle() -> Iterator[bytes]:
        yield head
        for _ in range(1000):
            gone.wait(0.01)
            yield b"x"

    with Raw(trickle()) as server, pytest.raises(DeadlineError, match=r"within 0.3 s \(timeout\)"):
        ask(AsyncClient, server.url, timeout=0.3, retries=0)


@both
@pytest.mark.parametrize("length", ["content-length: 90000000000", "x: y"])
def test_an_answer_has_an_end(kind: Any, length: str) -> None:
    def endless() -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode()
        for _ in range(100):
            yield b" " * (1 << 20)

    with Raw(endless()) as server, pytest.raises(ServiceError, match=r"answer of more than 10.* bytes"):
        ask(kind, server.url, retries=0)


@both
def test_nothing_is_unpacked(kind: Any, pauses: list[float]) -> None:
    bomb = gzip.compress(bytes(1 << 20))
    with (
        Scripted((200, {"content-encoding": "gzip"}, bomb)) as server,
        pytest.raises(ServiceError, match="in the encoding 'gzip'"),
    ):
        ask(kind, server.url)
    assert server.asked[0][1]["accept-encoding"] == "identity"


@both
def test_an_answer_that_is_nested_deeply(kind: Any, pauses: list[float]) -> None:
    with (
        Scripted((200, {}, b"[" * 100_000)) as server,
        pytest.raises(ServiceError, match="without 2 scores"),
    ):
        ask(kind, server.url)


# --- the way to the server ---


@both
def test_an_address_of_another_service_ends_in_its_version(kind: Any) -> None:
    for end in ("/v1", "/v1/", "/", ""):
        with Scripted(GOOD) as server:
            ask(kind, server.url + end)
        assert server.asked[0][0] == "/score"


@both
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:7891/"),
        ("all_proxy", "socks5://127.0.0.1:1"),
        ("NO_PROXY", "[::1],127.0.0.1"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nonexistent.pem"),
    ],
)
def test_this_machine_is_asked_directly(
    kind: Any, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with Scripted(GOOD) as server:
        assert len(ask(kind, server.url)) == 2


@both
def test_what_cannot_be_used_is_named(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    with pytest.raises(InputError, match=r"SSL_CERT_FILE is '/nonexistent\.pem', which cannot be read"):
        kind("https://ranker.example")
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:7891/")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(InputError, match=r"ALL_PROXY is socks://127.0.0.1:7891, which cannot"):
        kind("http://ranker.example")


@both
def test_a_proxy_that_does_not_answer_is_named(
    kind: Any, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="does not answer through the proxy of HTTP_PROXY: "):
        ask(kind, "http://ranker.example", retries=0)


@pytest.mark.parametrize("body", [{}, {"sentences": 7}, {"sentences": [{"start": 0}]}, {"sentences": []}])
def test_what_is_no_explanation(body: dict[str, Any]) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    with (
        Client("http://a", transport=transport) as client,
        pytest.raises(ServiceError, match="without an explanation; is it CrossRank"),
    ):
        client.explain("q", "a")


def test_a_repr_says_where_and_keeps_the_key() -> None:
    with Client("http://127.0.0.1:8080", api_key="secret", model="m") as client:
        assert repr(client) == "<Client http://127.0.0.1:8080/, model 'm'>"
    assert repr(client) == "<Client http://127.0.0.1:8080/, model 'm', closed>"
    assert repr(AsyncClient("http://127.0.0.1:8080")) == "<AsyncClient http://127.0.0.1:8080/>"
