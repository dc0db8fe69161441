"""What systems do differently. Windows is played on others: its modules are there, and theirs are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossrank import _system

WINDOWS = """
import asyncio, json, locale, multiprocessing.resource_tracker, os, platform, shutil, signal
import socket, subprocess, sys, threading, types
import bm25s, fastapi, httptools, huggingface_hub, numpy, prometheus_client, rich.console, rich.progress
import safetensors, tokenizers, typer, uvicorn

for name in ("fcntl", "resource", "pwd", "grp", "termios", "uvloop"):
    sys.modules[name] = None
for name in ("pread", "preadv", "sched_getaffinity", "fork", "getuid", "geteuid"):
    delattr(os, name)
for name in ("SIGHUP", "pthread_sigmask", "SIG_BLOCK", "SIG_SETMASK"):
    delattr(signal, name)
del socket.AF_UNIX

locked = []


def locking(descriptor, mode, count):
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    inode = os.fstat(descriptor).st_ino, place
    if inode in locked:
        raise PermissionError(13, "Permission denied")
    locked.append(inode)


sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
library = __import__("ctypes").CDLL


def load(name, *arguments, **options):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return library(name, *arguments, **options)


__import__("ctypes").CDLL = load
sys.platform = "win32"
"""
"""What stands before a program for it to run as on Windows. What is imported first is not CrossRank's."""


def run_as_on_windows(program: str, folder: Path) -> str:
    """What a program prints where there is only what Windows has too."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WINDOWS + program],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"CROSSRANK_CACHE": str(folder / "cache"), "CROSSRANK_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


played = pytest.mark.skipif(sys.platform == "win32", reason="it is not played there")


@played
def test_every_module_imports_without_what_windows_lacks(tmp_path: Path) -> None:
    program = """
import importlib, pkgutil
import crossrank
from crossrank import _system, bulk, cli, data, evaluation, models, server, text
from crossrank.engines import native
from crossrank.server import core, http, run
names = [
    found.name
    for package in (bulk, cli, data, evaluation, models, server, core, http, text)
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]
for name in names:
    importlib.import_module(name)
print(len(names), run.run_loop.__module__)
"""
    count, loop = run_as_on_windows(program, tmp_path).split()
    assert int(count) > 50
    assert loop == "asyncio.runners"


@played
def test_weights_are_prepared_kept_and_read_as_on_windows(tmp_path: Path) -> None:
    program = """
from crossrank import Reranker
reranker = Reranker(device="cpu", precision="int8")
sys.platform = "linux"
print([hit.index for hit in reranker.rank("capital of France", ["Lyon is a city.", "Paris is the capital."])])
kept = [name for name in os.listdir(os.environ["CROSSRANK_CACHE"]) if name.endswith(".safetensors")]
print(len(kept), len(locked))
from crossrank.models.weight_cache import PreparedWeights
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, resolve
print(PreparedWeights(Checkpoint(resolve(BUNDLED)), "int8").read() is not None)
"""
    assert run_as_on_windows(program, tmp_path).splitlines() == ["[1, 0]", "1 1", "True"]


@played
def test_a_bulk_output_is_held_and_closed_before_it_is_renamed(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from crossrank.bulk.output import Output
from crossrank.errors import InputError
replace = Path.replace


def replace_closed(self, target):
    links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if
             os.path.exists(f"/proc/self/fd/{name}")]
    if str(self.absolute()) in links:
        raise PermissionError(13, "The process cannot access the file because it is being used")
    return replace(self, target)


Path.replace = replace_closed
with Output(Path("out.jsonl"), {"model": "m"}) as out:
    try:
        Output(Path("out.jsonl"), {"model": "m"})
    except InputError as error:
        print(error)
    out.write({"id": "q", "results": []})
    out.finish()
print(Path("out.jsonl").read_text(), end="")
"""
    held, written = run_as_on_windows(program, tmp_path).splitlines()
    assert held == "out.jsonl.partial is being written by another process"
    assert json.loads(written) == {"id": "q", "results": []}


@played
def test_a_server_says_that_there_are_no_unix_sockets_and_stops_at_a_signal(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from crossrank.errors import InputError
from crossrank.server import memory, run
from crossrank.server.settings import Settings
memory.keep_large_blocks_apart()
memory.release()
try:
    run.listen(Settings(uds=Path("socket")))
except InputError as error:
    print(error)
settings = Settings(port=0)
sys.platform, socket.AF_UNIX = "linux", 1  # for asyncio, which is that of this system


async def main():
    loop = asyncio.get_running_loop()

    def none(*_):
        raise NotImplementedError

    loop.add_signal_handler = none
    server = run._Server(uvicorn.Config(None), settings, None, None, lambda: None)
    done = asyncio.Event()
    server.stop = done.set
    with server.capture_signals():
        signal.raise_signal(signal.SIGTERM)
        await done.wait()
    print("stopped")


asyncio.run(main())
"""
    assert run_as_on_windows(program, tmp_path).splitlines() == [
        "--uds socket: Python has no Unix sockets on this system; use --host and --port",
        "stopped",
    ]


def test_a_file_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "held"
    with path.open("wb") as first, path.open("rb") as second:
        assert _system.hold(first)
        assert not _system.hold(second)


@pytest.mark.parametrize(("start", "length", "expected"), [(0, 4, 4), (1 << 16, 10, 10), (1 << 16, 100, 60)])
def test_bytes_at_a_place(tmp_path: Path, start: int, length: int, expected: int) -> None:
    data = os.urandom((1 << 16) + 60)
    path = tmp_path / "data"
    path.write_bytes(data)
    buffer = bytearray(length)
    with path.open("rb") as file:
        assert _system.read_into(file.fileno(), memoryview(buffer), start) == expected
    assert buffer[:expected] == data[start : start + expected]


def test_the_peak_is_not_below_what_is_held() -> None:
    held = bytearray(b"x") * (50 << 20)
    assert _system.peak_memory() > len(held)
