from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from crossrank.server.http import logs


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
    assert line.endswith('Z info request path=/rerank error="a \\"b\\"\\nc"\n')


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain-1", "plain-1"),
        ("", '""'),
        ("x status=500", '"x status=500"'),
        ("status=500", '"status=500"'),
        ('"', '"\\""'),
        ("a\u2028b\u202e\x85\x7f", r'"a\u2028b\u202e\u0085\u007f"'),
        ("重排", "重排"),
        (12.5, "12.5"),
    ],
)
def test_a_value_makes_no_fields_and_no_lines_of_its_own(
    value: object, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("text", "info")
    logs.requests.info("request", extra={"fields": {"client": value, "ms": 1}})
    line = capsys.readouterr().err
    assert line.endswith(f"Z info request client={written} ms=1\n")
    logs.set_up("json", "info")
    logs.requests.info("request", extra={"fields": {"client": value}})
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert json.loads(line)["client"] == value


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_is_short_whatever_a_client_sends(
    form: logs.LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up(form, "info")
    fields = {"model": "\U000e0001" * 1_000_000, "error": "x" * 1_000_000}
    logs.requests.info("y" * 1_000_000, extra={"fields": fields})
    line = capsys.readouterr().err
    assert len(line) < 10_000
    assert "yyy ... yyy" in line


def test_an_errors_text_makes_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    try:
        raise ValueError("bad\n2026-01-01T00:00:00.000Z info request status=200")  # noqa: TRY301
    except ValueError:
        logging.getLogger("crossrank.server").exception("failed")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("Z error failed")
    assert all(line.startswith("    ") for line in rest)


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "warning")
    logs.requests.info("request")
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("crossrank.server").warning("careful")
    logging.getLogger("uvicorn.error").warning("invalid")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["careful", "invalid"]
