"""How a server returns memory that it no longer needs to the system.

A large request leaves garbage in reference cycles, and free memory between blocks that are still in use.
Python and glibc keep both, because the process may need them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import sys
import time

__all__ = ["keep_large_blocks_apart", "release", "release_regularly", "set_aside"]

_MMAP_THRESHOLD = 1 << 20
"""Bytes from which glibc maps a block by itself, so that the system has it back once it is free. Its own
threshold rises to the largest block that was freed, 32 MiB at most: bodies of that size would stay."""

_M_MMAP_THRESHOLD = -3
"""The parameter's number in malloc.h."""

_SECONDS = 10.0
"""Between two releases. One takes about 5 ms, and a tenth of a second more for each million lists and objects
of requests at work. Pages that are needed again cost about as much."""

_WORK = 0.1
"""Seconds of processor time after which there may be something to release."""


def keep_large_blocks_apart() -> None:
    """Keep large blocks out of the heap, where small blocks behind them would keep them resident."""
    _tell_glibc("mallopt", _M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def set_aside() -> None:
    """Exempt all objects that exist now from garbage collection, which holds the GIL while it looks at them.

    Call it when models are loaded: they are most of the objects, and stay. Objects that were set aside
    before are looked at once more.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def release() -> None:
    """Collect garbage, and return free memory to the system."""
    gc.collect()
    _tell_glibc("malloc_trim", 0)


def _tell_glibc(function: str, *values: int) -> None:
    """Call a function that only glibc has."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            getattr(ctypes.CDLL(None), function)(*values)


async def release_regularly(seconds: float = _SECONDS, work: float = _WORK) -> None:
    """Call ``release`` after every period in which the process worked; never return.

    Args:
        seconds: of a period.
        work: seconds of processor time that count as work.
    """
    used = time.process_time()
    while True:
        await asyncio.sleep(seconds)
        if time.process_time() - used >= work:
            await asyncio.to_thread(release)
        used = time.process_time()
