"""Readers of configs: what is not seen in a model's scores, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from crossrank.errors import CheckpointError
from crossrank.models.architecture import (
    Alibi,
    Architecture,
    Dense,
    Function,
    HeadNorm,
    Learned,
    Source,
    alibi_slopes,
)
from crossrank.models.families import Module, UndescribedError, describe, todays_name

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}
MODERNBERT = {"model_type": "modernbert", **SIZES}
NEW = {"model_type": "new", **SIZES}


def read(config: Mapping[str, Any], names: tuple[str, ...] = (), **options: Any) -> Architecture:
    return describe(config, "config.json", names, options.pop("labels", 1), **options)[0]


def sources(config: Mapping[str, Any], names: tuple[str, ...] = (), labels: int = 1) -> dict[str, Source]:
    return describe(config, "config.json", names, labels)[1]


@pytest.mark.parametrize("family", ["bert", "roberta", "camembert", "electra", "modernbert", "new"])
def test_every_named_tensor_has_a_shape_and_every_weight_a_name(family: str) -> None:
    config = {"model_type": family, **SIZES}
    architecture, named = describe(config, "config.json", (), 1)
    shapes = dict(architecture.shapes())
    assert named.keys() <= shapes.keys()
    assert {name for name in shapes if name.endswith("weight")} <= named.keys()


def test_modernbert_has_local_and_global_layers() -> None:
    old = read(MODERNBERT | {"global_attn_every_n_layers": 3, "local_attention": 128})
    assert old.windows == (None, 64, 64, None)
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert read(MODERNBERT | {"layer_types": kinds}) == old
    thetas = {"full_attention": {"rope_theta": 160000.0}, "sliding_attention": {"rope_theta": 10000.0}}
    assert read(MODERNBERT | {"rope_parameters": thetas}) == old
    assert old.rotary[0] == old.rotary[3] != old.rotary[1] == old.rotary[2]
    assert not old.first_norm
    assert "layer.0.attention_norm.weight" not in sources(MODERNBERT)


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256},
        {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5},
    ],
    ids=["default", "linear", "yarn", "yarn with numbers"],
)
def test_rotary_frequencies_are_those_of_transformers(parameters: dict[str, Any]) -> None:
    found = read(NEW | {"rope_scaling": parameters, "rope_theta": 20000.0}).rotary[0]
    values = {"original_max_position_embeddings": 512, **parameters, "rope_theta": 20000.0}
    config = transformers.LlamaConfig(**SIZES, head_dim=16, rope_parameters=values)
    kind = parameters["rope_type"]
    if kind == "default":
        expected, scale = 1.0 / 20000.0 ** (np.arange(0, 16, 2) / 16), 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        expected = frequencies.numpy()
    np.testing.assert_allclose(found.frequencies, expected, rtol=1e-6)
    assert found.scale == pytest.approx(scale)


def test_gte_scales_its_positions_by_ntk() -> None:
    found = read(NEW | {"rope_scaling": {"type": "ntk", "factor": 8.0}, "rope_theta": 20000.0}).rotary[0]
    plain = 1.0 / (20000.0 * 8.0) ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(found.frequencies, plain / 8.0 ** (2 / 16), rtol=1e-6)


def test_gte_without_a_pooler() -> None:
    assert read(NEW, ("new.encoder.x", "classifier.weight")).head == (Dense(64, 1),)
    assert len(read(NEW, ("new.pooler.dense.weight",)).head) == 3


def test_jinas_models_are_told_by_their_tensors() -> None:
    bert = {"model_type": "bert", "position_embedding_type": "alibi", "feed_forward_type": "geglu", **SIZES}
    jina = read(bert)
    assert (jina.family, jina.gated, jina.max_tokens) == ("JinaBERT", True, 512)
    assert isinstance(jina.positions, Alibi)
    assert sources(bert)["layer.1.gate.weight"] == Source(
        "bert.encoder.layer.1.mlp.gated_layers.weight", 0, 2
    )
    roberta = {"model_type": "xlm-roberta", "type_vocab_size": 1, **SIZES}
    names = ("roberta.encoder.layers.0.mixer.Wqkv.weight",)
    assert read(roberta, names).family == "XLM-RoBERTa (Jina)"
    assert sources(roberta, names)["layer.3.key.bias"] == Source(
        "roberta.encoder.layers.3.mixer.Wqkv.bias", 1, 3
    )
    assert read(roberta).family == "XLM-RoBERTa"


def test_slopes_of_alibi() -> None:
    assert alibi_slopes(8) == tuple(2.0 ** -(i + 1) for i in range(8))
    assert alibi_slopes(12)[:8] == alibi_slopes(8)
    assert alibi_slopes(12)[8:] == tuple(2.0 ** -(i + 0.5) for i in range(4))


def test_positions_after_the_padding() -> None:
    roberta = read({"model_type": "roberta", **SIZES, "pad_token_id": 3})
    assert roberta.positions == Learned(512, 4, 3)
    assert roberta.max_tokens == 508
    assert read({"model_type": "bert", **SIZES, "pad_token_id": 3}).positions == Learned(512)


def test_electra_projects_its_embeddings() -> None:
    small = {"model_type": "electra", **SIZES, "embedding_size": 32}
    assert read(small).embedding == 32
    assert sources(small)["embedding.projection.weight"].name == "electra.embeddings_project.weight"
    assert "embedding.projection.weight" not in sources(small | {"embedding_size": 64})


def test_two_labels_are_the_second_minus_the_first() -> None:
    source = sources({"model_type": "bert", **SIZES}, labels=2)["head.2.weight"]
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    taken = source.take({"classifier.weight": rows})
    np.testing.assert_array_equal(taken, [[4, 4, 4, 4]])
    halves = (rows.view(np.uint32) >> 16).astype(np.uint16)  # bf16, which these are exactly
    np.testing.assert_array_equal(source.take({"classifier.weight": halves}), taken)
    with pytest.raises(ValueError, match="has 1 rows; with two labels it has 2"):
        source.take({"classifier.weight": rows[:1]})


CHAIN = (
    Module("Pooling", "1_Pooling", {"pooling_mode": "mean"}),
    Module("Dense", "2_Dense", {"in_features": 64, "out_features": 32, "bias": False,
                                "activation_function": "torch.nn.modules.activation.GELU"}),
    Module("LayerNorm", "3_LayerNorm", {"dimension": 32}),
    Module("Dense", "4_Dense", {"in_features": 32, "out_features": 1,
                                "activation_function": "torch.nn.modules.linear.Identity"}),
)  # fmt: skip


def test_a_chain_of_modules_is_the_head() -> None:
    architecture, named = describe(MODERNBERT, "config.json", (), 1, CHAIN)
    assert architecture.pooling == "mean"
    assert architecture.head == (Dense(64, 32), Function("gelu"), HeadNorm(32, 1e-5), Dense(32, 1))
    assert named["head.0.weight"].name == "2_Dense/linear.weight"
    assert "head.0.bias" not in named
    assert named["head.2.weight"].name == "3_LayerNorm/norm.weight"
    assert named["head.3.bias"].name == "4_Dense/linear.bias"
    assert not any("head.dense" in source.name for source in named.values())


@pytest.mark.parametrize("old", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}])
def test_older_configs_of_pooling(old: dict[str, bool]) -> None:
    chain = (Module("Pooling", "1_Pooling", old), *CHAIN[1:])
    assert read(MODERNBERT, modules=chain).pooling == "first"


@pytest.mark.parametrize(
    ("config", "modules", "words"),
    [
        ({"model_type": "deberta-v2"}, (), "model_type is deberta-v2"),
        ({"model_type": "bert", **SIZES, "position_embedding_type": "relative_key"}, (), "relative_key"),
        ({"model_type": "bert", **SIZES, "hidden_act": "mish"}, (), "activation is mish"),
        ({"model_type": "bert", **SIZES, "is_decoder": True}, (), "is a decoder"),
        (NEW | {"logn_attention_scale": True}, (), "logn_attention_scale"),
        (NEW | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, (), "scaled by dynamic"),
        (MODERNBERT | {"classifier_pooling": "last"}, (), "pooling is last"),
        (
            MODERNBERT,
            (Module("Pooling", "1_Pooling", {"pooling_mode": "max"}), *CHAIN[1:]),
            "pooling is 'max'",
        ),
        (MODERNBERT, CHAIN[:2], "not a Dense with one output"),
        (MODERNBERT, (Module("Normalize", "5", {}), *CHAIN), "module Normalize"),
    ],
)
def test_what_cannot_be_described_is_named(
    config: dict[str, Any], modules: tuple[Module, ...], words: str
) -> None:
    with pytest.raises(UndescribedError, match=words):
        read(config, modules=modules)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": 64.5}, r"hidden_size is 64\.5; it must be a whole number"),
        ({"num_attention_heads": 3}, "does not divide into 3 heads"),
        ({"num_attention_heads": 64}, "does not divide into 64 heads of an even size"),
        ({"num_hidden_layers": 10**9}, "whole number from 1 to 1000"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0; it must be a small positive number"),
        ({"layer_norm_eps": 2.5}, r"is 2\.5; it must be a small positive number"),
        ({"hidden_act": 3}, "hidden_act is 3; it must be a string"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read({"model_type": "bert", **SIZES, **change})


@pytest.mark.parametrize(
    ("kind", "name", "today"),
    [
        ("bert", "embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
        ("bert", "classifier.weight", "classifier.weight"),
        ("roberta", "encoder.layer.0.output.LayerNorm.beta", "roberta.encoder.layer.0.output.LayerNorm.bias"),
        ("modernbert", "layers.0.attn.Wqkv.weight", "model.layers.0.attn.Wqkv.weight"),
        ("modernbert", "head.dense.weight", "head.dense.weight"),
        ("deberta-v2", "embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
        (None, "x", "x"),
    ],
)
def test_names_of_today(kind: str | None, name: str, today: str) -> None:
    assert todays_name(kind, name) == today
