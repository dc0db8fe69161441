import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from crossrank.checkpoint import BLOCK, Checkpoint
from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models import BUNDLED, resolve
from tests.checkpoints import write_bert, write_xlm_roberta


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_xlm_roberta(tmp_path / "tiny")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_whole_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    assert checkpoint.name == "tiny"
    assert not checkpoint.compressed
    weights = load_file(folder / "model.safetensors")
    assert checkpoint.parameters() == sum(value.size for value in weights.values())


def test_the_window_counts_the_positions_that_are_offset(tmp_path: Path) -> None:
    assert Checkpoint(write_xlm_roberta(tmp_path / "x", positions=514)).max_length == 512
    assert Checkpoint(write_bert(tmp_path / "b", positions=512)).max_length == 512


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        Checkpoint(folder)


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        Checkpoint(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        Checkpoint(folder)


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_weights_that_were_cut_short_are_named(folder: Path, size: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        Checkpoint(folder)


def test_a_bi_encoder_is_refused(folder: Path) -> None:
    change_config(folder, architectures=["XLMRobertaModel"])
    with pytest.raises(UnsupportedModelError, match=r"not a cross-encoder.*XLMRobertaModel"):
        Checkpoint(folder)


def test_more_than_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="has 3 labels"):
        Checkpoint(write_bert(tmp_path / "nli", labels=3))


def test_a_config_that_says_nothing_has_two_labels(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("id2label", "label2id", "num_labels"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="has 2 labels"):
        Checkpoint(folder)


def compressed(folder: Path, **tensors: np.ndarray[Any, Any]) -> Checkpoint:
    change_config(folder, crossrank={"compressed": 1})
    save_file(tensors, folder / "model.safetensors")
    return Checkpoint(folder)


def test_compressed_tensors_are_restored(folder: Path) -> None:
    rng = np.random.default_rng(1)
    int8 = rng.integers(-127, 128, (3, 40)).astype(np.int8)
    rows = rng.random(3).astype(np.float32)
    nibbles = rng.integers(0, 16, (2, 2 * BLOCK)).astype(np.uint8)
    scales = rng.random((2, 2)).astype(np.float16)
    blocks = nibbles.reshape(2, 2, BLOCK)
    int4 = (blocks[:, :, :16] | blocks[:, :, 16:] << 4).reshape(2, BLOCK)
    bias = rng.random(5).astype(np.float32)
    tensors: dict[str, Any] = {"a.int8": int8, "a.scale": rows, "b.int4": int4, "b.scale": scales, "c": bias}
    checkpoint = compressed(folder, **tensors)
    restored = checkpoint.tensors()
    assert set(restored) == {"a", "b", "c"}
    np.testing.assert_array_equal(restored["a"], int8.astype(np.float32) * rows[:, None])
    expected = (blocks.astype(np.float32) - 8) * scales.astype(np.float32)[:, :, None]
    np.testing.assert_array_equal(restored["b"], expected.reshape(2, -1))
    np.testing.assert_array_equal(restored["c"], bias)
    assert checkpoint.parameters() == int8.size + nibbles.size + bias.size


def test_a_missing_scale_is_named(folder: Path) -> None:
    checkpoint = compressed(folder, **{"a.int8": np.ones((2, 4), np.int8)})
    with pytest.raises(CheckpointError, match=r"a\.scale"):
        checkpoint.tensors()


def test_the_bundled_model_is_restored_under_transformers_names() -> None:
    checkpoint = Checkpoint(resolve(BUNDLED))
    assert checkpoint.compressed
    weights = checkpoint.tensors()
    assert weights["bert.embeddings.word_embeddings.weight"].shape == (checkpoint.config["vocab_size"], 384)
    assert weights["classifier.weight"].shape == (1, 384)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in weights.values())
    assert checkpoint.parameters() == sum(value.size for value in weights.values())


def test_a_pickled_checkpoint_is_accepted(folder: Path) -> None:
    weights = {
        name: torch.from_numpy(value) for name, value in load_file(folder / "model.safetensors").items()
    }
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert Checkpoint(folder).weight_files == [folder / "pytorch_model.bin"]
