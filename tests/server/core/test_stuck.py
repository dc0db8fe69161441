"""A server process whose engine, or whose tokenizer, never answers: it ends, one way or the other."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from crossrank.server.run import EXIT_STUCK

SERVER = """
import sys, threading
from crossrank.engines.fake import FakeEngine
from crossrank.loading import LoadedModel
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import PairEncoder
from crossrank.server import run
from crossrank.server.core import model, registry
from crossrank.server.settings import Settings

what, stuck_seconds, drain_timeout = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
registry._WATCH_SECONDS = 0.05
engine = FakeEngine()
encoder = PairEncoder(resolve(BUNDLED) / "tokenizer.json")

class Stuck(Settings):
    def registry(self):
        spec = model.ModelSpec("model", lambda: LoadedModel(encoder, engine))
        options = registry.Options(stuck_seconds=stuck_seconds, warm_up=False, tokenizer_threads=1)
        return registry.Registry([spec], options)

def told(address):
    if what == "engine":
        engine.gate.clear()
    else:
        encoder.join = lambda *_: threading.Event().wait()
    print(address, flush=True)

run.run(Stuck(port=0, drain_timeout=drain_timeout), listening=told)
"""


@contextmanager
def server(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        wait_for(port, "/health", '"ready"')
        yield process, port
    finally:
        process.kill()
        process.communicate()


def wait_for(port: int, path: str, text: str) -> None:
    """Ask until the answer holds a text; where the server ends, that is an error."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        found = ""
        while text not in found:
            connection.request("GET", path)
            found = connection.getresponse().read().decode()


def ask(port: int, answers: list[int]) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/rerank", json.dumps({"query": "q", "texts": ["a", "b"]}))
        answers.append(connection.getresponse().status)


@pytest.mark.parametrize("what", ["engine", "tokenizer"])
def test_it_answers_503_and_ends_so_that_a_supervisor_starts_it_anew(what: str) -> None:
    with server(what, "0.2", "30") as (process, port):
        answers: list[int] = []
        ask(port, answers)
        assert answers == [503]
        assert process.wait(60) == EXIT_STUCK


@pytest.mark.parametrize("what", ["engine", "tokenizer"])
def test_sigterm_ends_it_within_the_drain_timeout(what: str) -> None:
    with server(what, "3600", "0.5") as (process, port):
        answers: list[int] = []
        asking = threading.Thread(target=ask, args=(port, answers))
        asking.start()
        wait_for(port, "/metrics", "crossrank_queue_requests 1.0")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        asking.join()
        assert answers == [503]
