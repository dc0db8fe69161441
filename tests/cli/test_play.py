from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from crossrank.cli import play
from crossrank.server import run as server
from crossrank.server.settings import Settings
from tests.cli.conftest import Run


def test_it_serves_the_page_and_opens_the_browser(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "crossrank", "play", "--port", "0", "--threads", "1"]
    environment = {**os.environ, "BROWSER": str(browser), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            end = time.monotonic() + 30
            while not opened.exists():
                assert time.monotonic() < end
                time.sleep(0.02)
            url = opened.read_text().strip()
            assert line == f"CrossRank is at {url} (Ctrl+C stops it)\n"
            with urllib.request.urlopen(url, timeout=30) as response:
                assert b"<title>CrossRank" in response.read()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_its_options_and_its_port(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Settings] = []

    def run(settings: Settings, *, listening: Callable[[str], None]) -> None:
        told.append(settings)
        listening("http://localhost:1")

    monkeypatch.setattr(server, "run", run)
    monkeypatch.setattr(webbrowser, "open", str)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(play, "_PORT", taken.getsockname()[1])
        assert crossrank("play", "--no-browser").code == 0
    several = crossrank("play", "-m", "a", "-m", "b=/c", "--precision", "fp32", "--offline")
    assert several.code == 0
    assert "at http://localhost:1/?models=all (" in several.out
    assert crossrank("play", "--port", "9").code == 0
    assert [settings.port for settings in told] == [0, play._PORT, 9]
    assert [list(settings.models) for settings in told] == [
        ["crossrank-mini"],
        ["a", "b=/c"],
        ["crossrank-mini"],
    ]
    assert told[1].model_options["precision"] == "fp32"
    assert told[1].model_options["offline"] is True
    assert {settings.host for settings in told} == {"127.0.0.1"}


def test_a_missing_library_is_named(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("crossrank.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["crossrank"], "server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = crossrank("play")
    assert done.code == 2
    assert "the server needs uvicorn, which is not installed" in done.err
