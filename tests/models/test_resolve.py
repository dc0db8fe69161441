"""The real huggingface_hub client against a server on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from crossrank.errors import (
    CheckpointError,
    InputError,
    MissingLibraryError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from crossrank.models import resolve as models
from crossrank.models.resolve import BUNDLED, cached_folder, remove, resolve, stored_models
from tests.hub import Hub

NAME = "some/reranker"
CONFIG = json.dumps({"architectures": ["XLMRobertaForSequenceClassification"]}).encode()
SMALL = {
    "config.json": CONFIG,
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{ }",
}
WEIGHTS = random.Random(0).randbytes(1 << 20)
FILES = {
    **SMALL,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same again",
    "onnx/model.onnx": b"and again",
    "openvino/openvino_model.bin": b"and again",
    "README.md": b"words",
}
SHARDS = {"model-00001-of-00002.safetensors": b"one", "model-00002-of-00002.safetensors": b"two"}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": [*SHARDS][1]}}).encode()
SHARDED = {**SMALL, "model.safetensors.index.json": INDEX, **SHARDS}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub, an empty cache and an empty working folder."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGINGFACE_", "MODELSCOPE_")) or name == "TRANSFORMERS_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "hf" / "stored"))
    # Pieces of 10 MB are for real models; and its pause before the next try is long for a test.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


PULL = "from crossrank.models.resolve import resolve; print(resolve('some/reranker'))"


def run_python(code: str, *, stderr: int = subprocess.PIPE, **env: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(models.__file__).parents[2]), **env}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # A job in the background of a shell ignores SIGINT, and so would this one's child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def error_of(call: Callable[[], object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# What is on this machine


def test_the_bundled_model_comes_first(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundled = write(tmp_path / "bundled", FILES)
    monkeypatch.setattr(models, "_BUNDLED_FOLDER", bundled)
    write(Path("crossrank-mini"), FILES)
    assert resolve(BUNDLED) == bundled
    assert not hub.requests
    with pytest.raises(InputError, match="revision"):
        resolve(BUNDLED, revision="main")
    (bundled / "model.safetensors").unlink()
    (bundled / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"bundled model has no model\.safetensors.*install"):
        resolve(BUNDLED)


def test_the_bundled_model_does_not_need_the_hub_s_client(hub: Hub, tmp_path: Path) -> None:
    folder = write(tmp_path / "bundled", FILES)
    code = f"""
