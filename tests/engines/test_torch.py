import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import crossrank
from crossrank.engines._plain import PlainModel
from crossrank.engines.torch import TorchEngine
from crossrank.errors import (
    CheckpointError,
    EngineError,
    InputError,
    ModelError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import Pack, build_pack
from crossrank.pairs import PairEncoder
from tests.checkpoints import write_bert, write_xlm_roberta


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def engine(folder: Path) -> Any:
    return TorchEngine(Checkpoint(folder))


def pack_of(folder: Path, count: int = 9) -> Pack:
    documents = ["the capital " * i for i in range(count)]
    return build_pack(PairEncoder(folder / "tokenizer.json").encode("中国的首都是哪里？", documents))


def test_an_empty_pack(engine: Any) -> None:
    assert engine.logits(build_pack([])).shape == (0,)


def test_logits_come_in_the_packs_order(folder: Path, engine: Any) -> None:
    pairs = PairEncoder(folder / "tokenizer.json").encode("a", ["b c d", "b", "b c d e f g", "b c"])
    together = engine.logits(build_pack(pairs))
    alone = [engine.logits(build_pack([pair]))[0] for pair in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-4)


class Allocator:
    """Wraps a model; raises as an allocator does where a batch has more than ``room`` pairs."""

    def __init__(self, model: Any, room: int, error: Exception) -> None:
        self.model, self.room, self.error = model, room, error
        self.vocabulary, self.check, self.batches = model.vocabulary, model.check, model.batches
        self.sizes: list[int] = []

    def __call__(self, pack: Pack) -> Any:
        self.sizes.append(len(pack))
        if self.sizes[-1] > self.room:
            raise self.error
        return self.model(pack)


ALLOCATORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 17.7 GB)"),
}


