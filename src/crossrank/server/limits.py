"""What a request may cost, and how it is kept to that."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive, Scope

from crossrank.errors import InputError
from crossrank.server.faults import Fault

__all__ = ["ClientGone", "Gate", "Limits", "parse_size", "read_body", "request_timeout"]

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of "16MiB", "256MB", "1g" or "4096".

    Raises:
        InputError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    if found is None:
        raise InputError(f"{text!r} is not a size; write it as 4096, 256MB or 16MiB")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may have.

    Attributes:
        max_body_bytes: of the body as sent.
        max_documents: in a request.
        max_document_chars: of a document or a query. Longer than the model's window is cut;
            longer than this is refused.
        read_timeout: seconds until the whole body must be here.
        timeout: seconds until the answer, unless the request asks for less.
    """

    max_body_bytes: int = 16 << 20
    max_documents: int = 2048
    max_document_chars: int = 1_000_000
    read_timeout: float = 30.0
    timeout: float = 60.0

    def check_texts(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        """Raise Fault "limit" where there are too many documents, or a text is too long."""
        if len(documents) > self.max_documents:
            raise Fault(
                "limit",
                f"batch size {len(documents)} > maximum allowed batch size {self.max_documents} "
                "(--max-documents); send fewer documents at once",
            )
        for what, texts in (("query", queries), ("document", documents)):
            for index, text in enumerate(texts):
                if len(text) > self.max_document_chars:
                    name = what if what == "query" and len(texts) == 1 else f"{what} {index}"
                    raise Fault(
                        "limit",
                        f"{name} has {len(text)} characters, and this server reads at most "
                        f"{self.max_document_chars} (--max-document-chars); send a shorter text",
                    )


class Gate:
    """Counts the requests at work; what is beyond ``limit`` is refused."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.inside >= self.limit:
            raise Fault(
                "overloaded",
                f"{self.inside} requests are at work here, the most that this server takes "
                "(--max-concurrent-requests); try again later",
                retry_after=1.0,
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class ClientGone(Exception):  # noqa: N818 - no error of anybody's
    """The client closed the connection: nobody waits for an answer."""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The whole body, as far as it may go.

    Raises:
        Fault: "invalid", where it is compressed; "too_large", as soon as that is known; "slow", if it is
            not here in time.
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
        return await asyncio.wait_for(_read(receive, limits), limits.read_timeout)
    except asyncio.TimeoutError:
        raise Fault(
            "slow",
            f"the body was not here after {limits.read_timeout:g} s (--read-timeout); send it faster",
        ) from None


async def _read(receive: Receive, limits: Limits) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limits: Limits) -> Fault:
    return Fault(
        "too_large",
        f"the body is larger than {limits.max_body_bytes} bytes, the most that this server reads "
        "(--max-body); send fewer or shorter documents at once",
    )


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
