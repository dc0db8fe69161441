"""What a server's process returns to the system."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
from itertools import accumulate

import pytest

from crossrank.server import memory

glibc = pytest.mark.skipif(sys.platform != "linux", reason="glibc's")

RESIDENT = """
import ctypes, gc, resource, threading
from pathlib import Path
from crossrank.server import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
"""


def printed(code: str) -> list[int]:
    """The numbers that Python code prints in a process of its own."""
    command = [sys.executable, "-c", RESIDENT + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@glibc
def test_large_blocks_go_back_to_the_system() -> None:
    """A block is freed, then another of that size, with small ones behind it that stay."""
    (grown,) = printed("""
memory.keep_large_blocks_apart()
bytearray(16 << 20)
before = resident()
block = bytearray(15 << 20)
kept = [bytes(1000) for _ in range(10_000)]
del block
print(resident() - before)
""")
    assert grown < 14 << 20


@glibc
def test_free_memory_between_blocks_in_use_is_released() -> None:
    """64 MiB are freed in a thread, and between them are small blocks that stay."""
    peak, left = printed("""
before, kept = resident(), []

def work():
    blocks = []
    for _ in range(1000):
        blocks.append(bytearray(1 << 16))
        kept.append(bytes(1000))

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(resident() - before)
memory.release()
print(resident() - before)
""")
    assert peak > 60 << 20
    assert left < 10 << 20


def test_what_is_set_aside_is_collected_when_it_is_set_aside_anew() -> None:
    class Node:
        collected = 0

        def __del__(self) -> None:
            Node.collected += 1

    try:
        node = Node()
        node.self = node  # type: ignore[attr-defined]
        memory.set_aside()
        assert gc.get_freeze_count() > 0
        del node
        gc.collect()
        assert Node.collected == 0
        memory.set_aside()
        assert Node.collected == 1
    finally:
        gc.unfreeze()


def test_memory_is_released_after_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[float] = []

    async def main(*works: float) -> int:
        """As many periods as there are seconds of the processor's time; how often memory was released."""
        released.clear()
        times = [0.0, *(time for total in accumulate(works) for time in (total, total))]
        monkeypatch.setattr("time.process_time", lambda: times.pop(0))
        monkeypatch.setattr(memory, "release", lambda: released.append(times[0]))
        with contextlib.suppress(IndexError):
            await memory.release_regularly(0.0, 0.5)
        return len(released)

    assert asyncio.run(main(0.1, 0.1, 0.4)) == 0
    assert asyncio.run(main(0.5, 0.25, 1.0, 0.0)) == 2