import pathlib, sys
from crossrank.models import resolve as models
models._BUNDLED_FOLDER = pathlib.Path({str(folder)!r})
models.resolve(models.BUNDLED)
assert "huggingface_hub" not in sys.modules
"""
    with run_python(code) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_folder(hub: Hub, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", FILES)
    write(Path("below"), FILES)
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    assert resolve("below") == resolve("./below") == resolve(Path("below")) == Path.cwd() / "below"
    assert not hub.requests


@pytest.mark.parametrize("model", [Path("nothing"), "./nothing", "../nothing", "/no/thing", "a/b/c", "a/"])
def test_a_folder_that_is_not_there(hub: Hub, model: str | Path) -> None:
    assert "does not exist" in error_of(lambda: resolve(model), ModelNotFoundError)
    assert not hub.requests


def test_a_file_is_no_folder(hub: Hub, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", FILES)
    assert "give its folder" in error_of(lambda: resolve(folder / "config.json"), ModelNotFoundError)


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_that_lacks_a_file(hub: Hub, tmp_path: Path, lost: str, empty: bool) -> None:
    folder = write(tmp_path / "mine", {**SMALL, "model.safetensors": WEIGHTS})
    (folder / lost).unlink()
    if empty:
        (folder / lost).touch()
    message = error_of(lambda: resolve(folder), CheckpointError)
    assert lost in message
    assert str(folder) in message


def test_a_folder_with_shards(hub: Hub, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", SHARDED)
    assert resolve(folder) == folder
    (folder / [*SHARDS][1]).unlink()
    assert [*SHARDS][1] in error_of(lambda: resolve(folder), CheckpointError)


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": {"a": "../x"}}']
)
def test_a_damaged_index(hub: Hub, tmp_path: Path, index: bytes) -> None:
    folder = write(tmp_path / "mine", {**SHARDED, "model.safetensors.index.json": index})
    assert "damaged" in error_of(lambda: resolve(folder), CheckpointError)


def test_a_copy_in_models_is_taken_before_the_hub(hub: Hub) -> None:
    hub.add(NAME, FILES)
    folder = write(Path("models/reranker"), FILES)
    assert resolve(NAME) == folder.absolute()
    assert resolve("reranker") == folder.absolute()
    assert not hub.requests
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"models.reranker has no tokenizer\.json"):
        resolve(NAME)


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a..b", "a--b/c", "-a", "a/b.git", "x" * 97, "https://hub/a/b", "模型", "a\n"]
)
def test_a_bad_name(hub: Hub, name: str) -> None:
    assert "is not a model's name" in error_of(lambda: resolve(name), ModelNotFoundError)
    assert not hub.requests


def test_a_bad_source(hub: Hub) -> None:
    with pytest.raises(InputError, match="source is 'ftp'"):
        resolve(NAME, source="ftp")  # type: ignore[arg-type]


# From the hub


def test_a_pull_fetches_what_is_needed_and_no_more(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    commit = hub.add(NAME, FILES)
    folder = resolve(NAME)
    assert folder.name == commit
    assert names(folder) == {*SMALL, "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.count("GET", server="cdn") == 1
    assert capfd.readouterr() == ("", "")


CHAIN = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
MODULES = json.dumps([{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
                      for i, (kind, path) in enumerate(CHAIN)]).encode()  # fmt: skip
CHAINED = {
    **SMALL,
    "modules.json": MODULES,
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b'{"out_features": 1}',
    "2_Dense/model.safetensors": b"dense",
    "model.safetensors": WEIGHTS,
}


def test_modules_that_are_a_models_head_are_fetched_with_it(hub: Hub) -> None:
    hub.add(NAME, {**CHAINED, "2_Dense/pytorch_model.bin": b"again", "4_Other/config.json": b"{}"})
    assert names(resolve(NAME)) == {*CHAINED}


def test_a_language_models_prompt_and_its_page_are_fetched_with_it(hub: Hub) -> None:
    prompt = {
        "modules.json": json.dumps(
            [{"type": "x.Transformer", "path": ""}, {"type": "x.LogitScore", "path": "1_LogitScore"}]
        ).encode(),
        "1_LogitScore/config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "config_sentence_transformers.json": b"{}",
        "sentence_bert_config.json": b"{}",
        "README.md": b"---\nbase_model: Qwen/Qwen3-Reranker-0.6B\n---",
        "config.json": b'{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}',
    }
    hub.add(NAME, {**FILES, **prompt})
    fetched = names(resolve(NAME))
    assert {file for file in prompt if "/" not in file} <= fetched
    assert "1_LogitScore/config.json" in fetched or "1_LogitScore" in fetched
    assert [model.name for model in stored_models()][-1] == NAME


def test_a_module_that_lacks_its_weights(hub: Hub) -> None:
    hub.add(NAME, {file: content for file, content in CHAINED.items() if file != "2_Dense/model.safetensors"})
    with pytest.raises(CheckpointError, match=r"has no 2_Dense/model\.safetensors"):
        resolve(NAME)


@pytest.mark.parametrize("path", ["../2_Dense", "/etc", "a/b", ".."])
def test_a_module_elsewhere_is_refused(hub: Hub, path: str) -> None:
    modules = json.dumps([{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": path}])
    hub.add(NAME, {**CHAINED, "modules.json": modules.encode()})
    with pytest.raises(CheckpointError, match="which is no folder beside it"):
        resolve(NAME)


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_drawn_on_a_terminal_when_asked_for(hub: Hub, progress: bool) -> None:
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    hub.add(NAME, FILES)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with run_python(f"{PULL[:-2]}, progress={progress}))", stderr=theirs) as process:
        out, _ = process.communicate(timeout=60)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    assert Path(out.strip()).is_dir()
    assert (b"model.safetensors: 100%" in shown) == progress
    assert progress or not shown


def test_a_cached_model_is_not_fetched_again(hub: Hub) -> None:
    commit = hub.add(NAME, FILES)
    folder = resolve(NAME)
    hub.requests.clear()
    assert resolve(NAME) == folder
    assert resolve(NAME, revision=commit, refresh=True) == folder
    assert resolve(NAME, offline=True) == folder
    assert not hub.requests
    assert resolve(NAME, refresh=True) == folder
    assert [request.path for request in hub.requests] == [f"/api/models/{NAME}"]


def test_a_branch_that_moved_is_fetched_but_for_what_is_the_same(hub: Hub) -> None:
    first = hub.add(NAME, FILES)
    resolve(NAME)
    second = hub.add(NAME, {**FILES, "config.json": CONFIG + b" "})
    hub.requests.clear()
    assert resolve(NAME).name == first
    folder = resolve(NAME, refresh=True)
    assert folder.name == second
    assert (folder / "config.json").read_bytes() == CONFIG + b" "
    assert hub.count("GET", server="cdn") == 0
    assert resolve(NAME, offline=True) == folder
    assert resolve(NAME, revision=first, offline=True).name == first


def test_a_pinned_revision(hub: Hub) -> None:
    first = hub.add(NAME, FILES)
    hub.add(NAME, {**FILES, "model.safetensors": b"other weights"})
    hub.repos[NAME].refs["v1"] = first
    assert resolve(NAME, revision="v1").name == first
    assert resolve(NAME, revision="v1", offline=True).name == first
    shutil.rmtree(os.environ["HF_HOME"])
    folder = resolve(NAME, revision=first)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_shards(hub: Hub) -> None:
    hub.add(NAME, {**SHARDED, "pytorch_model.bin": b"the same again"})
    folder = resolve(NAME)
    assert names(folder) == set(SHARDED)
    assert resolve(NAME, offline=True) == folder
    (folder / next(iter(SHARDS))).unlink()
    with pytest.raises(ModelNotFoundError, match="missing or incomplete"):
        resolve(NAME, offline=True)
    assert names(resolve(NAME)) == set(SHARDED)


def test_pytorch_weights_where_there_are_no_others(hub: Hub) -> None:
    hub.add(NAME, {**SMALL, "pytorch_model.bin": WEIGHTS, "onnx/model.onnx": b"again"})
    assert names(resolve(NAME)) == {*SMALL, "pytorch_model.bin"}


def test_a_repo_without_weights(hub: Hub) -> None:
    hub.add(NAME, {**SMALL, "onnx/model.onnx": WEIGHTS})
    message = error_of(lambda: resolve(NAME), UnsupportedModelError)
    assert "no weights" in message
    assert "onnx/model.onnx" in message


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json"])
def test_a_repo_that_lacks_a_file(hub: Hub, lost: str) -> None:
    hub.add(NAME, {name: content for name, content in FILES.items() if name != lost})
    assert lost in error_of(lambda: resolve(NAME), UnsupportedModelError)
    assert hub.count("GET", server="cdn") == 0


def test_many_threads_fetch_once(hub: Hub) -> None:
    hub.add(NAME, FILES)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: resolve(NAME), range(8)))
    assert len(folders) == 1
    assert hub.count("GET", server="cdn") == 1


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    hub.private.add(NAME)
    assert "HF_TOKEN" in error_of(lambda: resolve(NAME), ModelNotFoundError)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.requests.clear()
    resolve(NAME)
    sent = {(request.server, request.headers.get("authorization")) for request in hub.requests}
    assert sent == {("hub", f"Bearer {hub.token}"), ("cdn", None)}


# What can go wrong on the way


def test_a_line_that_breaks_now_and_then_is_good_enough(hub: Hub) -> None:
    hub.add(NAME, FILES)
    hub.cut["model.safetensors"] = [300_000]
    folder = resolve(NAME)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.headers.get("range") for request in hub.requests if request.server == "cdn"]
    assert ranges[0] is None
    assert ranges[1] == f"bytes={300_000 // 65536 * 65536}-"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pull_goes_on_in_the_next_process(hub: Hub, how: signal.Signals) -> None:
    weights = random.Random(1).randbytes(25 << 20)
    hub.add(NAME, {**SMALL, "model.safetensors": weights})
    hub.stall["model.safetensors"] = 22 << 20
    with run_python(PULL) as first:
        assert hub.stalled.wait(60)
        part = Path(os.environ["HF_HOME"], "hub", "models--some--reranker", "blobs")
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size >= 20 << 20 for path in part.glob("*.part")):
            assert time.monotonic() < deadline
        first.send_signal(how)
        assert first.wait(60) != 0
        first.communicate()
    # What came so far is never taken for the model.
    assert "missing or incomplete" in error_of(lambda: resolve(NAME, offline=True), ModelNotFoundError)
    hub.stall.clear()
    hub.requests.clear()
    with run_python(PULL) as second:
        out, err = second.communicate(timeout=60)
    assert (second.returncode, err) == (0, "")
    assert (Path(out.strip()) / "model.safetensors").read_bytes() == weights
    assert [r.headers.get("range") for r in hub.requests if r.server == "cdn"] == [f"bytes={20 << 20}-"]


def test_a_line_that_brings_nothing_more_is_an_error_and_what_came_is_kept(hub: Hub) -> None:
    hub.add(NAME, FILES)
    hub.cut["model.safetensors"] = [300_000, 0]
    part = Path(os.environ["HF_HOME"], "hub", "models--some--reranker", "blobs")
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "the part that was downloaded is kept" in message
    assert [path.stat().st_size for path in part.glob("*.part")] == [262144]
    assert not stored_models()[-1].complete
    hub.cut.clear()
    assert (resolve(NAME) / "model.safetensors").read_bytes() == WEIGHTS


def test_damaged_bytes_are_thrown_away(hub: Hub) -> None:
    hub.add(NAME, FILES)
    hub.damage.add("model.safetensors")
    assert "damaged" in error_of(lambda: resolve(NAME), CheckpointError)
    hub.damage.clear()
    assert (resolve(NAME) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_model_that_the_hub_does_not_have(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for token in (None, hub.token):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        message = error_of(lambda: resolve("no/such"), ModelNotFoundError)
        assert f"no model no/such on {hub.url}" in message
        assert "spelling" in message


def test_a_revision_that_the_hub_does_not_have(hub: Hub) -> None:
    hub.add(NAME, FILES)
    resolve(NAME)
    assert "no revision 'v9'" in error_of(lambda: resolve(NAME, revision="v9"), ModelNotFoundError)
    with pytest.raises(ModelNotFoundError, match="no revision '00000"):
        resolve(NAME, revision="0" * 40)


def test_a_gated_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    hub.gated.add(NAME)
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "gated" in message
    assert "HF_TOKEN" in message
    assert f"{hub.url}/{NAME}" in message
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert names(resolve(NAME)) == {*SMALL, "model.safetensors"}


def test_a_token_that_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "401" in message
    assert "check HF_TOKEN" in message


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = closed_port()
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    for word in (endpoint, "HF_ENDPOINT", "--from modelscope", str(Path.cwd() / "models" / "reranker")):
        assert word in message


def test_a_hub_that_is_down(hub: Hub) -> None:
    hub.down = True
    assert "status 503" in error_of(lambda: resolve(NAME), ModelNotFoundError)


def test_something_that_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.cdn_url)
    monkeypatch.setattr(hub, "blob", lambda _: ("page", b"<html>Please log in</html>"))
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "does not answer like a hub" in message
    assert "HF_ENDPOINT" in message


@pytest.mark.parametrize("fault", ["closed", "down", "gone"])
def test_the_cached_copy_serves_where_the_hub_does_not(
    hub: Hub, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(NAME, FILES)
    folder = resolve(NAME)
    if fault == "closed":
        monkeypatch.setenv("HF_ENDPOINT", closed_port())
    elif fault == "down":
        hub.down = True
    else:
        hub.repos.clear()
    with caplog.at_level(logging.WARNING, "crossrank"):
        assert resolve(NAME, refresh=True) == folder
    assert "cached copy" in caplog.text


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    message = error_of(lambda: resolve(NAME, offline=True), ModelNotFoundError)
    assert f"crossrank models pull {NAME}" in message
    folder = resolve(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert resolve(NAME) == folder
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        resolve("some/other")
    assert not hub.requests


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(hub: Hub) -> None:
    hub.add(NAME, FILES)
    resolve(NAME)
    (blob,) = Path(os.environ["HF_HOME"]).glob("hub/*/snapshots/*/model.safetensors")
    target = blob.resolve()
    blob.unlink()
    target.unlink()
    part = target.with_name(target.name + ".part")
    part.symlink_to("/dev/full")
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "disk is full" in message
    assert "HF_HOME" in message
    part.unlink()
    assert resolve(NAME)


def test_a_disk_with_too_little_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "disk is full" in message
    assert hub.count("GET", server="cdn") == 0


def test_a_cache_that_cannot_be_written(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    message = error_of(lambda: resolve(NAME), ModelNotFoundError)
    assert "cannot write" in message
    assert "HF_HOME" in message


def test_a_bug_is_not_taken_for_a_bad_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    monkeypatch.setattr("crossrank.models.hub._choose_files", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        resolve(NAME)


# What is stored


def test_stored_models(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "_BUNDLED_FOLDER", tmp_path / "none")
    assert stored_models() == []
    monkeypatch.setattr(models, "_BUNDLED_FOLDER", write(tmp_path / "bundled", SMALL))
    write(Path("models/mine"), {**SMALL, "model.safetensors": WEIGHTS})
    commit = hub.add(NAME, FILES)
    hub.add("some/chat", {**FILES, "config.json": b'{"architectures": ["LlamaForCausalLM"]}'})
    resolve(NAME)
    resolve("some/chat")
    size = sum(map(len, SMALL.values()))
    found = [(m.name, m.place, m.size, m.revision, m.complete) for m in stored_models()]
    assert found == [
        (BUNDLED, "bundled", size, None, False),
        ("mine", "local", size + len(WEIGHTS), None, True),
        (NAME, "cached", size + len(WEIGHTS), commit, True),
    ]


def test_a_damaged_model_is_listed_as_incomplete(hub: Hub) -> None:
    write(Path("models/mine"), {**SHARDED, "model.safetensors.index.json": b"{"})
    assert [(model.name, model.complete) for model in stored_models()][-1] == ("mine", False)


def test_remove(hub: Hub) -> None:
    hub.add(NAME, FILES)
    resolve(NAME)
    hub.add(NAME, {**FILES, "config.json": CONFIG + b" "})
    folder = resolve(NAME).parent.parent
    (folder / "blobs" / "0.part").write_bytes(b"left over")
    assert cached_folder(NAME)[0] == folder
    assert remove(NAME) > len(WEIGHTS)
    assert not folder.exists()
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        remove(NAME)
    hub.requests.clear()
    resolve(NAME)
    assert hub.count("GET", server="cdn") == 1


def test_remove_leaves_what_is_not_the_cache_s(hub: Hub) -> None:
    write(Path("models/mine"), FILES)
    for name in (BUNDLED, "some/mine", "mine", "./models/mine"):
        with pytest.raises(InputError, match=r"package|delete it yourself"):
            remove(name)
    assert names(Path("models/mine")) == set(FILES)


# What is no model


ADAPTER = {
    "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "some/base"}',
    "adapter_model.safetensors": b"x",
    "tokenizer.json": b"{}",
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def test_a_lora_adapter_is_named(hub: Hub, tmp_path: Path) -> None:
    config = {"config.json": FILES["config.json"]}
    for name, files in {"a": ADAPTER, "b": ADAPTER | config}.items():
        folder = write(tmp_path / name, files)
        reason = error_of(partial(resolve, folder), CheckpointError)
        assert "is a LoRA adapter of 'some/base', not a whole model; merge it" in reason
    hub.add(NAME, ADAPTER)
    assert "it is a LoRA adapter" in error_of(lambda: resolve(NAME), UnsupportedModelError)
    write(tmp_path / "a", {"adapter_config.json": b"[" * 100_000})
    assert "is a LoRA adapter, not" in error_of(lambda: resolve(tmp_path / "a"), CheckpointError)


def test_a_folder_without_weights_says_what_they_may_be(tmp_path: Path) -> None:
    reason = error_of(lambda: resolve(write(tmp_path / "a", SMALL)), CheckpointError)
    assert "has no weights" in reason
    assert "pytorch_model.bin.index.json" in reason


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path / "a", FILES | {file: POINTER})
    assert f"{file} is only a git-lfs pointer" in error_of(lambda: resolve(folder), CheckpointError)


def test_shards_of_pytorch_are_fetched(hub: Hub) -> None:
    shards = {"pytorch_model-00001-of-00002.bin": b"one", "pytorch_model-00002-of-00002.bin": b"two"}
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    files = {**SMALL, "pytorch_model.bin.index.json": index, **shards}
    hub.add(NAME, {**files, "onnx/model.onnx": b"other"})
    assert names(resolve(NAME)) == set(files)


def test_odd_folders_are_listed(hub: Hub, tmp_path: Path) -> None:
    nested = b"[" * 100_000
    write(Path("models/nested"), {**SMALL, "config.json": nested, "model.safetensors.index.json": nested})
    write(Path("models/list"), {**SMALL, "model.safetensors.index.json": b'{"weight_map": [1]}'})
    write(Path("models/\x1b]0;owned\x07"), {"config.json": b'{"architectures": 3}'})
    for i, config in enumerate([nested, b'{"architectures": 3}', b'{"id2label": 3}', b"[]", b"\xff"]):
        write(tmp_path / "hf" / "hub" / f"models--a--{i}" / "snapshots" / "x", {"config.json": config})
    (Path("models/nested") / "loop").symlink_to("loop")
    os.mkfifo("models/nested/pipe")
    (Path("models") / "pipe").mkdir()
    os.mkfifo("models/pipe/config.json")
    found = {model.name: model.complete for model in stored_models() if model.place == "local"}
    assert found == {"nested": False, "list": False, "\x1b]0;owned\x07": False, "pipe": False}


# ModelScope


def test_modelscope_without_its_client(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'crossrank\[modelscope\]'"):
        resolve(NAME, source="modelscope")


def pull_from_modelscope(hub: Hub, tmp_path: Path, arguments: str = "") -> tuple[str, str]:
    pytest.importorskip("modelscope")
    code = f"""
