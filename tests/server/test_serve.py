"""``crossrank serve`` as a process: its start, its signals, its end, and what only a connection shows."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.server.process import Server, serving

MINI = ["--model", "crossrank-mini", "--threads", "1"]
BODY = {"query": "capital of France", "texts": ["Paris is the capital.", "Cats are animals."]}
# More than the engine takes in one pack, but not much more: what would take a slow machine too long is
# refused at once, and never waits.
DOCUMENTS = [f"{i} " + "Paris is the capital of France. " * 10 for i in range(200)]
LARGE = {"query": "capital of France", "texts": DOCUMENTS}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # A body of 1 MiB must arrive in this time on a machine that is busy, too.
    options = ["--read-timeout", "3", "--max-body", "1MiB"]
    with serving(tmp_path_factory.mktemp("server"), *MINI, *options, holdable=True) as running:
        running.wait_until_ready()
        yield running


def send(server: Server, data: bytes, seconds: float = 20) -> bytes:
    """Send bytes as they are, and read until the server closes the connection or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def metric(server: Server, name: str) -> float:
    text = server.request("GET", "/metrics")[1]
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until(happens: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def connect(server: Server) -> closing[http.client.HTTPConnection]:
    """A connection that is closed when its block ends, also where the test fails there."""
    return closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60))


def test_it_answers_and_keeps_the_connection(server: Server) -> None:
    with connect(server) as connection:
        for _ in range(2):
            connection.request("POST", "/rerank", json.dumps(BODY))
            response = connection.getresponse()
            assert [hit["index"] for hit in json.loads(response.read())] == [0, 1]
            assert response.getheader("server") is None


def test_head_is_get_without_a_body(server: Server) -> None:
    with connect(server) as connection:
        for path in ("/health", "/metrics", "/docs", "/"):
            connection.request("HEAD", path)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b""), path


def test_a_body_in_chunks(server: Server) -> None:
    data = json.dumps(BODY).encode()
    with connect(server) as connection:
        connection.request(
            "POST",
            "/rerank",
            iter([data[:9], data[9:]]),
            encode_chunked=True,
            headers={"transfer-encoding": "chunked"},
        )
        assert connection.getresponse().status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_100_megabytes_are_refused_and_not_kept(server: Server, chunked: bool) -> None:
    before = metric(server, "process_resident_memory_bytes")
    block = b"x" * (1 << 20)
    headers = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(100 << 20)}
    with connect(server) as connection:
        connection.request("POST", "/rerank", (block for _ in range(100)), headers, encode_chunked=chunked)
        response = connection.getresponse()
        assert response.status == 413
        answer = json.loads(response.read())
        assert "--max-body" in answer["error"]
    assert metric(server, "process_resident_memory_bytes") < before + (20 << 20)
    assert server.request("POST", "/rerank", BODY)[0] == 200


def test_half_a_body_and_then_silence(server: Server) -> None:
    begun = time.monotonic()
    answer = send(server, b'POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{"query"')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"--read-timeout" in answer
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("data", [b"", b"POST /rerank HTTP/1.1\r\nhost:"])
def test_half_a_head_and_then_silence(server: Server, data: bytes) -> None:
    begun = time.monotonic()
    assert send(server, data) == b""
    assert time.monotonic() - begun < 10


