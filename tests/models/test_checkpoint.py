import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from crossrank import Reranker
from crossrank.engines.native import why_not
from crossrank.errors import CheckpointError, EngineError, InputError, ModelError, UnsupportedModelError
from crossrank.models.checkpoint import BLOCK, Checkpoint
from crossrank.models.resolve import BUNDLED, resolve
from tests.checkpoints import write_bert, write_xlm_roberta


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_xlm_roberta(tmp_path / "tiny")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_whole_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    assert checkpoint.vocabulary == checkpoint.config["vocab_size"]
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


@pytest.mark.parametrize("labels", [1, 2])
def test_a_config_that_says_nothing_has_the_labels_of_its_classifier(tmp_path: Path, labels: int) -> None:
    folder = write_bert(tmp_path / "m", labels=labels)
    config = json.loads((folder / "config.json").read_text())
    for key in ("id2label", "label2id", "num_labels"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    assert Checkpoint(folder).labels == labels


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


def test_only_compressed_weights_are_restored(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="not compressed"):
        Checkpoint(folder).tensors()


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2)])
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_compressed_tensors_of_odd_shapes_are_named(folder: Path, form: str, shape: tuple[int, ...]) -> None:
    tensors = {f"a.{form}": np.ones(shape, np.int8 if form == "int8" else np.uint8)}
    checkpoint = compressed(folder, **tensors, **{"a.scale": np.ones(2, np.float32)})
    with pytest.raises(CheckpointError, match=r"a\.scale"):
        checkpoint.mapped()


def rewrite(folder: Path, to: Path, change: Callable[[str, Any], tuple[str, Any]]) -> Path:
    """A copy of a checkpoint with other names or types."""
    shutil.copytree(folder, to)
    weights = load_file(folder / "model.safetensors")
    save_file(dict(change(name, value) for name, value in weights.items()), to / "model.safetensors")
    return to


CHANGES: dict[str, Callable[[str, Any], tuple[str, Any]]] = {
    "old norms": lambda name, value: (
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        value,
    ),
    "no prefix": lambda name, value: (name.removeprefix("bert.").removeprefix("roberta."), value),
    "float64": lambda name, value: (name, value.astype(np.float64)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("write", [write_bert, write_xlm_roberta])
def test_what_transformers_loads_is_loaded(write: Any, tmp_path: Path, change: Any) -> None:
    folder = write(tmp_path / "m")
    pairs = [("the capital of France", text) for text in ("Paris", "the panda", "")]
    expected = Reranker(folder, device="cpu", precision="fp32").logits(pairs).tolist()
    odd = Reranker(rewrite(folder, tmp_path / "odd", change), device="cpu", precision="fp32")
    assert odd.engine.name == "native"
    assert odd.logits(pairs).tolist() == expected


def test_a_config_without_architectures(folder: Path, tmp_path: Path) -> None:
    pairs = [("the capital of France", "Paris")]
    expected = Reranker(folder, device="cpu", precision="fp32").logits(pairs).tolist()
    change_config(folder, architectures=None)
    assert Reranker(folder, device="cpu", precision="fp32").logits(pairs).tolist() == expected


def test_shards_of_pytorch(folder: Path) -> None:
    expected = Reranker(folder, device="cpu", precision="fp32").logits([("a", "b")])
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(weights)
    files = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for file, some in files.items():
        torch.save({name: torch.from_numpy(weights[name]) for name in some}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, some in files.items() for name in some}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    reranker = Reranker(folder, device="cpu", precision="fp32")
    assert [path.name for path in Checkpoint(folder).weight_files] == sorted(files)
    np.testing.assert_allclose(reranker.logits([("a", "b")]), expected, atol=1e-4)


def test_a_language_model_is_told_from_an_embedding_model(folder: Path) -> None:
    change_config(folder, architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    with pytest.raises(
        UnsupportedModelError, match=r"names Qwen3ForCausalLM.*a language model ranks by"
    ) as raised:
        Checkpoint(folder)
    assert "embedding" not in str(raised.value)


def test_labels_are_named(folder: Path) -> None:
    change_config(folder, id2label={"0": "contradiction", "1": "entailment", "2": "neutral"})
    with pytest.raises(
        UnsupportedModelError,
        match=r"has 3 labels \(contradiction, entailment, neutral\); a reranker has one",
    ):
        Checkpoint(folder)
    change_config(folder, id2label={"0": "irrelevant", "1": "relevant"})
    with pytest.raises(CheckpointError, match=r"out_proj.weight' has 1 rows; with two labels it has 2"):
        Checkpoint(folder).description.tensors()


def test_a_pointer_of_git_lfs_is_named(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2271071852\n"
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_text(pointer)
        with pytest.raises(CheckpointError, match=rf"{name} is only a git-lfs pointer.*git lfs pull"):
            Checkpoint(folder)


def test_a_fingerprint_is_of_content(folder: Path, tmp_path: Path) -> None:
    first = Checkpoint(folder).fingerprint()
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert Checkpoint(tmp_path / "elsewhere").fingerprint() == first
    change_config(folder, layer_norm_eps=1e-3)
    assert Checkpoint(folder).fingerprint() != first


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    3,
    1.5,
    1e300,
    10**30,
    "",
    "x",
    "\x1b[2J",
    [],
    [[]],
    ["x"],
    [3],
    {},
    {"0": "a"},
    {"a": []},
]


def test_no_config_ends_in_anything_but_a_named_error(folder: Path) -> None:
    rng = random.Random(0)
    whole = json.loads((folder / "config.json").read_bytes()) | {"num_labels": 1, "crossrank": {}}
    answered = refused = 0
    for _ in range(500):
        config = dict(whole)
        for name in rng.sample(sorted(whole), rng.choice([1, 1, 1, 2, 3])):
            config[name] = rng.choice(ODD)
        (folder / "config.json").write_text(json.dumps(config))
        try:
            checkpoint = Checkpoint(folder)
            if not why_not(checkpoint):  # what is left to torch is slow, and has a test of its own
                Reranker(folder, device="cpu", precision="fp32", threads=1).logits([("a", "b")])
            answered += 1
        except (ModelError, EngineError, InputError):
            refused += 1
    assert answered > 50
    assert refused > 50


TEXTS = ["", "[", "[" * 100_000, '{"a":' * 100_000, "null", "3", '"x"', "[]", "\x00", "\ufeff{}", "1" * 5000]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_are_no_config_and_no_index(folder: Path, text: str) -> None:
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        Checkpoint(folder)
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").unlink()
    for odd in (text, '{"weight_map": %s}' % (text or "0")):
        (folder / "model.safetensors.index.json").write_text(odd)
        with pytest.raises(ModelError, match=r"index\.json is damaged"):
            Checkpoint(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_what_is_no_regular_file_is_not_read(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(CheckpointError, match=file):
        Checkpoint(folder)
