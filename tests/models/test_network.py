from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from crossrank.models import hub
from crossrank.models.network import Proxy, environment_fault, proxy_of

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
OUT = "http://ranker.example:8080/"
ADDRESS = "http://10.1.2.3:8080/"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variable", "value", "url", "proxy"),
    [
        ("HTTP_PROXY", "http://p:1", OUT, "http://p:1"),
        ("http_proxy", "p:1", OUT, "http://p:1"),
        ("all_proxy", "socks5://p:1", OUT, "socks5://p:1"),
        ("ALL_PROXY", "http://p:1", "https://ranker.example/", "http://p:1"),
        ("HTTPS_PROXY", "http://p:1", OUT, None),
    ],
)
def test_the_proxy_of_a_url(
    variable: str, value: str, url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert proxy_of(url) == (Proxy(proxy, variable) if proxy else None)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST", "a.localhost", "[::1]", "0.0.0.0"],
)
@pytest.mark.parametrize("value", ["http://p:1", "socks://p:1", "socks5://p:1", "http://[", "nonsense://"])
def test_this_machine_is_never_behind_a_proxy(host: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    assert proxy_of(f"http://{host}:8080/") is None
    assert environment_fault(f"http://{host}:8080/") == ""


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", OUT, True),
        ("ranker.example", OUT, True),
        (".example", OUT, True),
        ("ranker.example:8080", OUT, True),
        ("ranker.example:9", OUT, False),
        ("other.example", OUT, False),
        ("10.0.0.0/8", ADDRESS, True),
        ("10.1.2.3", ADDRESS, True),
        ("a, 192.168.0.0/16,10.1.0.0/16", ADDRESS, True),
        ("192.168.0.0/16", ADDRESS, False),
        ("[::1],127.0.0.1", ADDRESS, False),
        ("fd00::/8", "http://[fd00::7]:8080/", True),
        ("[fd00::7]", "http://[fd00::7]:8080/", True),
        ("10.0.0.0/99, //", ADDRESS, False),
    ],
)
def test_what_no_proxy_names_is_asked_directly(
    no_proxy: str, url: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_of(url) is None) is direct


@pytest.mark.parametrize(
    "value", ["socks://p:1/", "ftp://p:1", "http://", "http://[", "http://p:x", "http://p:0"]
)
def test_a_proxy_that_cannot_be_used_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    fault = environment_fault(OUT)
    assert fault.startswith("ALL_PROXY is ")
    assert "unset it" in fault
    assert "\n" not in fault


def test_a_proxys_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks://me:secret@p:1")
    assert environment_fault(OUT).startswith("HTTP_PROXY is socks://p:1, ")


def test_a_proxy_that_needs_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://p:1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert environment_fault(OUT).startswith("all_proxy is a SOCKS proxy, which needs the package socksio")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert environment_fault(OUT) == ""


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    for path in (tmp_path / "none.pem", wrong):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert environment_fault("https://ranker.example/").startswith(
            f"SSL_CERT_FILE is {str(path)!r}, which"
        )
        assert environment_fault(OUT) == ""
    monkeypatch.setenv("HTTP_PROXY", "https://p:1")
    assert environment_fault(OUT).startswith("SSL_CERT_FILE is ")


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("ALL_PROXY", "socks://p:1", ValueError("Unknown scheme for proxy URL")),
        ("SSL_CERT_FILE", "/nonexistent.pem", FileNotFoundError(2, "No such file or directory")),
        ("NO_PROXY", "[::1],127.0.0.1", httpx.InvalidURL("Invalid port: ':1]'")),
    ],
)
def test_a_pull_that_fails_names_the_variable(
    variable: str, value: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv(variable, value)
    reason, cached_copy_serves = hub._explain(error, "a/b", None)
    assert reason.startswith(variable)
    assert cached_copy_serves
