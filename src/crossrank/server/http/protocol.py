"""Uvicorn's HTTP/1.1, with limits on what a client may send, hold open and leave unread.

Uvicorn itself limits only the time between requests. Its protocol class is not a public API. This module
overrides the callbacks of asyncio and httptools, which are public, and beyond them uses only the names that
``tests/server/http/test_protocol.py`` checks. pyproject.toml bounds uvicorn's version.
"""

from __future__ import annotations

import asyncio
import http
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, cast

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from crossrank.server.http.dialects import Errors
from crossrank.server.http.faults import Fault
from crossrank.server.http.limits import network_of

__all__ = ["MAX_HEAD", "MAX_HEADERS", "MAX_REFUSED", "MAX_TARGET", "Connections", "guarded_protocol"]

MAX_TARGET = 8 << 10
"""Bytes of a request's path and query: 414. As in nginx and Apache."""

MAX_HEAD = 32 << 10
"""Bytes of a request's headers, or of what stands between and after the chunks of its body: 431. As in nginx,
which many requests have passed before they come here."""

MAX_HEADERS = 128
"""Headers of a request, trailers included: 431. Browsers behind two proxies send about thirty."""

_GRACE = 5.0
"""Extra seconds for a body, so that the app can answer 408 before the connection is closed."""

_LINGER = 2.0
"""Seconds in which a refused client can read the answer before its connection is cut: some round trips."""

MAX_REFUSED = 100
"""Refused connections that are open at a time: the oldest is cut for one more. They take files, too."""

_LEAST_TAKEN = 1 << 20
"""Bytes of an answer that a client must read within ``write_timeout``, if so many are left: with
the default of 30 s, 280 kbit/s, which a poor mobile network has."""

_ERRORS = Errors()


class _TooLarge(Exception):  # noqa: N818 - it only stops the parser
    """A part of the head is too large."""


@dataclass(eq=False)
class Connections:
    """The connections of a server, and their limits.

    Attributes:
        limit: the most connections at a time.
        read_timeout: seconds in which a whole request must arrive.
        write_timeout: seconds in which a client must read the next ``_LEAST_TAKEN`` bytes of its answer.
        open: those that count, and the network of each one's client.
        idle: those without a request, whose answers are read, the longest idle first.
        unfinished: those whose client has yet to send the rest of a request, or to read an answer, the
            longest first.
        refused: those that stay open for a moment, so that the client can read why.
    """

    limit: int
    read_timeout: float
    write_timeout: float
    open: dict[_Guarded, str] = field(default_factory=dict)
    idle: dict[_Guarded, None] = field(default_factory=dict)
    unfinished: dict[_Guarded, None] = field(default_factory=dict)
    refused: dict[_Guarded, None] = field(default_factory=dict)

    def make_room(self, network: str) -> bool:
        """Whether one more connection from a network may stay; another may be closed for it.

        That is one which waits for its client, of the network that has the most connections: the longest
        idle one, or else the longest unfinished one. A network with fewer loses only idle ones. So
        clients who wait take the place of each other, not of those who work; and where all come from one
        address, as from a proxy, nobody has less than the whole.
        """
        if len(self.open) < self.limit:
            return True
        held = Counter(self.open.values())
        waiting = chain(self.idle, self.unfinished)
        other = max(waiting, key=lambda each: held[self.open[each]], default=None)
        if other is None or (other in self.unfinished and held[self.open[other]] < held[network]):
            return False
        other.give_way()
        return True

    def leave(self, protocol: _Guarded) -> None:
        """Count a connection no longer."""
        for each in (self.open, self.idle, self.unfinished, self.refused):
            each.pop(protocol, None)


def guarded_protocol(connections: Connections) -> type[HttpToolsProtocol]:
    """The protocol of a server with these limits, for ``uvicorn.Config``."""
    return type("GuardedProtocol", (_Guarded,), {"shared": connections})


