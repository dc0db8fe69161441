"""Readers of decoders: Qwen2, Qwen3, Llama, Mistral and Gemma, whose tokens see only those before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from crossrank.errors import CheckpointError
from crossrank.models.architecture import Activation, Architecture, Dense, Source
from crossrank.models.reader import Reader, UndescribedError, local_layers
from crossrank.models.rotary import read_rotary

__all__ = ["DECODERS", "gemma", "llama", "mistral", "qwen2", "qwen3"]

DECODERS = ("qwen2", "qwen3", "llama", "mistral", "gemma")
"""Values of model_type."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How families differ.

    Attributes:
        name: for messages.
        max_tokens: unless the config says another number.
        head_size: the same; 0: what the hidden size divided by the heads is.
        tied: the output embedding is the word embedding, unless the config says otherwise.
        biases: of queries, keys and values, and of attention's output.
        mlp_bias: of the feed-forward part.
        plus: is added to the weights of norms.
    """

    name: str
    max_tokens: int
    head_size: int = 0
    tied: bool = False
    biases: tuple[bool, bool] = (False, False)
    mlp_bias: bool = False
    plus: float = 0.0


def qwen2(reader: Reader) -> Architecture:
    kind = _Kind("Qwen2", 32768, biases=(True, False))
    return replace(_decoder(reader, kind), windows=_qwen_windows(reader))


def qwen3(reader: Reader) -> Architecture:
    bias = reader.config.flag("attention_bias", default=False)
    architecture = _decoder(reader, _Kind("Qwen3", 32768, head_size=128, biases=(bias, bias)))
    for layer in range(architecture.layers):
        for name in ("query", "key"):
            stored = f"model.layers.{layer}.self_attn.{name[0]}_norm"
            reader.name(f"layer.{layer}.{name}_norm", stored, bias=False)
    return replace(architecture, head_norms=True, windows=_qwen_windows(reader))


def llama(reader: Reader) -> Architecture:
    bias = reader.config.flag("attention_bias", default=False)
    mlp_bias = reader.config.flag("mlp_bias", default=False)
    return _decoder(reader, _Kind("Llama", 2048, biases=(bias, bias), mlp_bias=mlp_bias))


def mistral(reader: Reader) -> Architecture:
    architecture = _decoder(reader, _Kind("Mistral", 131072))
    # null is no window, and nothing is transformers' default.
    if "sliding_window" in reader.config.values and reader.config.values["sliding_window"] is None:
        return architecture
    window = reader.config.integer("sliding_window", 4096)
    return replace(architecture, windows=(window - 1,) * architecture.layers)


def gemma(reader: Reader) -> Architecture:
    config = reader.config
    bias = config.flag("attention_bias", default=False)
    kind = _Kind("Gemma", 8192, head_size=256, tied=True, biases=(bias, bias), plus=1.0)
    # The first releases say "gelu" and mean its approximation by tanh.
    field = "hidden_act" if config.values.get("hidden_activation") is None else "hidden_activation"
    activation = reader.activation(field, "gelu_pytorch_tanh")
    architecture = _decoder(reader, kind, "gelu_tanh" if activation == "gelu" else activation)
    return replace(
        architecture,
        embedding_scale=architecture.hidden**0.5,
        causal=not config.flag("use_bidirectional_attention", default=False),
    )


def _decoder(reader: Reader, kind: _Kind, activation: Activation | None = None) -> Architecture:
    config = reader.config
    hidden = config.integer("hidden_size")
    layers = reader.layers()
    heads = config.integer("num_attention_heads", most=1 << 16)
    narrow = config.integer("num_key_value_heads", heads, most=heads)
    size = config.integer("head_dim", kind.head_size or hidden // heads)
    if heads % narrow:
        raise CheckpointError(
            f"config.json: {heads} heads do not divide among {narrow} key-value heads (num_key_value_heads)"
        )
    if size % 2:
        raise CheckpointError(f"config.json: a head's size is {size} (head_dim); it must be even")
    _name_tensors(reader, kind, layers)
    parameters = config.part("rope_parameters")
    if not parameters.values:
        parameters = config.part("rope_scaling")
    if parameters.number("partial_rotary_factor", 1.0) != 1.0:
        raise UndescribedError("only a part of its heads has rotary positions (partial_rotary_factor)")
    theta = parameters.number("rope_theta", config.number("rope_theta", 10_000.0))
    rotary = read_rotary(parameters, theta, size, config)
    return Architecture(
        kind.name,
        hidden,
        layers,
        heads,
        config.integer("intermediate_size"),
        config.integer("vocab_size"),
        hidden,
        config.integer("max_position_embeddings", kind.max_tokens, most=1 << 24),
        None,
        _head(reader, kind, hidden),
        rotary=(rotary,) * layers,
        embedding_norm=False,
        norm_first=True,
        final_norm=True,
        epsilon=config.number("rms_norm_eps", 1e-6),
        activation=activation or reader.activation("hidden_act", "silu"),
        gated=True,
        pooling="last",
        norm="rms",
        head_size=size,
        key_value_heads=narrow,
        causal=True,
    )


_ATTENTION: Mapping[str, str] = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
_MLP: Mapping[str, str] = {"gate": "gate_proj", "intermediate": "up_proj", "output": "down_proj"}


def _name_tensors(reader: Reader, kind: _Kind, layers: int) -> None:
    def name_norm(canonical: str, stored: str) -> None:
        reader.sources[f"{canonical}.weight"] = Source(f"{stored}.weight", plus=kind.plus)

    reader.name("embedding.words", "model.embed_tokens", bias=False)
    for layer in range(layers):
        at, prefix = f"layer.{layer}", f"model.layers.{layer}"
        reader.names_of(layer, _ATTENTION, f"{prefix}.self_attn.", bias=kind.biases[0])
        reader.name(f"{at}.attention_output", f"{prefix}.self_attn.o_proj", bias=kind.biases[1])
        reader.names_of(layer, _MLP, f"{prefix}.mlp.", bias=kind.mlp_bias)
        name_norm(f"{at}.attention_norm", f"{prefix}.input_layernorm")
        name_norm(f"{at}.output_norm", f"{prefix}.post_attention_layernorm")
    name_norm("final_norm", "model.norm")


def _head(reader: Reader, kind: _Kind, hidden: int) -> tuple[Dense]:
    """A row of the output embedding or the difference of two, or a classifier."""
    if reader.tokens:
        tied = reader.config.flag("tie_word_embeddings", default=kind.tied)
        table = "model.embed_tokens.weight" if tied else "lm_head.weight"
        reader.sources["head.0.weight"] = Source(table, tokens=reader.tokens)
        return (Dense(hidden, 1),)
    return (reader.classifier(0, "score", hidden, bias=False),)


def _qwen_windows(reader: Reader) -> tuple[int | None, ...]:
    """The largest distance in each layer: transformers' window of W tokens contains the token itself."""
    config = reader.config
    layers = reader.layers()
    if not config.flag("use_sliding_window", default=False):
        return ()
    window = config.integer("sliding_window", 4096)
    types = config.values.get("layer_types")
    if types is None:
        first = config.integer("max_window_layers", 28, least=0)
        return tuple(window - 1 if layer >= first else None for layer in range(layers))
    return tuple(window - 1 if local else None for local in local_layers(types, layers))
