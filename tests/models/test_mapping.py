"""Weight files that shrink while they are read: each in a process of its own, which could end by SIGBUS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossrank.models.mapping import check_maps, map_file, place_in_file
from tests.checkpoints import write_bert

BOTH = """
import mmap, os, sys
import numpy as np
from crossrank.errors import CheckpointError
from crossrank.models.mapping import check_maps, map_file

page = mmap.PAGESIZE
path = sys.argv[1]
with open(path, "wb") as file:
    file.write(b"x" * 100 * page)
"""


def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_missing_bytes_are_zeros_and_then_an_error(tmp_path: Path) -> None:
    code = """
whole = map_file(path)
first, last = whole[: 10 * page].view(np.uint16), whole[90 * page :]
check_maps([first, last])
os.truncate(path, 50 * page)
assert first.max() == first.min() == 0x7878
check_maps([first, last])  # nothing missing was read
assert last.max() == 0
for each in (first, last):
    try:
        check_maps([each])
    except CheckpointError as error:
        print(error)
"""
    done = run(BOTH + code, tmp_path / "weights")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{tmp_path / 'weights'} changed while it was read") for line in lines)


@pytest.mark.parametrize("handler", ["", "import faulthandler; faulthandler.enable()"])
def test_other_maps_are_as_they_were(tmp_path: Path, handler: str) -> None:
    """And so they are once nothing is guarded."""
    for kept in ("guarded = map_file(path)", "map_file(path)"):
        code = f"""
{handler}
{kept}
with open(path, "rb") as file:
    other = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
os.truncate(path, 50 * page)
print("before", flush=True)
other[99 * page]
print("after", flush=True)
"""
        done = run(BOTH + code, tmp_path / "weights")
        assert done.returncode == -signal.SIGBUS
        assert done.stdout == "before\n"
        assert ("Fatal Python error: Bus error" in done.stderr) == bool(handler)


def test_a_place_in_a_file_and_none(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(100)))
    part = map_file(path)[20:40].view(np.uint16)[1:]
    assert place_in_file(part) == (path, 22)
    assert place_in_file(np.array(part)) is None
    check_maps([part, np.zeros(3)])


CLI = "from crossrank.cli import main as load"
TORCH = """
from crossrank.engines.torch import TorchEngine
from crossrank.errors import CheckpointError
from crossrank.models.checkpoint import Checkpoint

def load():
    try:
        TorchEngine(Checkpoint(Path(sys.argv[-1])))
    except CheckpointError as error:
        sys.exit(f"error: {error}")
"""

# What is called when weights have been mapped, and reads them; how it comes to that, and the exit code.
READERS = {
    "they are prepared": ("crossrank._native", "prepare_weights", CLI, 2),
    "tables are copied": ("crossrank.engines.native", "_engine", CLI, 2),
    "PyTorch copies them": ("crossrank.engines.torch", "PlainModel", TORCH, 1),
}


@pytest.mark.parametrize(
    ("reader", "prepared"),
    # Of prepared weights, only tables are still read from the checkpoint.
    [*((reader, False) for reader in READERS), ("tables are copied", True)],
)
def test_a_checkpoint_that_shrinks_while_it_is_loaded_is_one_line(
    tmp_path: Path, reader: str, prepared: bool
) -> None:
    module, name, load, exit_code = READERS[reader]
    if load is TORCH:
        pytest.importorskip("torch")
    folder = write_bert(tmp_path / "model")
    code = f"""
import os, sys
from pathlib import Path
import {module} as module
{load}
read = module.{name}

def shrinks(*arguments, **options):
    os.truncate({str(folder / "model.safetensors")!r}, 4096)
    return read(*arguments, **options)

if sys.argv.pop(1) == "shrinks":
    module.{name} = shrinks
load()
"""
    command = ["rank", "q", "a", "b", "--model", folder]
    cache = {"CROSSRANK_CACHE": str(tmp_path / "cache")}
    if prepared:
        done = run(code, "stays", *command, **cache)
        assert done.returncode == 0, done.stderr
    done = run(code, "shrinks", *command, **cache)
    assert (done.returncode, done.stdout) == (exit_code, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {folder / 'model.safetensors'} changed while it was read")
