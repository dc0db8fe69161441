"""The cache of prepared weights: its file, what is removed, and what full disks and crashes do to it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crossrank import Reranker
from crossrank._system import hold
from crossrank.models import content, weight_cache
from crossrank.models.checkpoint import Checkpoint, map_tensors
from crossrank.models.content import cache_folder
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.models.weight_cache import LAYOUT, PreparedWeights, prepared_files
from tests.checkpoints import write_xlm_roberta

DOCUMENTS = ["北京是中国的政治中心。", "Paris is the capital.", "上海"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now are trusted."""
    monkeypatch.setattr(content, "SETTLED_NS", -(10**18))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


def logits(folder: Path, precision: Any = "fp32") -> list[float]:
    reranker = Reranker(folder, device="cpu", precision=precision, threads=2)
    found: list[float] = reranker.logits([("中国的首都", text) for text in DOCUMENTS]).tolist()
    return found


def kept(cache: Path) -> list[Path]:
    """Files of prepared weights, and what writers have left."""
    return sorted(path for path in cache.iterdir() if path.is_file())


def states() -> dict[str, str]:
    return {file.precision: file.state for file in prepared_files()}


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CROSSRANK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "crossrank"


def test_a_written_file_is_safetensors_and_aligned(folder: Path, cache: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {
        "odd": rng.random(1).astype(np.float32),
        "panels": rng.integers(0, 256, (2, 3, 32, 4)).astype(np.uint8),
        "halves": rng.integers(0, 1 << 16, (2, 64)).astype(np.uint16),
        "floats": rng.random((4, 32)).astype(np.float32),
    }
    place = PreparedWeights(Checkpoint(folder), "int8")
    written: list[int] = []
    place.write(tensors, {}, written.append)
    assert sum(written) == sum(array.nbytes for array in tensors.values())
    again = place.read()
    assert again is not None
    assert all(array.ctypes.data % 64 == 0 for array in again.values())
    for read in (load_file(place.path), map_tensors(place.path)[0], again):
        assert set(read) == set(tensors)
        for name, array in tensors.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)
    header = int.from_bytes(place.path.read_bytes()[:8], "little")
    assert (8 + header) % 64 == 0
    mapped = map_tensors(place.path)[0]
    assert all(mapped[name].ctypes.data % 64 == 0 for name in tensors)


def test_every_tensor_of_a_real_model_is_aligned(cache: Path) -> None:
    logits(resolve(BUNDLED), "int8")
    [file] = prepared_files()
    tensors, _ = map_tensors(file.path)
    # One number alone is never loaded as a vector.
    wrong = [name for name, array in tensors.items() if array.size > 1 and array.ctypes.data % 64]
    assert wrong == []


