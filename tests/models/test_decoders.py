"""Readers of decoders: what is not seen in a model's scores, older configs, and what goes wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from crossrank.errors import CheckpointError
from crossrank.models.architecture import Architecture, Dense, Source
from crossrank.models.families import Module, UndescribedError, describe, todays_name

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
}
KINDS = ("qwen2", "qwen3", "llama", "mistral", "gemma")


def read(kind: str, **changes: Any) -> Architecture:
    return describe({"model_type": kind, **SIZES, **changes}, "config.json", (), 1)[0]


def sources(kind: str, tokens: tuple[int, ...] = (), labels: int = 1, **changes: Any) -> dict[str, Source]:
    config = {"model_type": kind, **SIZES, **changes}
    return describe(config, "config.json", (), labels, tokens=tokens)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_named_tensor_has_a_shape_and_every_weight_a_name(kind: str) -> None:
    shapes = dict(read(kind).shapes())
    named = sources(kind)
    assert named.keys() <= shapes.keys()
    assert {name for name in shapes if name.endswith("weight")} <= named.keys()
    assert not any(name.endswith("norm.bias") for name in shapes)


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_takes_where_a_config_is_silent(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **SIZES)
    found = read(kind)
    assert found.max_tokens == config.max_position_embeddings
    assert found.head_size == (getattr(config, "head_dim", None) or 16)
    assert found.key_value_heads == 2
    assert found.epsilon == config.rms_norm_eps
    assert found.rotary[0].frequencies[1] == pytest.approx(10_000.0 ** (-2 / found.head_size))
    tied = sources(kind, (3,))["head.0.weight"].name == "model.embed_tokens.weight"
    assert tied == config.tie_word_embeddings
    windows = config.sliding_window if kind == "mistral" else None
    assert set(found.windows) == ({windows - 1} if windows else set())


@pytest.mark.parametrize("kind", KINDS)
def test_older_configs_name_rotary_positions_otherwise(kind: str) -> None:
    today = read(kind, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0})
    assert read(kind, rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 4.0}) == today
    assert read(kind, rope_theta=5000.0, rope_scaling=None) == read(kind, rope_theta=5000.0) != today


def test_frequencies_of_llama_3_1_are_those_of_transformers() -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    found = read("llama", head_dim=64, rope_parameters=parameters).rotary[0]
    config = transformers.LlamaConfig(**SIZES, head_dim=64, rope_parameters=parameters)
    frequencies, scale = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    np.testing.assert_allclose(found.frequencies, frequencies.numpy(), rtol=1e-5)
    assert found.scale == scale == 1.0


def test_the_head_is_a_row_or_the_difference_of_two() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    one, two = (sources("qwen3", tokens)["head.0.weight"] for tokens in ((2,), (3, 1)))
    np.testing.assert_array_equal(one.take({"lm_head.weight": rows}), [[4, 5]])
    np.testing.assert_array_equal(two.take({"lm_head.weight": rows}), [[4, 4]])
    halves = (rows.view(np.uint32) >> 16).astype(np.uint16)  # bf16, which these are exactly
    np.testing.assert_array_equal(two.take({"lm_head.weight": halves}), [[4, 4]])
    with pytest.raises(ValueError, match="no row for the token 3"):
        two.take({"lm_head.weight": rows[:3]})
    classifier = sources("qwen3", labels=2)["head.0.weight"]
    np.testing.assert_array_equal(classifier.take({"score.weight": rows[:2]}), [[2, 2]])
    assert read("qwen3").head == (Dense(64, 1),)


def test_gemmas_norms_are_stored_less_one() -> None:
    source = sources("gemma")["layer.0.attention_norm.weight"]
    stored = np.array([0.5, -1.0], np.float32)
    for value in (stored, (stored.view(np.uint32) >> 16).astype(np.uint16)):
        taken = source.take({source.name: value})
        np.testing.assert_array_equal(taken, np.array([1.5, 0.0], np.float32))
    assert read("gemma").embedding_scale == 8.0
    assert read("gemma", hidden_act="gelu").activation == "gelu_tanh"
    assert read("gemma", hidden_activation="gelu_pytorch_tanh", hidden_act="gelu").activation == "gelu_tanh"
    assert not read("gemma", use_bidirectional_attention=True).causal


def test_windows_of_layers() -> None:
    assert read("qwen3", sliding_window=32).windows == ()
    used = read("qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=3)
    assert used.windows == (None, None, None, 31)
    kinds = ["full_attention"] * 3 + ["sliding_attention"]
    assert read("qwen2", use_sliding_window=True, sliding_window=32, layer_types=kinds) == used
    assert read("mistral", sliding_window=None).windows == ()
    assert read("mistral", sliding_window=32).windows == (31,) * 4


def test_a_chain_of_modules_follows_the_last_token() -> None:
    chain = (
        Module("Pooling", "1_Pooling", {"pooling_mode": "lasttoken"}),
        Module("Dense", "2_Dense", {"out_features": 1, "activation_function": "torch.nn.Identity"}),
    )
    architecture, named = describe({"model_type": "qwen3", **SIZES}, "config.json", (), 1, chain)
    assert architecture.pooling == "last"
    assert named["head.0.weight"].name == "2_Dense/linear.weight"


def test_names_of_today() -> None:
    assert todays_name("qwen3", "layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"
    assert todays_name("qwen3", "model.norm.weight") == "model.norm.weight"
    assert todays_name("qwen3", "lm_head.weight") == "lm_head.weight"
    assert todays_name("gemma", "embed_tokens.weight") == "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_key_value_heads": 3}, "4 heads do not divide among 3 key-value heads"),
        ({"head_dim": 15}, "a head's size is 15"),
        ({"rms_norm_eps": 2.5}, "it must be a small positive number"),
        (
            {"use_sliding_window": True, "layer_types": ["full_attention"]},
            "layer_types must name full_attention",
        ),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read("qwen3", **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scaled by dynamic"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "only a part of its heads"),
        ({"hidden_act": "mish"}, "activation is mish"),
    ],
)
def test_what_cannot_be_described_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UndescribedError, match=words):
        read("llama", **changes)
