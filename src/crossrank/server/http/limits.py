"""What a request may cost, and how it is kept to that."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.types import Receive, Scope

from crossrank.server.http.faults import Fault
from crossrank.server.settings import Limits

__all__ = [
    "MAX_CONTAINERS",
    "Bodies",
    "ClientGone",
    "Gate",
    "check_containers",
    "check_texts",
    "network_of",
    "read_body",
    "request_timeout",
    "without_lone_surrogates",
]

MAX_CONTAINERS = 100_000
"""Lists and objects in a body, nested ones included: 8 MB of memory, and 48 for each of 2,048 documents."""

_MOST_QUOTES = 1_000_000
"""With so many, strings are not looked for: it would hold the GIL, and with it everybody else, for
seconds. 2,048 documents with 48 fields each have a fifth."""

_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))


def network_of(client: Sequence[Any] | None) -> str:
    """Where a client is that sent no key: its address, and in IPv6 the first half, which one site has.

    Args:
        client: its host and port; a Unix socket has none.
    """
    host = str(client[0]) if client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.IPv6Network((int(address), 64), strict=False))


def check_texts(limits: Limits, queries: Sequence[str], documents: Sequence[str]) -> None:
    """Raise Fault "limit" where there are too many documents, or a text is too long."""
    if len(documents) > limits.max_documents:
        raise Fault(
            "limit",
            f"batch size {len(documents)} > maximum allowed batch size {limits.max_documents} "
            "(--max-documents); send fewer documents at once",
        )
    for what, texts in (("query", queries), ("document", documents)):
        for index, text in enumerate(texts):
            if len(text) > limits.max_document_chars:
                name = what if what == "query" and len(texts) == 1 else f"{what} {index}"
                raise Fault(
                    "limit",
                    f"{name} has {len(text)} characters, and this server reads at most "
                    f"{limits.max_document_chars} (--max-document-chars); send a shorter text",
                )


class Gate:
    """Counts the requests at work, and refuses more than so many.

    Args:
        limit: of all clients together.
        client_limit: of one client; None: half of ``limit``.
    """

    def __init__(self, limit: int, client_limit: int | None = None) -> None:
        self.limit = limit
        self.client_limit = (limit + 1) // 2 if client_limit is None else client_limit
        self.inside = 0
        self._of_client: Counter[str] = Counter()

    def check(self, client: str = "") -> None:
        """Raise Fault "overloaded" where one more request of this client would be refused."""
        if self.inside >= self.limit:
            raise Fault(
                "overloaded",
                f"{self.inside} requests are at work here, the most that this server takes "
                "(--max-concurrent-requests); try again later",
                retry_after=1.0,
            )
        if self._of_client[client] >= self.client_limit:
            raise Fault(
                "overloaded",
                f"{self._of_client[client]} requests of this client are at work here, the most that one "
                "client may have (--max-client-requests); try again later",
                retry_after=1.0,
            )

    @contextmanager
    def __call__(self, client: str = "") -> Iterator[None]:
        """One more request of a client is at work within the block.

        Raises:
            Fault: "overloaded", as ``check``.
        """
        self.check(client)
        self.inside += 1
        self._of_client[client] += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]


class Bodies:
    """Counts the bytes of all bodies that are held, from their first byte to their answer.

    One client may hold as much as it leaves free: never more than half.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._of_client: Counter[str] = Counter()

    @contextmanager
    def __call__(self, client: str = "") -> Iterator[Callable[[int], None]]:
        """A function that is told of each part of a body; the bytes are free again after the block."""
        size = 0

        def take(count: int) -> None:
            nonlocal size
            if self._of_client[client] + count > self.limit - self.held - count:
                raise Fault(
                    "overloaded",
                    f"the bodies at work here have {self.held} bytes, and this server takes at most "
                    f"{self.limit} (--max-bodies), half of it from one client; try again later",
                    retry_after=1.0,
                )
            size += count
            self.held += count
            self._of_client[client] += count

        try:
            yield take
        finally:
            self.held -= size
            self._of_client[client] -= size
            if not self._of_client[client]:
                del self._of_client[client]


class ClientGone(Exception):  # noqa: N818 - no error of anybody's
    """The client closed the connection: nobody waits for an answer."""


async def read_body(
    scope: Scope, receive: Receive, limits: Limits, take: Callable[[int], None] = lambda _: None
) -> bytearray:
    """The whole body, as far as it may go; ``take`` is told the size of each part.

    Raises:
        Fault: "invalid", where it is compressed; "too_large", as soon as that is known; "slow", if it is
            not here in time; what ``take`` raises.
        ClientGone: the connection was closed before its end.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise Fault(
                "invalid",
                f"the body has the Content-Encoding {value.decode('latin-1')}, and this server reads none; "
                "send it as it is, without that header",
            )
        if name == b"content-length" and value.isdigit() and int(value) > limits.max_body_bytes:
            raise _too_large(limits)
    try:
        return await asyncio.wait_for(_read(receive, limits, take), limits.read_timeout)
    except asyncio.TimeoutError:
        raise Fault(
            "slow",
            f"the body was not here after {limits.read_timeout:g} s (--read-timeout); send it faster",
        ) from None


async def _read(receive: Receive, limits: Limits, take: Callable[[int], None]) -> bytearray:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        if len(body) + len(part) > limits.max_body_bytes:
            raise _too_large(limits)
        take(len(part))
        body += part
        more = message.get("more_body", False)
    return body


def _too_large(limits: Limits) -> Fault:
    return Fault(
        "too_large",
        f"the body is larger than {limits.max_body_bytes} bytes, the most that this server reads "
        "(--max-body); send fewer or shorter documents at once",
    )


def check_containers(body: bytes | bytearray) -> None:
    """Raise Fault "limit" where a JSON body holds more than ``MAX_CONTAINERS`` lists and objects.

    Each takes two bytes or one in the body, and up to 80 in memory. Nothing else grows as much.
    """
    if _containers(body) <= MAX_CONTAINERS:
        return
    # Brackets within strings do not count; without escapes, a string ends at the next quote.
    plain = bytes(body).replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') < _MOST_QUOTES:
        plain = re.sub(rb'"[^"]*"', b"", plain)
    if _containers(plain) > MAX_CONTAINERS:
        raise Fault(
            "limit",
            f"the body holds more than {MAX_CONTAINERS} lists and objects; send fewer at once",
        )


def without_lone_surrogates(body: bytes | bytearray) -> bytes:
    """A JSON body with U+FFFD for each escape that is half of a surrogate pair."""
    body = bytes(body)
    if b"\0" in body:
        return body  # no JSON has it
    # An escaped backslash is not the beginning of an escape.
    hidden = body.replace(rb"\\", b"\0\0")
    return _LONE_SURROGATE.sub(rb"\\ufffd", hidden).replace(b"\0\0", rb"\\")


def _containers(data: bytes | bytearray) -> int:
    return data.count(b"[") + data.count(b"{")


def request_timeout(header: str | None, limits: Limits) -> float:
    """Seconds for a request: what its header X-Request-Timeout asks, never more than ``limits.timeout``.

    Raises:
        Fault: the header is not a number above 0.
    """
    if header is None:
        return limits.timeout
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise Fault("invalid", f"X-Request-Timeout is {header!r}; it must be a number of seconds above 0")
    return min(seconds, limits.timeout)