def test_the_second_start_restores_tables_only(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve(BUNDLED)
    first = logits(folder)
    restored: list[str] = []
    scale = Checkpoint._scale

    def watched(self: Checkpoint, stored: Any, base: str, value: Any, each: float) -> Any:
        restored.append(base)
        return scale(self, stored, base, value, each)

    monkeypatch.setattr(Checkpoint, "_scale", watched)
    assert logits(folder) == first
    assert restored
    assert all("_embeddings." in name for name in restored)


def test_states(tmp_path: Path, cache: Path) -> None:
    folder = write_xlm_roberta(tmp_path / "m")
    logits(folder)
    logits(folder, "int8")
    assert states() == {"fp32": "current", "int8": "current"}
    assert {file.source for file in prepared_files()} == {folder}
    write_xlm_roberta(folder, seed=1)
    assert states() == {"fp32": "outdated", "int8": "outdated"}
    folder.rename(tmp_path / "moved")
    assert states() == {"fp32": "orphaned", "int8": "orphaned"}


def test_a_new_file_replaces_those_of_old_layouts_and_old_weights(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = write_xlm_roberta(tmp_path / "m"), write_xlm_roberta(tmp_path / "other", seed=2)
    logits(other)
    monkeypatch.setattr(weight_cache, "LAYOUT", LAYOUT - 1)
    logits(folder)
    logits(folder, "int8")
    monkeypatch.undo()
    monkeypatch.setenv("CROSSRANK_CACHE", str(cache))
    logits(folder)
    found = [(file.model, file.precision, file.state) for file in prepared_files()]
    assert found == [("m", "fp32", "current"), ("other", "fp32", "current")]
    write_xlm_roberta(folder, seed=1)
    logits(folder)
    assert [file.model for file in prepared_files()] == ["m", "other"]


def run(code: str, folder: Path, **env: str) -> subprocess.Popen[str]:
    """A process that prepares the model and prints its logits, after some code of the test's."""
    after = f"""
import json
from pathlib import Path
if "Reranker" not in globals():
    from crossrank import Reranker
reranker = Reranker(Path({str(folder)!r}), device="cpu", precision="fp32", threads=2)
print(json.dumps(reranker.logits([("中国的首都", text) for text in {DOCUMENTS!r}]).tolist()))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code + after],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_leaves_nothing_and_the_engine_runs(folder: Path, cache: Path) -> None:
    # No file may grow over 8 KiB: what a full disk does, without a disk to fill.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))"
    process = run(f"{limit}\nimport logging; logging.basicConfig()", folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "cannot be kept" in err
    assert kept(cache) == []
    assert json.loads(out) == logits(folder)


def test_a_cache_that_may_not_be_written_is_a_warning(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> Any:  # root writes to read-only folders too
        raise PermissionError(13, "Permission denied")

    expected = logits(folder)
    for file in prepared_files():
        file.path.unlink()
    monkeypatch.setattr(Path, "mkdir", refused)
    with caplog.at_level(logging.WARNING, "crossrank"):
        assert logits(folder) == expected
    assert "Permission denied" in caplog.text
    assert "the next start prepares them again" in caplog.text


def test_processes_that_prepare_at_once_leave_one_whole_file(folder: Path, cache: Path) -> None:
    processes = [run("", folder) for _ in range(3)]
    answers = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert [err for _, err in answers] == ["", "", ""]
    assert states() == {"fp32": "current"}
    assert json.loads(answers[0][0]) == logits(folder)


def test_a_killed_writer_leaves_no_half_file(folder: Path, cache: Path) -> None:
    die = """
import os, signal
from crossrank.models import weight_cache
weight_cache._CHUNK = 1000
write = weight_cache.PreparedWeights.write
def killed(self, tensors, tables, advance):
    written = []
    def count(n):
        written.append(n)
        if len(written) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
    write(self, tensors, tables, count)
weight_cache.PreparedWeights.write = killed
"""
    process = run(die, folder)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert out == ""
    [left] = kept(cache)
    assert left.suffix == ".partial"
    assert prepared_files() == []  # it is young: its writer may be about to lock it
    os.utime(left, (0, 0))
    assert [file.state for file in prepared_files()] == ["unfinished"]
    expected = logits(folder)
    assert not left.exists()
    assert states() == {"fp32": "current"}
    assert logits(folder) == expected


def test_what_is_being_written_is_left_alone(folder: Path, cache: Path) -> None:
    cache.mkdir()
    with (cache / "tiny-0-fp32-v2x.partial").open("wb") as file:
        assert hold(file)
        os.utime(file.name, (0, 0))
        assert prepared_files() == []
        logits(folder)
        assert Path(file.name).exists()
    assert [file.state for file in prepared_files()] == ["current", "unfinished"]


def test_a_file_that_names_no_source_is_outdated(cache: Path) -> None:
    cache.mkdir()
    save_file({"x": np.zeros(3, np.float32)}, cache / f"m-0-fp32-v{LAYOUT}.safetensors")
    (cache / "n-0-fp32-v9.safetensors").write_bytes(b"\xff" * 100)
    assert [file.state for file in prepared_files()] == ["outdated", "outdated"]


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_equal_models_share_one_file(folder: Path, tmp_path: Path, cache: Path, settled: None) -> None:
    installs = [copy_of(folder, tmp_path / f"venv{i}" / "m") for i in range(7)]
    assert len({tuple(logits(install)) for install in installs}) == 1
    [file] = prepared_files()
    assert (file.model, file.source, file.state) == ("m", installs[0], "current")
    # It serves the others on, and is not taken for an orphan.
    shutil.rmtree(installs[0])
    assert states() == {"fp32": "current"}
    for install in installs[1:]:
        shutil.rmtree(install)
    assert states() == {"fp32": "orphaned"}


def test_weights_of_the_same_size_and_time_are_told_apart(tmp_path: Path, cache: Path, settled: None) -> None:
    folder, other = write_xlm_roberta(tmp_path / "m"), write_xlm_roberta(tmp_path / "other", seed=1)
    first, truth = logits(folder), logits(other)
    weights = folder / "model.safetensors"
    status = weights.stat()
    for replace in (shutil.copyfile, shutil.move):
        replace(str(other / weights.name), str(weights))
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
        assert logits(folder) == truth != first


def test_every_change_of_a_file_is_found(
    folder: Path, cache: Path, caplog: pytest.LogCaptureFixture, settled: None
) -> None:
    expected = logits(folder)
    [file] = kept(cache)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in (0, 9, 30, 200, len(whole) // 2, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "crossrank"):
            assert logits(folder) == expected
        assert "made anew" in caplog.text, place
        assert file.read_bytes() == whole


def test_a_file_under_another_models_name_is_refused(folder: Path, tmp_path: Path, cache: Path) -> None:
    expected = logits(folder)
    [file] = kept(cache)
    logits(write_xlm_roberta(tmp_path / "other", seed=1))
    [other] = [path for path in kept(cache) if path != file]
    shutil.copy(other, file)
    assert logits(folder) == expected


def test_other_files_in_the_cache_do_no_harm(folder: Path, tmp_path: Path, cache: Path) -> None:
    expected = logits(folder)
    [file] = kept(cache)
    file.unlink()
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "config.json").write_text('{"a":' * 100_000)
    for i, metadata in enumerate(
        [
            {"crossrank.folder": "[" * 100_000},
            {"crossrank.folder": str(nested)},
            {"crossrank.folder": "\0", "crossrank.model": "\x1b[2J"},
            {"crossrank.source": "[" * 100_000},
        ]
    ):
        save_file({"x": np.zeros(3, np.float32)}, cache / f"{i}-fp32-v{LAYOUT}.safetensors", metadata)
    (cache / "folder.safetensors").mkdir()
    (cache / "loop.safetensors").symlink_to("loop.safetensors")
    (cache / "nothing.partial").symlink_to("/dev/zero")
    os.mkfifo(cache / "pipe.safetensors")
    os.mkfifo(cache / "pipe.partial")
    os.utime(cache / "pipe.partial", (0, 0))
    # It is there only if the checkpoint was a few seconds old when it was read.
    (cache / "checkpoints").mkdir(exist_ok=True)
    (cache / "checkpoints" / "nested.json").write_text("[" * 100_000)
    assert logits(folder) == expected
    assert sum(file.state == "current" for file in prepared_files()) == 1
    assert len(prepared_files()) == 5


def test_files_that_are_cut_short_or_overwritten_while_an_engine_runs(
    folder: Path, tmp_path: Path, cache: Path
) -> None:
    """Were they mapped, this process would end, or scores would change."""
    copy = copy_of(folder, tmp_path / "m")
    expected = logits(folder)
    change = f"""
from pathlib import Path
from crossrank import Reranker
class Reranker(Reranker):
    def logits(self, pairs):
        files = [Path({str(copy / "model.safetensors")!r}), *Path({str(cache)!r}).glob("*.safetensors")]
        assert len(files) == 2
        for file in files:
            with file.open("r+b") as out:
                out.write(b"x" * file.stat().st_size)
        found = super().logits(pairs)
        for file in files:
            with file.open("r+b") as out:
                out.truncate(100)
        assert (super().logits(pairs) == found).all()
        return found
"""
    process = run(change, copy)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert json.loads(out) == expected
