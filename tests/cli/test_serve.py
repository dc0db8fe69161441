from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from crossrank.cli.serve import parse_size
from crossrank.errors import InputError
from crossrank.server import run as server
from crossrank.server.settings import Limits, Settings
from tests.cli.conftest import Run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What a server would be told."""
    settings: list[Settings] = []
    monkeypatch.setattr(server, "run", settings.append)
    return settings


_DEFAULTS: dict[str, Any] = {
    "revision": None,
    "source": "hub",
    "max_length": None,
    "long": "cut",
    "max_windows": 8,
    "instruction": None,
    "batch_tokens": None,
    "precision": "auto",
    "device": "auto",
    "threads": None,
    "offline": False,
}

OPTIONS: list[tuple[str, str, str, Any]] = [
    ("--dialect", "CROSSRANK_DIALECT", "jina", {"dialect": "jina"}),
    ("--host", "CROSSRANK_HOST", "0.0.0.0", {"host": "0.0.0.0"}),
    ("--port", "CROSSRANK_PORT", "9", {"port": 9}),
    ("--uds", "CROSSRANK_UDS", "/a.sock", {"uds": Path("/a.sock")}),
    ("--cors-origin", "CROSSRANK_CORS_ORIGIN", "*", {"cors_origins": ["*"]}),
    ("--api-key", "CROSSRANK_API_KEY", "k", {"api_keys": ["k"]}),
    ("--api-key-file", "CROSSRANK_API_KEY_FILE", "/keys", {"api_key_file": Path("/keys")}),
    ("--admin-key", "CROSSRANK_ADMIN_KEY", "k", {"admin_key": "k"}),
    ("--max-body", "CROSSRANK_MAX_BODY", "1MiB", {"limits": Limits(max_body_bytes=1 << 20)}),
    ("--allowed-host", "CROSSRANK_ALLOWED_HOST", "a.b", {"allowed_hosts": ["a.b"]}),
    ("--max-bodies", "CROSSRANK_MAX_BODIES", "64MiB", {"limits": Limits(max_bodies_bytes=64 << 20)}),
    ("--max-connections", "CROSSRANK_MAX_CONNECTIONS", "5", {"limits": Limits(max_connections=5)}),
    ("--write-timeout", "CROSSRANK_WRITE_TIMEOUT", "5", {"limits": Limits(write_timeout=5)}),
    ("--max-documents", "CROSSRANK_MAX_DOCUMENTS", "5", {"limits": Limits(max_documents=5)}),
    ("--max-document-chars", "CROSSRANK_MAX_DOCUMENT_CHARS", "5", {"limits": Limits(max_document_chars=5)}),
    ("--max-concurrent-requests", "CROSSRANK_MAX_CONCURRENT_REQUESTS", "5", {"max_concurrent_requests": 5}),
    ("--max-client-requests", "CROSSRANK_MAX_CLIENT_REQUESTS", "5", {"max_client_requests": 5}),
    ("--max-queue-tokens", "CROSSRANK_MAX_QUEUE_TOKENS", "5", {"max_queue_tokens": 5}),
    ("--timeout", "CROSSRANK_TIMEOUT", "5", {"limits": Limits(timeout=5)}),
    ("--read-timeout", "CROSSRANK_READ_TIMEOUT", "5", {"limits": Limits(read_timeout=5)}),
    ("--drain-timeout", "CROSSRANK_DRAIN_TIMEOUT", "5", {"drain_timeout": 5}),
    ("--score-cache", "CROSSRANK_SCORE_CACHE", "2kB", {"score_cache_bytes": 2000}),
    ("--model", "CROSSRANK_MODEL", "a", {"models": ["a"]}),
    ("--first", "CROSSRANK_FIRST", "b=a", {"first": "b=a"}),
    ("--alias", "CROSSRANK_ALIAS", "b=crossrank-mini", {"aliases": ["b=crossrank-mini"]}),
    ("--keep", "CROSSRANK_KEEP", "0.5", {"keep": 0.5}),
    ("--keep", "CROSSRANK_KEEP", "7", {"keep": 7}),
    *(
        (f"--{option}", f"CROSSRANK_{name.upper()}", str(value), {"model_options": _DEFAULTS | {name: value}})
        for option, name, value in (
            ("revision", "revision", "r"),
            ("from", "source", "modelscope"),
            ("max-length", "max_length", 99),
            ("long", "long", "windows"),
            ("max-windows", "max_windows", 3),
            ("instruction", "instruction", "Find laws."),
            ("batch-tokens", "batch_tokens", 99),
            ("precision", "precision", "fp32"),
            ("device", "device", "cpu"),
            ("threads", "threads", 3),
        )
    ),
]


@pytest.mark.parametrize(("option", "variable", "value", "expected"), OPTIONS)
def test_every_option_is_a_variable_too(
    option: str,
    variable: str,
    value: str,
    expected: dict[str, Any],
    crossrank: Run,
    told: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defaults: dict[str, Any] = {"models": ["crossrank-mini"]}
    defaults |= {"api_keys": [], "cors_origins": [], "allowed_hosts": []}
    wanted = Settings(**(defaults | {"model_options": _DEFAULTS} | expected))
    assert crossrank("serve", option, value).code == 0
    monkeypatch.setenv(variable, value)
    assert crossrank("serve").code == 0
    assert told == [wanted, wanted]


@pytest.mark.parametrize(
    ("value", "models"),
    [
        ("one two", ["one", "two"]),
        ("'/models/my model'", ["/models/my model"]),
        ('a="/models/my model" b=two', ["a=/models/my model", "b=two"]),
    ],
)
def test_spaces_divide_the_models_of_the_variable_unless_quoted(
    value: str, models: list[str], crossrank: Run, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_MODEL", value)
    assert crossrank("serve").code == 0
    assert told[0].models == models


def test_spaces_divide_the_aliases_of_the_variable_unless_quoted(
    crossrank: Run, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_ALIAS", "a=crossrank-mini 'b c=/models/my model'")
    assert crossrank("serve", "-m", "crossrank-mini", "-m", "/models/my model").code == 0
    assert told[0].aliases == ["a=crossrank-mini", "b c=/models/my model"]


def test_an_open_quote_in_the_variable_is_an_error(
    crossrank: Run, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_MODEL", "'/models/my model")
    done = crossrank("serve")
    assert (done.code, told) == (2, [])
    assert "No closing quotation" in done.err


def test_a_flag_is_a_variable_too(
    crossrank: Run, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_OFFLINE", "1")
    assert crossrank("serve").code == 0
    assert told[0].model_options["offline"] is True


@pytest.mark.parametrize("variable", ["CROSSRANK_API_KEY", "CROSSRANK_API_KEY_FILE"])
@pytest.mark.parametrize("value", ["", " "])
def test_a_secret_that_was_not_filled_in_opens_no_server(
    variable: str, value: str, crossrank: Run, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    done = crossrank("serve")
    assert (done.code, told) == (2, [])
    assert f"{variable} is empty" in done.err


def test_help_names_every_variable(crossrank: Run) -> None:
    text = crossrank("serve", "--help").out
    for _, variable, _, _ in OPTIONS:
        assert variable in text


def test_the_defaults(crossrank: Run, told: list[Settings]) -> None:
    assert crossrank("serve").code == 0
    lists: dict[str, Any] = {"api_keys": [], "cors_origins": [], "allowed_hosts": []}
    assert told == [Settings(models=["crossrank-mini"], model_options=_DEFAULTS, **lists)]
    assert (told[0].host, told[0].port, told[0].dialect) == ("127.0.0.1", 8080, "cohere")


def test_the_variable_that_kubernetes_sets_is_no_port(
    crossrank: Run, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_PORT", "tcp://10.96.0.12:8080")
    done = crossrank("serve")
    assert (done.code, done.out, [settings.port for settings in told]) == (0, "", [8080])
    assert done.err.count("\n") == 1
    assert "Kubernetes" in done.err
    assert "--port" in done.err
    done = crossrank("serve", "--port", "9")
    assert (done.code, done.err, told[1].port) == (0, "", 9)


def test_several_models_and_their_options(crossrank: Run, told: list[Settings]) -> None:
    options = ["--model", "a", "-m", "b=/c", "--precision", "fp32", "--max-length", "99", "--threads", "3"]
    assert crossrank("serve", *options).code == 0
    assert list(told[0].models) == ["a", "b=/c"]
    assert told[0].model_options == _DEFAULTS | {"precision": "fp32", "max_length": 99, "threads": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--log-format", "xml"], "--log-format is 'xml'"),
        (["--log-level", "loud"], "--log-level is 'loud'"),
        (["--max-body", "much"], "'much' is not a size"),
        (["--dialect", "klingon"], "'klingon' is not one of"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--port", "many"], "'many' is not a port"),
        (["--port", ""], "'' is not a port"),
        (["--allowed-host", "http://a.b"], "--allowed-host 'http://a.b' is none"),
        (["--max-bodies", "16MiB"], "--max-bodies is 16777216"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1 port 0: "),
        (["--uds", "/"], "cannot listen on /: "),
        (["--api-key-file", "/none/keys"], "the API keys in /none/keys cannot be read"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], message: str, crossrank: Run) -> None:
    done = crossrank("serve", *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err


def test_a_port_that_is_taken(crossrank: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = crossrank("serve", "--port", str(port))
    assert done.code == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.err


def test_a_missing_library_is_named(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("crossrank.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["crossrank"], "server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = crossrank("serve")
    assert done.code == 2
    assert "the server needs uvicorn, which is not installed: pip install 'crossrank[server]'" in done.err


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("16MiB", 16 << 20), ("256MB", 256_000_000), ("1g", 10**9), (" 2 KiB ", 2048)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5GB", "16 apples", "1TB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)