import logging; logging.disable(logging.INFO)
from crossrank.models.resolve import resolve
from crossrank.errors import ModelError
try: print(resolve("some/reranker", source="modelscope", {arguments}))
except ModelError as error: print(type(error).__name__, error)
"""
    home, cache = str(tmp_path / "home"), str(tmp_path / "ms")
    with run_python(code.strip(), HOME=home, MODELSCOPE_ENDPOINT=hub.url, MODELSCOPE_CACHE=cache) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip(), err


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (FILES, {*SMALL, "model.safetensors"}),
        (SHARDED, {*SHARDED}),
        ({**SMALL, "pytorch_model.bin": WEIGHTS}, {*SMALL, "pytorch_model.bin"}),
        (CHAINED, {*CHAINED}),
    ],
)
def test_modelscope(hub: Hub, tmp_path: Path, files: dict[str, bytes], wanted: set[str]) -> None:
    hub.add(NAME, files)
    out, err = pull_from_modelscope(hub, tmp_path)
    folder = Path(out)
    assert wanted <= names(folder)
    assert not {"onnx/model.onnx", "README.md"} & names(folder)
    assert all((folder / name).read_bytes() == files[name] for name in wanted)
    assert "%" not in err
    offline, _ = pull_from_modelscope(hub, tmp_path, "offline=True")
    assert offline == out


def test_modelscope_draws_progress_when_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    out, err = pull_from_modelscope(hub, tmp_path, "progress=True")
    assert Path(out).is_dir()
    assert "100%" in err


def test_modelscope_leaves_its_host_alone(hub: Hub, tmp_path: Path) -> None:
    """Others may print, and draw bars, while its client works: it has a process of its own."""
    hub.add(NAME, FILES)
    code = """
