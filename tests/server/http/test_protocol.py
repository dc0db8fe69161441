"""What a client may do to a connection, before and beside what the application sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from crossrank.server.http import protocol
from crossrank.server.http.protocol import MAX_HEAD, MAX_HEADERS, MAX_TARGET, Connections, guarded_protocol
from tests.server.serving import until

GET = b"GET /path HTTP/1.1\r\nhost: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n"
PART = 16 << 10


class App:
    """Reads a request and answers with its path and headers, or as many bytes as it is told to."""

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.disconnected = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body, more = b"", True
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected += 1
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        await self.go.wait()
        names = [name.decode() for name, _ in scope["headers"]]
        data = b"x" * self.answer or json.dumps([scope["path"], *names]).encode()
        head = [(b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": data})


class Served:
    def __init__(self, port: int, connections: Connections) -> None:
        self.port = port
        self.connections = connections

    async def open(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))

    async def send(self, parts: Iterable[bytes], *, close: bool = False) -> bytes:
        """Send parts until the server does not take more, and read until it closes."""
        reader, writer = await self.open()
        received = asyncio.ensure_future(reader.read())
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
            if close:
                writer.write_eof()
        try:
            return await received
        finally:
            writer.close()


@asynccontextmanager
async def served(
    app: ASGIApp, limit: int = 100, read_timeout: float = 30.0, write_timeout: float = 30.0
) -> AsyncIterator[Served]:
    connections = Connections(limit, read_timeout, write_timeout)
    config = uvicorn.Config(
        app, http=guarded_protocol(connections), ws="none", lifespan="off", log_config=None
    )
    config.load()
    state = ServerState()

    def made() -> asyncio.Protocol:
        return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]

    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield Served(server.sockets[0].getsockname()[1], connections)
    finally:
        server.close()
        for each in list(state.connections):
            each.transport.abort()
        for task in list(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await until(lambda: not state.connections)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    def asyncio_run(main: Awaitable[None]) -> None:
        asyncio.run(asyncio.wait_for(main, 60))

    def uvloop_run(main: Awaitable[None]) -> None:
        uvloop.run(asyncio.wait_for(main, 60))

    return asyncio_run if request.param == "asyncio" else uvloop_run


Run = Callable[[Awaitable[None]], None]


def status_of(answer: bytes) -> int:
    found = re.match(rb"HTTP/1.1 (\d+) ", answer)
    assert found, answer
    return int(found[1])


# --- what it builds on ---


def test_uvicorn_has_the_names_that_are_overridden_or_read() -> None:
    for name, parameters in {
        "send_400_response": ["self", "msg"],
        "on_response_complete": ["self"],
        "on_message_begin": ["self"],
        "on_url": ["self", "url"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
    }.items():
        assert list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters) == parameters
    source = inspect.getsource(HttpToolsProtocol.__init__)
    for name in ("transport", "loop", "logger", "cycle", "pipeline", "client"):
        assert re.search(rf"self\.{name}\b", source), name
    source = inspect.getsource(RequestResponseCycle.__init__)
    for name in ("response_started", "response_complete", "disconnected", "message_event"):
        assert re.search(rf"self\.{name}\b", source), name


def test_the_version_of_uvicorn_is_bounded() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"uvicorn>=[\d.]+,<[\d.]+"', text)


# --- heads, trailers and what else never ends ---


def endless(first: bytes, part: bytes) -> list[bytes]:
    return [first, *[part * (PART // len(part))] * 500]


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        (endless(b"GET /", b"a"), 414),
        (endless(GET, b"a:\r\n"), 431),
        (endless(GET + b"a: ", b"b"), 431),
        (endless(GET, b"b"), 431),
        (endless(b"", b"\r\n"), 431),
        (endless(CHUNKED + b"0\r\n", b"a:\r\n"), 431),
        (endless(CHUNKED + b"0\r\na: ", b"b"), 431),
        (endless(CHUNKED + b"1;a=", b"b"), 431),
        ([b"GET /" + b"a" * MAX_TARGET + b" HTTP/1.1\r\n\r\n"], 414),
        ([GET + b"a: b\r\n" * MAX_HEADERS + b"\r\n"], 431),
        ([GET + b"a: " + b"b" * MAX_HEAD + b"\r\n\r\n"], 431),
        ([b"\x16\x03\x01 hello\r\n\r\n"], 400),
    ],
)
def test_what_is_too_large_or_never_ends_is_refused(run: Run, parts: list[bytes], status: int) -> None:
    async def main() -> None:
        app = App()
        async with served(app) as server:
            answer = await server.send(parts)
            assert status_of(answer) == status
            head, body = answer.split(b"\r\n\r\n")
            assert b"connection: close" in head
            assert json.loads(body)["error"]["code"] == status
            assert not app.bodies
            assert not server.connections.open
            assert status_of(await server.send([GET + b"connection: close\r\n\r\n"])) == 200

    run(main())


def test_nothing_of_an_endless_head_is_kept(run: Run) -> None:
    async def main() -> None:
        app = App()
        async with served(app) as server:
            reader, writer = await server.open()
            writer.write(GET + b"a: ")
            await until(lambda: server.connections.open and not server.connections.idle)
            (only,) = server.connections.open
            for _ in range(2 * MAX_HEAD // PART + 1):
                only.data_received(b"b" * PART)
            assert status_of(await reader.read()) == 431
            assert not app.scopes
            writer.close()

    run(main())


def test_what_is_just_small_enough_is_served(run: Run) -> None:
    async def main() -> None:
        app = App()
        async with served(app) as server:
            path = b"/" + b"a" * (MAX_TARGET - 1)
            headers = b"a: b\r\n" * (MAX_HEADERS - 2) + b"c: " + b"d" * (MAX_HEAD - 1000) + b"\r\n"
            answer = await server.send(
                [b"GET " + path + b" HTTP/1.1\r\nconnection: close\r\n" + headers + b"\r\n"]
            )
            assert status_of(answer) == 200

    run(main())


def test_trailers_are_no_headers(run: Run) -> None:
    async def main() -> None:
        app = App()
        async with served(app) as server:
            answer = await server.send(
                [CHUNKED + b"0\r\nauthorization: Bearer key\r\n\r\n", GET + b"connection: close\r\n\r\n"]
            )
            assert app.bodies[0] == b"{"
            assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]
            assert answer.count(b"HTTP/1.1 200 OK") == 2
            assert b"authorization" not in answer

    run(main())


def test_a_head_that_is_refused_behind_a_request_spoils_no_answer(run: Run) -> None:
    async def main() -> None:
        app = App()
        app.go.clear()
        async with served(app) as server:
            answer = await server.send([GET + b"\r\n", b"GET /" + b"a" * 2 * MAX_TARGET])
            assert answer == b""

    run(main())


def test_many_requests_on_one_connection(run: Run) -> None:
    async def main() -> None:
        app = App()
        async with served(app) as server:
            request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000
            answer = await server.send([request * 100, GET + b"connection: close\r\n\r\n"])
            assert answer.count(b"HTTP/1.1 200 OK") == 101

    run(main())


# --- clients that wait ---


def test_a_client_that_does_not_read_its_answer_is_dropped(run: Run) -> None:
    async def main() -> None:
        app = App(answer=16 << 20)
        async with served(app, write_timeout=0.05) as server:
            for request in (GET + b"\r\n", GET + b"connection: close\r\n\r\n"):
                with socket.socket() as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    client.setblocking(False)
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(client, ("127.0.0.1", server.port))
                    await loop.sock_sendall(client, request)
                    await until(lambda: server.connections.open)
                    await until(lambda: not server.connections.open)

    run(main())


def test_a_client_that_reads_slowly_gets_its_answer(run: Run) -> None:
    async def main() -> None:
        app = App(answer=8 << 20)
        async with served(app, write_timeout=0.5) as server:
            reader, writer = await server.open()
            writer.write(GET + b"connection: close\r\n\r\n")
            received = 0
            while part := await reader.read(64 << 10):
                received += len(part)
                await asyncio.sleep(0.005)
            assert received > app.answer
            writer.close()

    run(main())


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nhost:", GET])
def test_a_head_that_does_not_come(run: Run, data: bytes) -> None:
    async def main() -> None:
        async with served(App(), read_timeout=0.05) as server:
            assert await server.send([data]) == b""

    run(main())


def test_a_second_request_waits_for_the_first(run: Run) -> None:
    async def main() -> None:
        app = App()
        app.go.clear()
        async with served(app, read_timeout=0.02) as server:
            late = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nconnection: close\r\n\r\n"
            answer = asyncio.ensure_future(server.send([GET + b"\r\n" + late, b"x"]))
            await until(lambda: app.scopes)
            await asyncio.wait([answer], timeout=0.1)  # five times what a client has
            app.go.set()
            assert (await answer).count(b"HTTP/1.1 200 OK") == 2

    run(main())


# --- the number of connections ---


def test_idle_connections_make_room(run: Run) -> None:
    async def main() -> None:
        async with served(App(), limit=3) as server:
            idle = [await server.open() for _ in range(3)]
            await until(lambda: len(server.connections.open) == 3)
            for _ in range(5):
                assert status_of(await server.send([GET + b"connection: close\r\n\r\n"])) == 200
            # The longest idle one has gone, and no other.
            assert await idle[0][0].read() == b""
            assert len(server.connections.open) == 2
            for _, writer in idle[1:]:
                writer.write(GET + b"connection: close\r\n\r\n")
            for reader, _ in idle[1:]:
                assert status_of(await reader.read()) == 200
            for _, writer in idle:
                writer.close()

    run(main())


def test_one_connection_too_many_is_refused_where_all_are_at_work(run: Run) -> None:
    async def main() -> None:
        app = App()
        app.go.clear()
        async with served(app, limit=2) as server:
            busy = [
                asyncio.ensure_future(server.send([GET + b"connection: close\r\n\r\n"])) for _ in range(2)
            ]
            await until(lambda: len(app.scopes) == 2)
            answer = await server.send([])
            assert status_of(answer) == 503
            assert b"--max-connections" in answer
            app.go.set()
            assert [status_of(answer) for answer in await asyncio.gather(*busy)] == [200, 200]
            assert status_of(await server.send([GET + b"connection: close\r\n\r\n"])) == 200

    run(main())


def test_a_connection_is_idle_again_after_its_answer(run: Run) -> None:
    async def main() -> None:
        async with served(App(), limit=1) as server:
            reader, writer = await server.open()
            for _ in range(3):
                writer.write(GET + b"\r\n")
                await reader.readuntil(b"]")
                await until(lambda: server.connections.idle)
            assert status_of(await server.send([GET + b"connection: close\r\n\r\n"])) == 200
            assert await reader.read() == b""
            writer.close()

    run(main())


GREEDY, GOOD = "127.0.0.66", "127.0.0.2"
several_addresses = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is no address here")


@several_addresses
def test_a_network_that_has_most_connections_makes_room_for_others(run: Run) -> None:
    async def main() -> None:
        app = App()
        async with served(app, limit=5) as server:
            greedy = [await server.open(GREEDY) for _ in range(5)]
            for count, (_, writer) in enumerate(greedy):
                writer.write(CHUNKED if count % 2 else b"GET /pa")
                await until(lambda made=count + 1: len(server.connections.unfinished) == made)  # type: ignore[misc]
            good = [await server.open(GOOD) for _ in range(2)]
            for (_, writer), (reader, _) in zip(good, greedy, strict=False):
                # The longest unfinished one goes, and is told why.
                assert status_of(await reader.read()) == 503
                writer.write(GET + b"\r\n")
            await until(lambda: len(server.connections.idle) == 2)
            assert app.disconnected == 1
            # One more of the greedy takes the place of one of theirs, though others are idle.
            greedy.append(await server.open(GREEDY))
            assert status_of(await greedy[2][0].read()) == 503
            for reader, writer in good:
                writer.write(GET + b"connection: close\r\n\r\n")
                assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
            for _, writer in (*greedy, *good):
                writer.close()

    run(main())


@several_addresses
def test_a_network_with_fewer_connections_loses_no_request(run: Run) -> None:
    async def main() -> None:
        app = App()
        app.go.clear()
        async with served(app, limit=3) as server:
            request = GET + b"connection: close\r\n\r\n"
            busy = [await server.open(GREEDY) for _ in range(2)]
            for _, writer in busy:
                writer.write(request)
            slow = await server.open(GOOD)
            slow[1].write(request[:-2])
            await until(lambda: len(app.scopes) == 2 and server.connections.unfinished)
            more = await server.open(GREEDY)
            assert status_of(await more[0].read()) == 503
            more[1].close()
            slow[1].write(b"\r\n")
            app.go.set()
            for reader, writer in (slow, *busy):
                assert status_of(await reader.read()) == 200
                writer.close()

    run(main())


def test_where_all_have_one_address_the_longest_unfinished_makes_room(run: Run) -> None:
    async def main() -> None:
        async with served(App(), limit=3) as server:
            slow = [await server.open() for _ in range(3)]
            for count, (_, writer) in enumerate(slow):
                writer.write(GET)
                await until(lambda made=count + 1: len(server.connections.unfinished) == made)  # type: ignore[misc]
            assert status_of(await server.send([GET + b"connection: close\r\n\r\n"])) == 200
            assert status_of(await slow[0][0].read()) == 503
            for reader, writer in slow[1:]:
                writer.write(b"connection: close\r\n\r\n")
                assert status_of(await reader.read()) == 200
            for _, writer in slow:
                writer.close()

    run(main())


def test_a_client_that_does_not_read_its_answer_makes_room(run: Run) -> None:
    async def main() -> None:
        app = App(answer=16 << 20)
        async with served(app, limit=1) as server:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", server.port))
                await loop.sock_sendall(client, GET + b"\r\n")
                await until(lambda: server.connections.unfinished)
                app.answer = 0
                assert status_of(await server.send([GET + b"connection: close\r\n\r\n"])) == 200

    run(main())


def test_few_refused_connections_stay_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_REFUSED", 2)
    monkeypatch.setattr(protocol, "_LINGER", 1e6)

    async def main() -> None:
        app = App()
        app.go.clear()
        async with served(app, limit=1) as server:
            busy = asyncio.ensure_future(server.send([GET + b"connection: close\r\n\r\n"]))
            await until(lambda: app.scopes)
            refused = []
            for _ in range(4):
                reader, writer = await server.open()
                writer.write(GET + b"\r\n")
                refused.append(writer)
                assert status_of(await reader.read()) == 503
            assert len(server.connections.refused) == 2
            app.go.set()
            assert status_of(await busy) == 200
            for writer in refused:
                writer.close()

    run(main())
