"""Uvicorn's HTTP/1.1, with a limit to how long a client may take to send a request."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["timed_protocol"]

_GRACE = 5.0
"""Seconds more than the body has: the application, which can say what is wrong, comes first."""


def timed_protocol(seconds: float) -> type[HttpToolsProtocol]:
    """A protocol that closes a connection whose request is not wholly here after so many seconds.

    Uvicorn itself only limits the time between requests: a connection that never sends anything, half
    a head, or a body that nobody reads any more would stay for ever.
    """

    class TimedProtocol(HttpToolsProtocol):
        _alarm: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast(asyncio.Transport, transport))
            self._set_alarm(seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            self._clear_alarm()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._set_alarm(seconds)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._set_alarm(seconds + _GRACE)
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._clear_alarm()
            super().on_message_complete()

        def _set_alarm(self, after: float) -> None:
            self._clear_alarm()
            self._alarm = self.loop.call_later(after, self._too_slow)

        def _clear_alarm(self) -> None:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return TimedProtocol
