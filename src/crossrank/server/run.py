"""A server as a process: its socket, its signals, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from crossrank._system import allow_files
from crossrank.errors import CrossRankError, InputError
from crossrank.server import memory
from crossrank.server.core.registry import Registry
from crossrank.server.http.app import create_app
from crossrank.server.http.protocol import Connections, guarded_protocol
from crossrank.server.http.tracing import tracer_of_environment
from crossrank.server.settings import Settings

if sys.platform == "win32":
    from asyncio import run as run_loop  # there is no uvloop
else:
    from uvloop import run as run_loop

__all__ = ["EXIT_STUCK", "listen", "run"]

_logger = logging.getLogger(__name__)

_BACKLOG = 2048
"""Connections that may wait to be accepted: uvicorn's number. The system lowers it to its own limit."""

_KEEP_ALIVE = 75
"""Seconds that a connection may be idle: longer than clients keep theirs, so that it is they who close it."""

_SWITCH_SECONDS = 0.0005
"""After so long a thread that runs Python lets another: the engine's waits for it after every pack. It is a
twentieth of a pack of 10 ms; Python's own number, 5 ms, is half of one."""

_GRACE, _LAST_GRACE = 2.0, 5.0
"""Seconds beyond the drain timeout: for answers that are being written, which a slow network needs, and until
threads that still work are left alone."""

_CLOSE_SECONDS = 1.0
"""For threads to end once there is nothing more to do: a hundred packs of 10 ms. Others are left alone."""

EXIT_STUCK = 70
"""The exit code where an engine, or the threads that read texts, never answered: a supervisor starts the
server anew. It is EX_SOFTWARE of sysexits.h."""

