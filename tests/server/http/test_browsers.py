from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from crossrank.server.http.browsers import Browsers
from crossrank.server.http.faults import Fault

MOZILLA = "Mozilla/5.0 (X11; Linux x86_64)"


def allowed(browsers: Browsers, method: str = "POST", *, is_page: bool = False, **headers: str) -> bool:
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        browsers.check(method, Headers(sent), is_page=is_page)
    except Fault as fault:
        return fault.kind != "forbidden"
    return True


OWN = ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7", "crossrank", "a.localhost", ""]
FOREIGN = ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "1.2.3", "localhost.evil.example"]


@pytest.mark.parametrize("host", OWN)
def test_a_browser_that_knows_the_server_by_a_name_that_nobody_can_forge(host: str) -> None:
    assert allowed(Browsers(), "GET", is_page=True, host=host)
    assert allowed(Browsers(), "GET", host=host, user_agent=MOZILLA)
    assert allowed(Browsers(), host=host, origin=f"http://{host}")


@pytest.mark.parametrize("host", [*FOREIGN, "[::1", "a b.c"])
def test_a_name_that_anybody_may_point_here(host: str) -> None:
    assert not allowed(Browsers(), "GET", is_page=True, host=host)
    assert not allowed(Browsers(), "GET", host=host, user_agent=MOZILLA)
    assert not allowed(Browsers(), host=host, origin=f"http://{host}")
    # Programs that are no browsers go where they are told to.
    assert allowed(Browsers(), host=host)


@pytest.mark.parametrize(
    "hosts", [["evil.example"], ["EVIL.example."], ["other.example", "evil.example"], ["*"]]
)
def test_a_name_that_is_the_servers_own(hosts: list[str]) -> None:
    for host in ("evil.example", "Evil.Example:8080", "evil.example."):
        assert allowed(Browsers(hosts), "GET", is_page=True, host=host)
        assert allowed(Browsers(hosts), host=host, origin=f"https://{host}")


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "https://localhost.evil.example", "null", "", "http://[", "file://"),
        *("http://localhost:8081", "http://127.0.0.1", "chrome-extension://abc"),
    ],
)
def test_a_page_of_another_origin(origin: str) -> None:
    assert not allowed(Browsers(), host="localhost:8080", origin=origin)
    assert not allowed(Browsers(), host="localhost:8080", origin=origin, sec_fetch_site="cross-site")
    # It cannot read what it gets so.
    assert allowed(Browsers(), "GET", host="localhost:8080", origin=origin)


def test_pages_that_may_ask() -> None:
    for origins in (["https://app.example"], ["*"]):
        browsers = Browsers(origins=origins)
        assert allowed(browsers, host="localhost:8080", origin="https://app.example")
        assert allowed(browsers, host="rerank.example", origin="https://app.example")
    assert not allowed(Browsers(origins=["https://app.example"]), host="a", origin="http://app.example")
    assert allowed(Browsers(origins=["null"]), host="a", origin="null")


def test_the_page_behind_a_proxy() -> None:
    host, origin = "127.0.0.1:8080", "https://rerank.example"
    assert allowed(Browsers(), host=host, origin=origin, sec_fetch_site="same-origin")
    assert allowed(Browsers(["rerank.example"]), host=host, origin=origin)
    assert not allowed(Browsers(), host=host, origin=origin)


def test_the_message_says_what_to_do() -> None:
    with pytest.raises(Fault, match=r"--allowed-host evil\.example$"):
        Browsers().check("GET", Headers({"host": "evil.example:80"}), is_page=True)
    with pytest.raises(Fault, match=r"--cors-origin https://a\.b$"):
        Browsers().check("POST", Headers({"host": "localhost", "origin": "https://a.b"}), is_page=False)
