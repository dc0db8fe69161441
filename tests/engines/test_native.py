"""The native engine on checkpoints: against torch, its cache of prepared weights, its choices."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from crossrank import _native
from crossrank.engines.native import NativeEngine, default_threads, why_not
from crossrank.engines.torch import TorchEngine
from crossrank.errors import CheckpointError, EngineError, InputError, OutOfMemoryError
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.models.weight_cache import LAYOUT
from crossrank.packing import Pack, build_pack
from crossrank.pairs import PairEncoder
from tests.checkpoints import write_bert, write_xlm_roberta

DOCUMENTS = ["北京是中国的政治中心。", "Paris is the capital.", "", "a long document " * 30, "上海"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


def kept_in(cache: Path) -> list[Path]:
    """Files of prepared weights."""
    return sorted(cache.glob("*.safetensors"))


def pack_of(folder: Path) -> Pack:
    return build_pack(PairEncoder(folder / "tokenizer.json").encode("中国的首都是哪里？", DOCUMENTS))


def logits(folder: Path, precision: str = "fp32") -> Any:
    return NativeEngine(Checkpoint(folder), precision=precision, threads=2).logits(pack_of(folder))


@pytest.mark.parametrize("write", [write_xlm_roberta, write_bert])
def test_fp32_is_torchs(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    expected = TorchEngine(Checkpoint(folder)).logits(pack_of(folder))
    np.testing.assert_allclose(logits(folder), expected, atol=1e-4)
    np.testing.assert_allclose(logits(folder, "bf16"), expected, atol=0.2)


def test_on_real_weights_fp32_is_torchs_and_bf16_is_near() -> None:
    folder = resolve(BUNDLED)
    expected = TorchEngine(Checkpoint(folder)).logits(pack_of(folder))
    np.testing.assert_allclose(logits(folder), expected, atol=1e-3)
    np.testing.assert_allclose(logits(folder, "bf16"), expected, atol=0.1)
    assert np.abs(logits(folder, "int8") - expected).max() < 1


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_logit_does_not_depend_on_its_pack(folder: Path, precision: str) -> None:
    engine = NativeEngine(Checkpoint(folder), precision=precision, threads=2)
    pairs = PairEncoder(folder / "tokenizer.json").encode("query", DOCUMENTS)
    together = engine.logits(build_pack(pairs))
    assert together.tolist() == [float(engine.logits(build_pack([pair]))[0]) for pair in pairs]


def test_an_encoder_gets_whole_sequences_where_a_pack_has_prefixes(folder: Path) -> None:
    engine = NativeEngine(Checkpoint(folder), precision="fp32", threads=2)
    assert not engine.shares_prefixes
    pairs = PairEncoder(folder / "tokenizer.json").encode("query", DOCUMENTS)
    shared = build_pack([replace(pair, prefix=2) for pair in pairs])
    assert shared.prefix_of is not None
    assert engine.logits(shared).tolist() == engine.logits(build_pack(pairs)).tolist()


def test_prepared_weights_are_kept_and_used_again(folder: Path, cache: Path) -> None:
    first = logits(folder)
    [kept] = kept_in(cache)
    assert kept.name.endswith(f"-fp32-v{LAYOUT}.safetensors")
    changed = kept.stat().st_mtime_ns
    assert logits(folder).tolist() == first.tolist()
    assert kept.stat().st_mtime_ns == changed
    # Embedding tables stay in the checkpoint.
    assert not any(name.startswith("embedding.words") for name in load_file(kept))
    logits(folder, "bf16")
    assert len(kept_in(cache)) == 2


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_large_word_embeddings_are_read_from_their_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    folder = write_xlm_roberta(tmp_path / "m")
    file = folder / "model.safetensors"
    tensors = {name: torch.from_numpy(array) for name, array in load_file(file).items()}
    to = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    save_torch_file({name: tensor.to(to) for name, tensor in tensors.items()}, file)
    mapped = logits(folder)
    monkeypatch.setattr("crossrank.engines.native.LARGE_TABLE", 1)
    assert logits(folder).tolist() == mapped.tolist()
    # And from nowhere else: a file that becomes shorter is an error, not a crash.
    engine = NativeEngine(Checkpoint(folder), precision="fp32", threads=1)
    pack = build_pack(PairEncoder(folder / "tokenizer.json").encode("query", DOCUMENTS))
    with file.open("r+b") as cut:
        cut.truncate(1000)
    with pytest.raises(EngineError, match="word embeddings cannot be read: the file has become shorter"):
        engine.logits(pack)


def test_a_large_table_that_is_overwritten_is_an_error(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossrank.engines.native.LARGE_TABLE", 1)
    folder, other = write_xlm_roberta(tmp_path / "m"), write_xlm_roberta(tmp_path / "other", seed=1)
    file, pack = folder / "model.safetensors", pack_of(folder)
    engine = NativeEngine(Checkpoint(folder), precision="fp32", threads=1)
    expected = engine.logits(pack).tolist()
    # Renaming another file over it is the right way: the engine keeps the old one.
    (other / file.name).replace(tmp_path / "new")
    file.rename(tmp_path / "old")
    (tmp_path / "new").replace(file)
    assert engine.logits(pack).tolist() == expected
    data = bytearray((tmp_path / "old").read_bytes())
    data[-1] ^= 1
    status = (tmp_path / "old").stat()
    with (tmp_path / "old").open("r+b") as out:
        out.write(data)
    os.utime(tmp_path / "old", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(EngineError, match=r"safetensors changed while it was read.*by renaming"):
        engine.logits(pack)
    assert NativeEngine(Checkpoint(folder), precision="fp32", threads=1).logits(pack).tolist() != expected


def test_other_weights_are_not_served_from_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = write_xlm_roberta(tmp_path / "m")
    first = logits(folder)
    write_xlm_roberta(folder, seed=1)
    assert logits(folder).tolist() != first.tolist()
    assert len(kept_in(cache)) == 1  # and the old ones are gone


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "another"])
def test_a_damaged_cache_is_made_anew(
    folder: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = logits(folder)
    [kept] = kept_in(cache)
    whole = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(whole[: len(whole) // 2])
    elif damage == "noise":
        kept.write_bytes(b"\xff" * 1000)
    elif damage == "empty":
        kept.write_bytes(b"")
    else:
        save_file({"something": np.zeros(3, np.float32)}, kept)
    with caplog.at_level(logging.WARNING, "crossrank"):
        assert logits(folder).tolist() == first.tolist()
    assert "made anew" in caplog.text
    assert kept.stat().st_size == len(whole)
    assert len(kept_in(cache)) == 1


def test_without_a_cache_it_runs_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "crossrank"):
        assert np.isfinite(logits(folder)).all()
    assert "cannot be kept" in caplog.text


def change(folder: Path, to: Path, **weights: Any) -> Path:
    to.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    tensors = load_file(folder / "model.safetensors") | weights
    save_file({n: w for n, w in tensors.items() if w is not None}, to / "model.safetensors")
    return to


@pytest.mark.parametrize("bad", [None, np.zeros((3, 3), np.float32), np.full((64, 64), np.nan, np.float32)])
def test_weights_that_are_missing_misshapen_or_nan_are_named(folder: Path, tmp_path: Path, bad: Any) -> None:
    name = "roberta.encoder.layer.1.attention.self.key.weight"
    wrong = change(folder, tmp_path / "m", **{name: bad})
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.self\.key\.weight"):
        NativeEngine(Checkpoint(wrong), precision="fp32")


def test_ids_out_of_range_are_an_error(folder: Path) -> None:
    engine = NativeEngine(Checkpoint(folder), precision="fp32")
    pack = Pack(np.asarray([0, 10**6, 2], np.int32), np.asarray([0, 3], np.int32))
    with pytest.raises(
        InputError, match="pair 0 has the token id 1000000; the model has embeddings for 0 to"
    ):
        engine.logits(pack)


@pytest.mark.parametrize("spaces", range(8))
def test_tensors_may_begin_at_any_byte(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, spaces: int
) -> None:
    """A header of any length is valid, and many older files have one of an odd length."""
    expected = logits(folder)
    moved = change(folder, tmp_path / "m")
    file = moved / "model.safetensors"
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + size].rstrip(b" ")
    header += b" " * (-len(header) % 8 + spaces)
    file.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + size :])
    assert logits(moved).tolist() == expected.tolist()
    assert logits(moved).tolist() == expected.tolist()  # from the cache
    monkeypatch.setattr("crossrank.engines.native.LARGE_TABLE", 1)
    assert logits(moved).tolist() == expected.tolist()  # rows read from the file


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(ValueError, CheckpointError), (RuntimeError, EngineError), (MemoryError, OutOfMemoryError)],
)
@pytest.mark.parametrize("fails", ["prepare_weights", "Engine"])
def test_what_fails_while_loading_is_one_of_crossranks_errors(
    folder: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
    error: type[Exception],
    wanted: type[Exception],
) -> None:
    def fail(*_: object) -> None:
        raise error("no such luck")

    monkeypatch.setattr(_native, fails, fail)
    with pytest.raises(wanted, match=str(folder)):
        NativeEngine(Checkpoint(folder), precision="fp32")


def test_a_wrong_instruction_set_does_not_condemn_the_cache(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logits(folder)
    monkeypatch.setenv("CROSSRANK_ISA", "abacus")
    with pytest.raises(InputError, match="abacus"):
        NativeEngine(Checkpoint(folder), precision="fp32")
    assert not caplog.records


@pytest.mark.parametrize("value", ["Infinity", "NaN", "0", "1.5"])
def test_a_layer_norm_eps_that_makes_all_logits_equal_is_refused(
    folder: Path, tmp_path: Path, cache: Path, value: str
) -> None:
    wrong = change(folder, tmp_path / "m")
    config = wrong / "config.json"
    text = config.read_text()
    changed = text.replace('"layer_norm_eps": 1e-05', f'"layer_norm_eps": {value}')
    assert changed != text
    config.write_text(changed)
    with pytest.raises(CheckpointError, match=r"layer_norm_eps.* is .*; it must be a small positive number"):
        NativeEngine(Checkpoint(wrong), precision="fp32")


def test_a_program_may_end_while_daemon_threads_rank() -> None:
    code = """
