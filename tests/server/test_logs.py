from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from crossrank.server import logs


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("crossrank", "uvicorn")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


FIELDS = {"path": "/rerank", "error": 'a "b"\nc'}


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", "info")
    logs.requests.info("request", extra={"fields": FIELDS})
    try:
        int("one")
    except ValueError:
        logging.getLogger("crossrank.server").exception("failed")
    request, failure = map(json.loads, capsys.readouterr().err.splitlines())
    assert request | FIELDS | {"level": "info", "message": "request"} == request
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", request["time"])
    assert failure["level"] == "error"
    assert "ValueError" in failure["traceback"]


def test_text_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    logs.requests.info("request", extra={"fields": FIELDS})
    line = capsys.readouterr().err
    assert line.count("\n") == 1  # what a client sends makes no line of its own
    assert line.endswith('Z info request path=/rerank error=a "b"\\nc\n')


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "warning")
    logs.requests.info("request")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("crossrank.server").warning("careful")
    logging.getLogger("uvicorn.error").warning("invalid")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["careful", "invalid"]