class _Guarded(HttpToolsProtocol):
    shared: ClassVar[Connections]
    _read_alarm: asyncio.TimerHandle | None = None
    _write_alarm: asyncio.TimerHandle | None = None
    _refused = False
    _unread = False
    _in_body = False
    _unparsed = 0  # bytes since the parser last completed something
    _target = 0
    _head = 0
    _headers = 0

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        network = network_of(self.client)
        if not self.shared.make_room(network):
            self._refuse_connection()
            return
        self.shared.open[self] = network
        self.shared.idle[self] = None
        self._set_read_alarm(self.shared.read_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.leave(self)
        self._clear_read_alarm()
        if self._write_alarm is not None:
            self._write_alarm.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD:
            self._refuse_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = True
        self._note_state()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = False
        self._note_state()

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        self._in_body = False
        self._unparsed = self._target = self._head = self._headers = 0
        self._set_read_alarm(self.shared.read_timeout)
        super().on_message_begin()
        self._note_state()

    def on_url(self, url: bytes) -> None:
        self._target += len(url)
        self._check_head()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._head += len(name) + len(value)
        self._check_head()
        # Trailers are no headers: the app has read those, and must not find others later.
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed = 0
        self._set_read_alarm(self.shared.read_timeout + _GRACE)
        super().on_headers_complete()
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._clear_read_alarm()
        super().on_message_complete()
        self._note_state()

    # Callbacks of uvicorn.

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's says less
        if self._head_is_too_large():
            self._refuse_head()
        else:
            self._refuse(Fault("invalid", "the request is not valid HTTP/1.1"))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_state()
        if self._write_alarm is not None:  # it read enough of the last answer to get this one
            self._write_alarm.cancel()
            self._write_alarm = None
        self._watch_reader()

    # Its own.

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _receiving(self) -> bool:
        """Whether a request is on its way, and none before it is still at work."""
        behind = self._answering and (self.pipeline or not self._in_body)
        return self._read_alarm is not None and not behind

    def _note_state(self) -> None:
        if self not in self.shared.open:
            return
        unfinished = self._receiving or self._unread
        idle = not (unfinished or self._answering or self._read_alarm)
        for each, here in ((self.shared.unfinished, unfinished), (self.shared.idle, idle)):
            if here:
                each.setdefault(self)  # one that is there keeps its place
            else:
                each.pop(self, None)

    def give_way(self) -> None:
        """Make room for another connection."""
        idle = self in self.shared.idle
        self.shared.leave(self)
        if self._unread or self.transport.is_closing():
            self.transport.abort()
        elif idle:
            self.transport.close()
        else:
            self._refuse_connection()

    def _head_is_too_large(self) -> bool:
        return self._target > MAX_TARGET or self._head > MAX_HEAD or self._headers > MAX_HEADERS

    def _check_head(self) -> None:
        if self._head_is_too_large():
            raise _TooLarge  # uvicorn calls send_400_response

    def _refuse_head(self) -> None:
        if self._target > MAX_TARGET:
            message = f"path and query are larger than {MAX_TARGET} bytes; send less in them"
            self._refuse(Fault("long_target", message))
            return
        what = "what is sent beside the body" if self._in_body else "the head"
        message = f"{what} has more than {MAX_HEAD} bytes or {MAX_HEADERS} headers; send fewer headers"
        self._refuse(Fault("large_head", message))

    def _refuse_connection(self) -> None:
        message = (
            f"{self.shared.limit} connections are open, the most that this server takes "
            "(--max-connections); try again later"
        )
        self._refuse(Fault("unavailable", message))

    def _refuse(self, fault: Fault) -> None:
        """Say why, unless another answer has begun, and close the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.shared.leave(self)
        self._clear_read_alarm()
        self._log(f"refused a connection with {_ERRORS.status(fault)}: {fault}")
        if self._answering:
            begun = not self._in_body or self.pipeline or self.cycle.response_started
            # As for a client that has gone: the app's answer goes nowhere.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if begun:
                self.transport.abort()
                return
        self.transport.write(_response(fault))
        # To close while the client sends would reset the connection, and the answer would be lost.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.abort)
        self.shared.refused[self] = None
        if len(self.shared.refused) > MAX_REFUSED:
            next(iter(self.shared.refused)).transport.abort()

    def _log(self, message: str) -> None:
        fields = {"address": self.client[0]} if self.client else {}
        self.logger.warning(message, extra={"fields": fields})

    def _set_read_alarm(self, seconds: float) -> None:
        self._clear_read_alarm()
        self._read_alarm = self.loop.call_later(seconds, self._read_too_slowly)

    def _clear_read_alarm(self) -> None:
        if self._read_alarm is not None:
            self._read_alarm.cancel()
            self._read_alarm = None

    def _read_too_slowly(self) -> None:
        if not self._receiving:  # the request before this one is still at work: the client is not to blame
            self._set_read_alarm(self.shared.read_timeout)
            return
        self._read_alarm = None
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread and self._write_alarm is None:
            self._write_alarm = self.loop.call_later(self.shared.write_timeout, self._check_reader, unread)

    def _check_reader(self, before: int) -> None:
        self._write_alarm = None
        if self.transport.get_write_buffer_size() > max(0, before - _LEAST_TAKEN):
            self._log("dropped a client that does not read its answer (--write-timeout)")
            self.transport.abort()
        else:
            self._watch_reader()


def _response(fault: Fault) -> bytes:
    status, body = _ERRORS.status(fault), to_json(_ERRORS.error(fault, ""))
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
