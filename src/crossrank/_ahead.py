"""Calls in threads whose results come in order, a few calls ahead of whoever draws them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int, name: str
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item, in threads.

    Args:
        function: is called in the threads.
        items: are drawn in the caller's thread, no more than ``ahead`` before their results are.
        threads: how many calls run at a time.
        ahead: how many calls may wait or run, 1 or more.
        name: of the threads.

    Yields:
        Each item with its result, in the items' order.
    """
    pool = ThreadPoolExecutor(threads, name)
    calls: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            calls.append((item, pool.submit(function, item)))
            if len(calls) >= ahead:
                first, call = calls.popleft()
                yield first, call.result()
        while calls:
            first, call = calls.popleft()
            yield first, call.result()
    finally:
        pool.shutdown(cancel_futures=True)