import threading
from crossrank import Reranker
reranker = Reranker(threads=2)
started = threading.Barrier(5)
def rank():
    started.wait()
    while True:
        reranker.rank("a query", [f"a document of {i} words " * 5 for i in range(8)])
for _ in range(4):
    threading.Thread(target=rank, daemon=True).start()
started.wait()
reranker.rank("a query", ["a document"])
"""
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_why_a_model_is_left_to_torch(folder: Path, tmp_path: Path) -> None:
    assert why_not(Checkpoint(folder)) == ""
    checkpoint = Checkpoint(folder)
    checkpoint.config["position_embedding_type"] = "relative_key"
    assert "positions" in why_not(checkpoint)
    (tmp_path / "m").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "m" / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"x")
    assert "not safetensors" in why_not(Checkpoint(tmp_path / "m"))


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRANK_NUM_THREADS", "3")
    assert default_threads() == 3
    for wrong in ("many", "0", "4097", "9" * 5000):
        monkeypatch.setenv("CROSSRANK_NUM_THREADS", wrong)
        with pytest.raises(InputError, match=f"CROSSRANK_NUM_THREADS is '{wrong}'"):
            default_threads()
    monkeypatch.delenv("CROSSRANK_NUM_THREADS")
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_where_the_module_is_not_built_it_is_said(folder: Path) -> None:
    code = """
import sys
from dataclasses import replace
sys.modules["crossrank._native"] = None
import crossrank
from crossrank.cli import main
try:
    crossrank.Reranker()
except crossrank.EngineError as error:
    print(error)
sys.argv = ["crossrank", *sys.argv[1:]]
main()
"""
    run = [sys.executable, "-c", code]
    done = subprocess.run([*run, "doctor", "--no-network"], capture_output=True, text=True, check=False)
    assert "the native engine is not built, or cannot be loaded" in done.stdout.splitlines()[0]
    assert "pip install" in done.stdout.splitlines()[0]
    assert done.returncode == 1
    assert "Reranking cannot run here." in done.stdout
    assert done.stderr == ""
    done = subprocess.run([*run, "rank", "q", "d"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the native engine is not built")
    assert done.stderr.count("\n") == 1


def test_an_instruction_set_that_is_not_here_is_a_clear_error(folder: Path) -> None:
    env = os.environ | {"CROSSRANK_ISA": "abacus"}
    command = [sys.executable, "-m", "crossrank", "rank", "q", "d", "--model", str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "abacus" in done.stderr
    assert done.stderr.count("\n") == 1
    assert _native.isa() in _native.isas()