def test_what_is_not_http(server: Server) -> None:
    assert send(server, b"\x16\x03\x01\x02\x00 hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_client_that_goes_takes_its_pairs_with_it(server: Server) -> None:
    requests = metric(server, "crossrank_cancelled_total")
    pairs = metric(server, "crossrank_cancelled_pairs_total")
    # The engine is held to the end: no pair leaves the queue because it was scored.
    with server.held():
        with connect(server) as connection:
            connection.request("POST", "/rerank", json.dumps(LARGE))
            until(lambda: metric(server, "te_queue_size") > 0)
        until(lambda: metric(server, "crossrank_cancelled_pairs_total") == pairs + len(DOCUMENTS))
        assert metric(server, "crossrank_cancelled_total") == requests + 1
        assert metric(server, "te_queue_size") == 0


def test_loading_models_anew_loses_no_request(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            asked = [pool.submit(server.request, "POST", "/rerank", BODY) for _ in range(20)]
            server.signal(signal.SIGHUP)
            asked += [pool.submit(server.request, "POST", "/rerank", BODY) for _ in range(20)]
            answers = [each.result() for each in asked]
            assert {status for status, _, _ in answers} == {200}
            assert {json.dumps(body) for _, body, _ in answers} == {json.dumps(answers[0][1])}
    server.logged("the models are loaded anew")


def test_a_request_has_a_line_in_the_log(server: Server) -> None:
    headers = {"X-Request-Id": "find-me", "X-Client-Name": "a test"}
    assert server.request("POST", "/v2/rerank", {"query": "a", "documents": ["b"]}, headers)[0] == 200

    def found() -> list[dict[str, Any]]:
        return [line for line in server.lines() if line.get("request_id") == "find-me"]

    until(found)
    line = found()[0]
    assert (line["path"], line["status"], line["client"]) == ("/v2/rerank", 200, "a test")
    assert line["dialect"] == "cohere"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, *MINI, holdable=True) as server, ThreadPoolExecutor(3) as pool:
        server.wait_until_ready()
        documents = DOCUMENTS[:15]
        body = {"query": "capital", "texts": documents}
        with server.held():
            asked = [pool.submit(server.request, "POST", "/rerank", body) for _ in range(3)]
            until(lambda: metric(server, "crossrank_queue_requests") == 3)
            server.signal(number)
            server.logged("stopping")
        answers = [each.result() for each in asked]
        assert {status for status, _, _ in answers} == {200}
        assert all(len(body) == 15 for _, body, _ in answers)
        assert server.process.wait(20) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()


def test_what_does_not_finish_in_time_is_told_so(tmp_path: Path) -> None:
    options = ["--drain-timeout", "0.2", "--timeout", "3600"]
    with serving(tmp_path, *MINI, *options, holdable=True) as server, ThreadPoolExecutor(1) as pool:
        server.wait_until_ready()
        with server.held():
            asked = pool.submit(server.request, "POST", "/rerank", LARGE)
            until(lambda: metric(server, "te_queue_size") > 0)
            server.signal(signal.SIGTERM)
            status, answer, headers = asked.result()
        assert (status, answer["error_type"], headers["retry-after"]) == (503, "Unhealthy", "1")
        assert server.process.wait(20) == 0


def half(connection: socket.socket) -> None:
    """Half a body."""
    connection.sendall(b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")


def unread(connection: socket.socket) -> None:
    """A request whose answer is larger than what a socket takes unread."""
    documents = ["x" * 900_000] * 16
    data = json.dumps({"query": "a", "documents": documents, "return_documents": True}).encode()
    connection.sendall(
        b"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(data) + data
    )
    connection.recv(1)


def head(connection: socket.socket) -> None:
    """Half a head."""
    connection.sendall(b"POST /rerank HTTP/1.1\r\nhost:")


@pytest.mark.parametrize("clients", [half, unread, head])
def test_clients_that_only_wait_keep_no_server(
    tmp_path: Path, clients: Callable[[socket.socket], None]
) -> None:
    waits = ["--drain-timeout", "0", "--read-timeout", "600", "--write-timeout", "600", "--timeout", "600"]
    with serving(tmp_path, *MINI, *waits) as server, ExitStack() as stack:
        server.wait_until_ready()
        for _ in range(3):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            clients(connection)
        server.signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_a_thread_that_does_not_end_keeps_no_server(tmp_path: Path) -> None:
    code = "; ".join(
        [
            "import time, crossrank.server.http.endpoint as s",
            "s.Service._read = lambda *_: time.sleep(3600)",
            "from crossrank.cli import main",
            "main()",
        ]
    )
    with serving(tmp_path, *MINI, "--drain-timeout", "0", command=["-c", code]) as server:
        server.wait_until_ready()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            data = json.dumps({"query": "a" * 100_000, "texts": ["b"]}).encode()
            connection.sendall(
                b"POST /rerank HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(data) + data
            )
            until(lambda: metric(server, "crossrank_concurrent_requests") == 1)
            server.signal(signal.SIGTERM)
            assert server.process.wait(60) == 0
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"the server is stopping" in answer
        assert not any("traceback" in line for line in server.lines())


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """A hub that takes connections and never answers: a model from there is loading for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_it_listens_at_once_and_says_that_it_is_loading(tmp_path: Path, silent_hub: str) -> None:
    env = {"HF_ENDPOINT": silent_hub, "HF_HOME": str(tmp_path)}
    with serving(tmp_path, "--model", "some/model", env=env) as server:
        status, health, _ = server.request("GET", "/health")
        assert (status, health["status"]) == (503, "loading")
        assert health["message"] == "some/model is loading"
        assert server.request("GET", "/health/live")[0] == 200
        status, answer, headers = server.request("POST", "/rerank", BODY)
        assert (status, answer["error_type"], headers["retry-after"]) == (503, "Unhealthy", "1")
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_a_unix_socket(tmp_path: Path) -> None:
    path = Path(f"/tmp/crossrank-test-{os.getpid()}.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # as a killed server leaves it
    with serving(tmp_path, *MINI, "--uds", str(path)) as server:
        server.logged("crossrank-mini is ready")

        def health() -> bytes:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                return b"".join(iter(lambda: connection.recv(4096), b""))

        assert b'{"status":"ready"}' in health()
        second = run(*MINI, "--uds", str(path))
        assert (second.returncode, second.stderr.count("error:")) == (2, 1)
        assert "in use" in second.stderr
        assert b'{"status":"ready"}' in health()
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert not path.exists()


def run(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A server that is not to start."""
    command = [sys.executable, "-m", "crossrank", "serve", *options]
    return subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_line(tmp_path: Path) -> None:
    for options, message in (
        (["--model", "crossrank-mini", "--model", "/etc"], "config.json"),
        (["--model", "no/such", "--offline"], "no/such"),
    ):
        done = run("--log-level", "error", "--port", "0", *options, HF_HOME=str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
        assert message in done.stderr
