"""``crossrank serve`` as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Server", "serving"]

_HOLDABLE = """
import sys, time
from pathlib import Path
from crossrank.cli import main
from crossrank.server.core.scheduler import Scheduler

held, execute = Path(sys.argv.pop(1)), Scheduler._execute

def execute_once_let_go(self, running):
    while held.exists():
        time.sleep(0.01)
    running.begun = self._clock()  # the engine was not slow: it was held
    execute(self, running)

Scheduler._execute = execute_once_let_go
main()
"""
"""``crossrank``, but its engine takes no pack while a file is there, the first argument."""


class Server:
    """A running server.

    Attributes:
        port: where it listens; 0: on a Unix socket.
        log: the file that it writes its log to, JSON lines.
        hold: while this file is there, the engine does nothing; None: the server is not ``holdable``.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, hold: Path | None) -> None:
        self.process = process
        self.log = log
        self.hold = hold
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        text = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_for_port(self) -> None:
        """Until it listens; models may still be loading."""
        for line in self._until_logged("listening on"):
            where = line["message"].removeprefix("listening on ")
            if where.startswith("http:"):
                self.port = int(where.rpartition(":")[2])

    def _until_logged(self, message: str, seconds: float = 60.0) -> list[dict[str, Any]]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [line for line in self.lines() if line["message"].startswith(message)]
            if found:
                return found
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"{message!r} was never logged: {self.log.read_text()}")

    def wait_until_ready(self) -> None:
        end = time.monotonic() + 120
        while self.request("GET", "/health")[0] != 200:
            assert time.monotonic() < end
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON body and headers (lower case)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        kind = response.headers.get("content-type", "")
        answer = json.loads(text) if kind.startswith("application/json") else text.decode()
        return response.status, answer, {key.lower(): value for key, value in response.headers.items()}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is scored within the block: what is asked there waits, however fast the machine is."""
        assert self.hold, "the server is not holdable"
        self.hold.touch()
        try:
            yield
        finally:
            self.hold.unlink()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def logged(self, message: str) -> dict[str, Any]:
        """The first line with this message; it must come."""
        return self._until_logged(message)[0]


@contextmanager
def serving(
    folder: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = ("-m", "crossrank"),
    holdable: bool = False,
) -> Iterator[Server]:
    """Start a server on a free port (or where ``options`` say), and kill it if it is still there.

    Args:
        folder: for its log.
        options: of ``crossrank serve``.
        env: more variables of its environment.
        command: what Python runs.
        holdable: ``Server.held`` holds its engine; ``command`` is this module's own.
    """
    log, hold = folder / "log", folder / "hold" if holdable else None
    if holdable:
        command = ["-c", _HOLDABLE, str(hold)]
    arguments = [*command, "serve", "--log-format", "json", "--port", "0", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], stderr=file, env={**os.environ, **(env or {})}
        )
    server = Server(process, log, hold)
    try:
        server.wait_for_port()
        yield server
    finally:
        process.kill()
        process.wait()
