"""The threads that work on texts, and the order in which clients get them.

Whatever takes time in proportion to somebody's texts runs here: reading large bodies, tokenising, finding
sentences and keywords. Neither the event loop nor an engine thread does such work. Clients take turns, so
one client's texts delay the others by the pieces at hand and no more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from crossrank.errors import DeadlineError, EngineError, UnavailableError

__all__ = ["TextThreads", "Turns"]

_logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
P = ParamSpec("P")


@dataclass(slots=True)
class _Client(Generic[Item]):
    """One client's items.

    Attributes:
        used: seconds that threads spent on its items, on a scale common to all clients.
        running: how many of its items threads work on.
        waiting: the next first.
    """

    used: float
    running: int = 0
    waiting: deque[Item] = field(default_factory=deque)


class Turns(Generic[Item]):
    """Whose item is next. Not safe between threads: its owner holds a lock, and tells it the seconds.

    The next item is of the client that has the fewest running, and among those of the one that has used
    the least time. A client that comes starts level with the one that has used the least: what it did
    not use while it was away is lost.

    Args:
        most: so many items of one client may run at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._clients: dict[str, _Client[Item]] = {}

    def add(self, client: str, item: Item) -> None:
        """Put an item at the end of its client's line."""
        if client not in self._clients:
            used = min((other.used for other in self._clients.values()), default=0.0)
            self._clients[client] = _Client(used)
        self._clients[client].waiting.append(item)

    def take(self) -> tuple[str, Item] | None:
        """The next item and its client; None: nothing waits that may run."""
        waiting = [
            name for name, client in self._clients.items() if client.waiting and client.running < self._most
        ]
        if not waiting:
            return None
        name = min(waiting, key=lambda name: (self._clients[name].running, self._clients[name].used))
        self._clients[name].running += 1
        return name, self._clients[name].waiting.popleft()

    def done(self, client: str, seconds: float) -> None:
        """An item that was taken is done, and took so long."""
        found = self._clients[client]
        found.running -= 1
        found.used += seconds
        if not found.running and not found.waiting:
            del self._clients[client]

    def clear(self) -> list[Item]:
        """Take out all that waits."""
        items = [item for client in self._clients.values() for item in client.waiting]
        for client in self._clients.values():
            client.waiting.clear()
        return items


def _late() -> DeadlineError:
    return DeadlineError("the request's time was over while its texts were being read")


_Task = tuple[Callable[[], None], Future[Any]]


class TextThreads:
    """A few threads that run functions, fairly between clients.

    Each function must be bounded: nothing stops one that runs. One client never has all threads, unless
    there is only one, so that another need not wait until a long function ends.

    Args:
        threads: how many.
        clock: seconds, on the scale of the deadlines.
        uptime: seconds in which this process ran: where it is paused, no thread is stuck.

    Attributes:
        of_client: how many one client may have.
    """

    def __init__(
        self,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threads = threads
        self.of_client = max(1, threads - 1)
        self._clock = clock
        self._uptime = uptime
        self._changed = threading.Condition()
        self._turns: Turns[_Task] = Turns(self.of_client)
        self._closing = False
        self._running: dict[int, float] = {}  # since when each thread's function runs, in seconds of uptime
        self._threads: list[threading.Thread] = []  # none before there is something to do

    def submit(
        self, client: str, function: Callable[[], Result], deadline: float | None = None
    ) -> Future[Result]:
        """Run a function in one of the threads, when it is its client's turn.

        Args:
            deadline: a function that has not begun by then never does; the future raises DeadlineError.

        Raises:
            UnavailableError: the threads are stopped; the future raises it where they are stopped later.
        """
        future: Future[Result] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if deadline is not None and self._clock() >= deadline:
                    raise _late()  # noqa: TRY301 - as what the function itself raises
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
                future.set_exception(error)
            except BaseException as error:  # a panic of the tokenizers library is no Exception
                _logger.exception("a text could not be read")
                future.set_exception(EngineError(f"a text could not be read: {error}"))

        with self._changed:
            if self._closing:
                raise UnavailableError("the server is stopping", 1.0)
            for number in range(len(self._threads), self.threads):
                # Daemons: the process may end although one of them hangs in a library.
                self._threads.append(threading.Thread(target=self._run, args=(number,), daemon=True))
                self._threads[-1].name = f"crossrank-texts-{number}"
                self._threads[-1].start()
            self._turns.add(client, (run, future))
            self._changed.notify()
        return future

    async def run(
        self,
        client: str,
        deadline: float | None,
        function: Callable[P, Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Result:
        """Run a function in one of the threads and wait for what it returns.

        Args:
            deadline: a function that has not begun by then never does.

        Raises:
            DeadlineError: the deadline came first.
            UnavailableError: the threads are stopped.
        """
        future = asyncio.wrap_future(self.submit(client, partial(function, *args, **kwargs), deadline))
        left = None if deadline is None else max(0.0, deadline - self._clock())
        try:
            return await asyncio.wait_for(future, left)
        except asyncio.TimeoutError:
            raise _late() from None

    @property
    def stuck(self) -> float:
        """For how many seconds no thread was free for another function; 0: one is."""
        with self._changed:
            busy = len(self._running) == self.threads
            return self._uptime() - max(self._running.values()) if busy else 0.0

    def close(self, timeout: float = 10.0) -> bool:
        """Drop what waits and stop the threads; returns whether all of them ended in time."""
        with self._changed:
            self._closing = True
            waiting = self._turns.clear()
            self._changed.notify_all()
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(UnavailableError("the server is stopping", 1.0))
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, number: int) -> None:
        while True:
            with self._changed:
                taken = self._changed.wait_for(lambda: self._closing or self._turns.take())
                if self._closing or not isinstance(taken, tuple):
                    return
                self._running[number] = self._uptime()
            client, (run, _) = taken
            begun = self._clock()
            try:
                run()
            finally:
                with self._changed:
                    del self._running[number]
                    self._turns.done(client, self._clock() - begun)
            del run, taken, _  # or the thread would keep a request's texts while it waits
