"""The way to a server: its address, the proxy in between, and connections that keep to a deadline."""

from __future__ import annotations

import math
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from crossrank.errors import InputError
from crossrank.models.network import Proxy, environment_fault, proxy_of

__all__ = ["Deadline", "Network", "Route"]

_WRITE = 64 << 10
"""Bytes per write."""


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a server.

    Attributes:
        url: the address of the server, with a slash at its end.
        socket: the path of its Unix socket; "" if it has none.
        proxy: the proxy to use, or None.
    """

    url: str
    socket: str = ""
    proxy: Proxy | None = None

    @classmethod
    def of(cls, base_url: str, *, direct: bool = False) -> Route:
        """The way to an address that a caller gave.

        Args:
            base_url: "http://HOST:PORT", with or without /v1 at its end, or "unix:/PATH/TO/SOCKET".
            direct: the caller connects, so the environment's proxy and certificates do not matter.

        Raises:
            InputError: it is no address, or an environment variable for a proxy or for certificates
                cannot be used.
        """
        if isinstance(base_url, str) and base_url.startswith("unix:"):
            path = base_url.removeprefix("unix:").removeprefix("//")
            if not path or "\0" in path:
                raise InputError(f"{base_url!r} is not an address; write it as unix:/PATH/TO/SOCKET")
            return cls("http://localhost/", path)
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise InputError(f"{base_url!r} is not an address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise InputError(f"{base_url!r} is not an address; write it as http://HOST:PORT")
        # The addresses of other services end in /v1.
        address = str(url).rstrip("/").removesuffix("/v1") + "/"
        if direct:
            return cls(address)
        if fault := environment_fault(address):
            raise InputError(fault)
        return cls(address, proxy=proxy_of(address))

    def __str__(self) -> str:
        """The address as messages show it."""
        return f"unix:{self.socket}" if self.socket else self.url

    def options(self) -> dict[str, Any]:
        """The options of httpx's transports."""
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates takes a while
        if self.socket:
            return {"uds": self.socket, "verify": plain}
        secure = "https:" in (self.url[:6].lower(), self.proxy.url[:6].lower() if self.proxy else "")
        return {
            "verify": httpx.create_ssl_context() if secure else plain,
            "proxy": self.proxy.url if self.proxy else None,
        }


class Deadline(threading.local):
    """When the call of the current thread must end; httpx only limits each read and write by itself."""

    end = math.inf

    def limit(self, timeout: float | None) -> float | None:
        """Seconds that the next read or write may take: ``timeout``, or less."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the call's time is over")
        return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end by a deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.limit(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE):
            self._stream.write(buffer[start : start + _WRITE], self._deadline.limit(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.limit(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class Network(httpcore.NetworkBackend):
    """Opens connections whose reads and writes end by a deadline."""

    def __init__(self, backend: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._backend = backend
        self._deadline = deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        left = self._deadline.limit(timeout)
        return _Stream(self._backend.connect_tcp(host, port, left, *args, **kwargs), self._deadline)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        left = self._deadline.limit(timeout)
        return _Stream(self._backend.connect_unix_socket(path, left, *args, **kwargs), self._deadline)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