_OTHER_FILES = 200
"""Files and sockets that a server has open beside its connections; a generous guess."""


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket.

    Raises:
        InputError: the address is taken or not this machine's, or another server has the socket.
    """
    try:
        opened = _unix(settings.uds) if settings.uds else _tcp(settings.host, settings.port)
    except (OSError, UnicodeError) as error:
        where = settings.uds or f"{settings.host} port {settings.port}"
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on {where}: {reason}; choose another place") from None
    opened.setblocking(False)
    return opened


def _tcp(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


def _unix(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
        path.unlink()  # of a server that was killed
    opened = _unix_socket(path)
    try:
        opened.bind(str(path))
        opened.listen(_BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened


def _answers(path: Path) -> bool:
    with _unix_socket(path) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _unix_socket(path: Path) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise InputError(f"--uds {path}: Python has no Unix sockets on this system; use --host and --port")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def run(settings: Settings, *, listening: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT: then no new requests, and the running ones finish.

    SIGHUP loads the models anew. The socket opens at once; /health says "loading" until every
    model is ready.

    Args:
        settings: what to serve, and where.
        listening: is told the address as soon as the socket is open.

    Raises:
        InputError: a setting does not work here.
        CrossRankError: a model cannot be loaded.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    memory.keep_large_blocks_apart()
    tracer = tracer_of_environment()
    registry = settings.registry()
    app = create_app(settings, registry, tracer)
    opened = listen(settings)
    if listening is not None:
        listening(str(settings.uds or _address(opened)))
    limits = settings.limits
    allow_files(limits.max_connections + _OTHER_FILES)
    config = uvicorn.Config(
        app,
        http=guarded_protocol(Connections(limits.max_connections, limits.read_timeout, limits.write_timeout)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout + _GRACE),
    )

    def leave() -> None:
        tracer.close()
        opened.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)

    try:
        run_loop(_Server(config, settings, registry, app, leave).run_on(opened))
    finally:
        leave()


class _Server(uvicorn.Server):
    """Uvicorn's, with its models, and with what signals and failures do to both.

    Args:
        config: uvicorn's.
        settings, registry, app: what is served.
        leave: removes what must not stay behind.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        registry: Registry,
        app: FastAPI,
        leave: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.leave = leave
        self.settings = settings
        self.registry = registry
        self.app = app
        self.failure: Exception | None = None
        self.exit_code = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own handlers would not drain the queue."""
        loop = asyncio.get_running_loop()
        for name, act in (
            ("SIGTERM", self.stop),
            ("SIGINT", self.stop),
            ("SIGBREAK", self.stop),
            ("SIGHUP", lambda: self.begin(self.reload())),
        ):
            number = getattr(signal, name, None)
            if number is None:
                continue  # SIGBREAK is Windows's, and SIGHUP all others'
            try:
                loop.add_signal_handler(number, act)
            except NotImplementedError:  # Windows's loop; a signal wakes it
                signal.signal(number, lambda *_, act=act: loop.call_soon_threadsafe(act))
        yield

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task, and keep it from being collected."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """The first time: finish; the second time: leave at once."""
        if self._draining is not None:
            self.force_exit = True
            self._end_after(_GRACE)
            return
        self._end_after(self.settings.drain_timeout + _LAST_GRACE)
        _logger.info("stopping; running requests have %g s to finish", self.settings.drain_timeout)
        self._draining = asyncio.ensure_future(self._drain())

    def give_up(self, why: str) -> None:
        """Something will never answer, and no thread can be stopped: only a new process helps."""
        if self._draining is not None:
            return
        _logger.critical("%s: ending with exit code %d, to be started anew", why, EXIT_STUCK)
        self.exit_code = EXIT_STUCK
        self.should_exit = True
        self._end_after(_GRACE)

    def _end_after(self, seconds: float) -> None:
        """End the process then, if it is still there: no thread that still works can be stopped."""

        def end() -> None:
            _logger.warning("threads are still at work after %g s; leaving them", seconds)
            self.exit()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()

    def exit(self) -> None:
        """End the process at once, with what must not stay behind removed."""
        self.leave()
        logging.shutdown()
        os._exit(self.exit_code)

    async def _drain(self) -> None:
        self.should_exit = True
        if not await self.registry.drain(self.settings.drain_timeout):
            _logger.warning("requests were still running after %g s", self.settings.drain_timeout)
            await self.registry.close(_CLOSE_SECONDS)

    async def start(self) -> None:
        """Load the models; where one cannot be loaded, that is the end."""
        try:
            await self.registry.start()
        except Exception as error:  # noqa: BLE001 - it ends the process, which raises it
            self.failure = error
            self.app.state.failure = str(error)
            self.should_exit = True
            return
        for model in self.registry.models():
            if model.alias_of is not None:
                _logger.info("%s is another name of %s", model.name, model.alias_of)
                continue
            _logger.info(
                "%s is ready: %s engine on %s, %s, %d tokens",
                *(model.name, model.engine, model.device, model.precision, model.max_length),
            )
        if self.registry.first is not None:
            what = "%s reads all documents of a ranking, and the other model %s of them (--keep)"
            _logger.info(what, self.registry.first, self.registry.keep)

    async def reload(self) -> None:
        """Load the models anew; where one cannot be loaded, the old one stays."""
        _logger.info("loading the models anew")
        try:
            await self.registry.reload()
        except CrossRankError as error:
            _logger.error("a model could not be loaded anew: %s", error)  # noqa: TRY400 - one line
        except Exception:
            _logger.exception("a model could not be loaded anew")
        else:
            _logger.info("the models are loaded anew")

    async def run_on(self, opened: socket.socket) -> None:
        """Serve a socket until the end.

        Raises:
            Exception: a model cannot be loaded.
        """
        _logger.info("listening on %s", self.settings.uds or _address(opened))
        self.registry.on_loaded = memory.set_aside
        self.registry.on_stuck = self.give_up
        self.begin(self.start())
        releasing = asyncio.ensure_future(memory.release_regularly())
        ended = False
        try:
            await self.serve(sockets=[opened])
        finally:
            releasing.cancel()
            ended = await self.registry.close(_CLOSE_SECONDS)
        if self.failure is not None:
            raise self.failure
        if self._tasks or self.exit_code or not ended:
            # A thread that loads or hangs cannot be stopped, and Python would wait for it.
            self.exit()


def _address(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