import sys
from crossrank.models import modelscope
from crossrank.models.resolve import resolve
from tqdm import tqdm
before = sys.stdout, vars(tqdm)["__init__"]
run = modelscope.subprocess.run
def watched(*args, **options):
    assert (sys.stdout, vars(tqdm)["__init__"]) == before
    done = run(*args, **options)
    assert (sys.stdout, vars(tqdm)["__init__"]) == before
    return done
modelscope.subprocess.run = watched
resolve("some/reranker", source="modelscope")
assert "modelscope" not in sys.modules
"""
    home, cache = str(tmp_path / "home"), str(tmp_path / "ms")
    with run_python(code.strip(), HOME=home, MODELSCOPE_ENDPOINT=hub.url, MODELSCOPE_CACHE=cache) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, ""), err


def test_modelscope_errors(hub: Hub, tmp_path: Path) -> None:
    out, _ = pull_from_modelscope(hub, tmp_path)
    assert out.startswith("ModelNotFoundError")
    assert "check the name" in out
    out, _ = pull_from_modelscope(hub, tmp_path, "offline=True")
    assert out.startswith("ModelNotFoundError")
    assert "network is off" in out
    hub.add(NAME, SMALL)
    out, _ = pull_from_modelscope(hub, tmp_path)
    assert out.startswith("CheckpointError")
    assert "model.safetensors" in out