@pytest.mark.parametrize("error", ALLOCATORS.values(), ids=ALLOCATORS)
def test_out_of_memory_halves_the_batch_and_keeps_what_was_finished(
    folder: Path, engine: Any, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    pack = pack_of(folder)
    expected = engine.logits(pack)
    allocator = Allocator(engine._model, 3, error)
    engine._model = allocator
    with caplog.at_level(logging.WARNING, "crossrank"):
        np.testing.assert_allclose(engine.logits(pack), expected, atol=1e-4)
    # No pair that was finished ran again: the batches that fitted are nine pairs in all.
    assert sum(size for size in allocator.sizes if size <= 3) == 9
    assert any("out of memory on cpu with" in record.message for record in caplog.records)


def test_one_pair_that_does_not_fit_is_an_error(folder: Path, engine: Any) -> None:
    engine._model = Allocator(engine._model, 0, ALLOCATORS["cuda"])
    with pytest.raises(OutOfMemoryError, match=r"a pair of \d+ tokens alone.*smaller max_length"):
        engine.logits(pack_of(folder))


def test_the_last_resort_is_the_cpu(folder: Path, engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    pack = pack_of(folder)
    expected = engine.logits(pack)
    engine._model = Allocator(engine._model, 0, ALLOCATORS["cuda"])
    engine._fall_back = True
    with caplog.at_level(logging.WARNING, "crossrank"):
        np.testing.assert_allclose(engine.logits(pack), expected, atol=1e-4)
    assert any("it runs on the CPU" in record.message for record in caplog.records)


def test_a_model_that_does_not_fit_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = torch.nn.Module.to

    def full(self: torch.nn.Module, device: Any, *rest: Any, **options: Any) -> Any:
        if device == "cuda:0":
            raise ALLOCATORS["cuda"]
        return move(self, device, *rest, **options)

    monkeypatch.setattr(torch.nn.Module, "to", full)
    checkpoint = Checkpoint(folder)
    with pytest.raises(OutOfMemoryError, match=r"tiny does not fit into the memory of cuda:0 in fp16"):
        TorchEngine(checkpoint, device="cuda:0", precision="fp16")
    engine = TorchEngine(checkpoint, device="cuda:0", precision="fp16", fall_back_to_cpu=True)
    assert (engine.device, engine.precision) == ("cpu", "fp32")
    assert np.isfinite(engine.logits(pack_of(folder))).all()


def test_another_failure_of_the_device_is_an_engine_error(folder: Path, engine: Any) -> None:
    engine._model = Allocator(engine._model, 0, RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(EngineError, match="cpu failed: CUDA error"):
        engine.logits(pack_of(folder))


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_that_the_model_has_not_is_named_and_harms_nobody_else(
    folder: Path, engine: Any, token: int
) -> None:
    pack = Pack(np.asarray([0, 5, 2, 0, token, 2], np.int32), np.asarray([0, 3, 6], np.int32))
    with pytest.raises(
        InputError, match=f"pair 1 has the token id {token}; the model has embeddings for 0 to"
    ):
        engine.logits(pack)
    assert np.isfinite(engine.logits(pack_of(folder))).all()


@pytest.mark.parametrize("write", [write_xlm_roberta, write_bert])
def test_the_head_is_fp32_whatever_the_precision(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    engine = TorchEngine(Checkpoint(folder), precision="bf16")
    model = engine._model
    assert isinstance(model, PlainModel)
    assert {p.dtype for p in model.head.parameters()} == {torch.float32}
    assert {p.dtype for p in model.layer.parameters()} == {torch.bfloat16}
    exact = TorchEngine(Checkpoint(folder)).logits(pack_of(folder))
    found = engine.logits(pack_of(folder))
    assert np.abs(found - exact).max() < 0.25
    # bf16 logits would lie on a grid of 1/128 between 1 and 2.
    assert not np.allclose(found * 128, np.round(found * 128))


def test_sharded_and_pickled_weights_give_the_same_logits(folder: Path, tmp_path: Path) -> None:
    expected = TorchEngine(Checkpoint(folder)).logits(pack_of(folder))
    weights = load_file(folder / "model.safetensors")
    for kind in ("sharded", "pickled"):
        copy = tmp_path / kind
        copy.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (copy / name).write_bytes((folder / name).read_bytes())
        if kind == "pickled":
            torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, copy / "pytorch_model.bin")
        else:
            half = len(weights) // 2
            names = list(weights)
            parts = {"model-00001-of-00002.safetensors": names[:half]}
            parts["model-00002-of-00002.safetensors"] = names[half:]
            for file, part in parts.items():
                save_file({n: weights[n] for n in part}, copy / file, {"format": "pt"})
            index = {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}
            (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        np.testing.assert_allclose(TorchEngine(Checkpoint(copy)).logits(pack_of(folder)), expected, atol=1e-6)


def copy_with_weights(folder: Path, to: Path, weights: dict[str, Any]) -> Checkpoint:
    to.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return Checkpoint(to)


def test_a_missing_weight_is_an_error_not_a_random_number(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.out_proj.weight")
    with pytest.raises(CheckpointError, match=r"tensor 'classifier\.out_proj\.weight' is missing"):
        TorchEngine(copy_with_weights(folder, tmp_path / "m", weights))


def test_a_weight_of_another_shape_is_an_error(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.dense.weight"] = np.zeros((32, 32), np.float32)
    with pytest.raises(
        CheckpointError, match=r"'classifier\.dense\.weight' is \(32, 32\), and what config\.json says needs"
    ):
        TorchEngine(copy_with_weights(folder, tmp_path / "m", weights))


def test_a_pickle_with_code_is_refused(folder: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "harm"),))

    copy = tmp_path / "m"
    copy.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    torch.save({"classifier.dense.weight": Harmful()}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        TorchEngine(Checkpoint(copy))
    assert not (tmp_path / "harm").exists()


def test_code_in_a_model_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    checkpoint = copy_with_weights(folder, tmp_path / "m", load_file(folder / "model.safetensors"))
    config = checkpoint.config | {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'harm')!r})\n")
    with pytest.raises(UnsupportedModelError, match="cannot load"):
        TorchEngine(Checkpoint(tmp_path / "m"))
    assert not (tmp_path / "harm").exists()


def test_an_unknown_architecture_is_named(folder: Path, tmp_path: Path) -> None:
    checkpoint = copy_with_weights(folder, tmp_path / "m", load_file(folder / "model.safetensors"))
    config = checkpoint.config | {"model_type": "some-new-thing"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="some-new-thing"):
        TorchEngine(Checkpoint(tmp_path / "m"))


def test_tensorflow_is_never_imported(folder: Path, tmp_path: Path) -> None:
    """A TensorFlow and a Keras that fail on import, as Keras 3 without tf-keras does."""
    for package in ("tensorflow", "keras", "tf_keras"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        info = tmp_path / f"{package}-3.0.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 3.0.0\n")
    code = (
        "import sys\n"
        "from crossrank.engines.torch import TorchEngine\n"
        "from crossrank.models.checkpoint import Checkpoint\n"
        f"from pathlib import Path\nTorchEngine(Checkpoint(Path({str(folder)!r})))\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules"
    )
    source = str(Path(crossrank.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), source])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_base_package_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\nimport crossrank, crossrank.cli\n"
        f"crossrank.Reranker({str(folder)!r}).rank('a', ['b'])\n"
        "assert not {'torch', 'transformers', 'modelscope'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [ValueError("no padding"), TypeError("odd"), AssertionError()])
def test_whatever_a_model_raises_is_an_engine_error(folder: Path, engine: Any, error: Exception) -> None:
    engine._model = Allocator(engine._model, 0, error)
    with pytest.raises(EngineError, match="cpu failed: "):
        engine.logits(pack_of(folder))


def test_weights_are_not_served_from_a_map_of_their_file(folder: Path, tmp_path: Path) -> None:
    """Were they, this process would end: the file becomes shorter."""
    copy_with_weights(folder, tmp_path / "m", load_file(folder / "model.safetensors"))
    code = f"""
from pathlib import Path
from crossrank.models.checkpoint import Checkpoint
from crossrank.engines.torch import TorchEngine
from tests.engines.test_torch import pack_of
folder = Path({str(tmp_path / "m")!r})
engine = TorchEngine(Checkpoint(folder))
expected = engine.logits(pack_of(folder))
with (folder / "model.safetensors").open("r+b") as out:
    out.write(b"x" * (folder / "model.safetensors").stat().st_size)
assert (engine.logits(pack_of(folder)) == expected).all()
with (folder / "model.safetensors").open("r+b") as out:
    out.truncate(100)
assert (engine.logits(pack_of(folder)) == expected).all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ODD: list[Any] = [None, True, 0, -1, 1.5, 1e300, 10**30, "x", "", [], [[]], {}, {"a": None}]


def test_no_config_ends_in_anything_but_a_named_error(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = json.loads((folder / "config.json").read_bytes())
    # Dropout and the like matter to transformers; what another engine cannot run comes here too.
    whole |= {"quantization_config": None, "torch_dtype": "float32", "use_cache": True}
    copy = copy_with_weights(folder, tmp_path / "m", load_file(folder / "model.safetensors")).folder
    answered = refused = 0
    for _ in range(60):
        config = dict(whole)
        for name in rng.sample(sorted(whole), rng.choice([1, 1, 2])):
            config[name] = rng.choice(ODD)
        (copy / "config.json").write_text(json.dumps(config))
        try:
            TorchEngine(Checkpoint(copy)).logits(pack_of(folder, 2))
            answered += 1
        except (ModelError, EngineError):
            refused += 1
    assert answered > 1
    assert refused > 5
