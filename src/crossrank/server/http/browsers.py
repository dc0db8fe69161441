"""Which web pages may use the server: a browser sends requests for any page that its user has open."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from crossrank.server.http.faults import Fault

__all__ = ["Browsers"]

_CHANGES = ("POST", "PUT", "PATCH", "DELETE")
"""What costs something. The answer to anything else, a foreign page cannot read."""


class Browsers:
    """Refuses browsers where a foreign page may have sent them.

    Two ways lead from a page on the internet to a server that only this machine or network reaches. The
    page sends a request across sites: then the browser names the page in ``Origin``. Or the page's own name
    is made to point here (DNS rebinding): then ``Host`` has that name. Other programs send what they are
    told to, and need no such check. Neither does a server with keys: a foreign page does not have one.

    Args:
        hosts: names of this server, besides localhost, its addresses and names without a dot; "*": any.
        origins: other origins whose pages may ask; "*": all.
    """

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._origins = frozenset(origins)

    def check(self, method: str, headers: Headers, *, is_page: bool) -> None:
        """Raise Fault "forbidden" where a browser, or whoever loads the page, is to get nothing."""
        origin = headers.get("origin")
        if origin is None and not is_page and not headers.get("user-agent", "").startswith("Mozilla/"):
            return
        if origin is not None and ("*" in self._origins or origin in self._origins):
            return
        host = headers.get("host", "")
        name = _name(f"//{host}")
        if not self._is_own(name):
            raise Fault(
                "forbidden",
                f"this server does not know the name {host!r}; if it is its own, start it with "
                f"--allowed-host {name}",
            )
        if origin is None or method not in _CHANGES or self._is_same(origin, host, headers):
            return
        raise Fault(
            "forbidden",
            f"pages of {origin!r} may not ask this server; if they may, start it with --cors-origin {origin}",
        )

    def _is_own(self, name: str) -> bool:
        if "*" in self._hosts or name in self._hosts:
            return True
        # No stranger can register a name without a dot, or one below localhost.
        return "." not in name or name.endswith(".localhost") or _is_address(name)

    def _is_same(self, origin: str, host: str, headers: Headers) -> bool:
        """Whether a page asks the server that it came from."""
        if origin.partition("://")[2].lower() == host.lower():
            return True
        # Behind a proxy the browser may know another name, but no page can make it say this.
        return headers.get("sec-fetch-site") == "same-origin" or _name(origin) in self._hosts


def _name(url: str) -> str:
    """The host of a URL, without its port."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return "."


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
