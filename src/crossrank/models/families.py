"""The families of models: how each config is read, and which tensor is which.

A reader turns a config into an ``Architecture`` and names the checkpoint's tensor for each canonical one.
Names and formulas are facts of the families' published code: transformers' for BERT, RoBERTa, XLM-RoBERTa,
CamemBERT, DistilBERT, ELECTRA and ModernBERT, sentence-transformers' for chains of modules, and the code in
the repositories Alibaba-NLP/new-impl, jinaai/jina-bert-implementation and
jinaai/xlm-roberta-flash-implementation for gte's and Jina's models.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.architecture import (
    Activation,
    Alibi,
    Architecture,
    Dense,
    Function,
    HeadNorm,
    HeadStep,
    Learned,
    Rotary,
    Source,
    alibi_slopes,
)

__all__ = ["Family", "Module", "UndescribedError", "describe", "todays_name"]

MOST_LAYERS = 1000
"""A config that claims more is damaged; names are made for each layer."""


class UndescribedError(UnsupportedModelError):
    """An ``Architecture`` cannot say what this model does. The message is a clause: "its ... is ..."."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of sentence-transformers' modules.json, after the transformer itself.

    Attributes:
        kind: its class, without the package: "Pooling", "Dense", "LayerNorm".
        path: its folder, with which the names of its tensors begin: "2_Dense/linear.weight".
        config: the object in its config.json; empty if it has none.
    """

    kind: str
    path: str
    config: Mapping[str, Any]


class Config:
    """Fields of a config.json by their types.

    Args:
        values: the object in the file.
        where: the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self._where = where

    def integer(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 30) -> int:
        """A whole number; without a default the field must be there.

        Raises:
            CheckpointError: it is missing, of another type, or out of range.
        """
        if default is None and self.values.get(name) is None:
            raise CheckpointError(f"{self._where} has no {name}")
        wanted = f"a whole number from {least} to {most}"
        return int(self._get(name, default, int, wanted, lambda value: least <= value <= most))

    def number(self, name: str, default: float) -> float:
        """A positive number.

        Raises:
            CheckpointError: it is of another type, or not positive.
        """
        wanted = "a small positive number" if name.endswith("eps") else "a positive number"
        return float(self._get(name, default, (int, float), wanted, lambda value: 0 < value < math.inf))

    def text(self, name: str, default: str) -> str:
        """A string.

        Raises:
            CheckpointError: it is of another type.
        """
        return str(self._get(name, default, str, "a string"))

    def flag(self, name: str, *, default: bool) -> bool:
        """A bool.

        Raises:
            CheckpointError: it is of another type.
        """
        return bool(self._get(name, default, bool, "true or false"))

    def part(self, name: str) -> Config:
        """An object; one without fields if it is not there.

        Raises:
            CheckpointError: it is of another type.
        """
        return Config(self._get(name, {}, dict, "an object"), f"{self._where}: {name}")

    def _get(
        self,
        name: str,
        default: Any,
        kind: type | tuple[type, ...],
        wanted: str,
        is_good: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        """A field's value; the default if it is not there. A bool does not pass for a number."""
        value = self.values.get(name)
        if value is None:
            return default
        if (
            not isinstance(value, kind)
            or (kind is not bool and isinstance(value, bool))
            or not is_good(value)
        ):
            raise CheckpointError(f"{self._where}: {name} is {reprlib.repr(value)}; it must be {wanted}")
        return value


_Sources = dict[str, Source]
_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass
class _Reader:
    """What a family's reader works with.

    Attributes:
        config: the model's.
        names: of the checkpoint's tensors, as transformers calls them today; empty if they are not known.
        labels: of the classifier.
        sources: the canonical tensors that were named so far.
    """

    config: Config
    names: Collection[str]
    labels: int
    sources: _Sources = field(default_factory=dict)

    def name(self, canonical: str, stored: str, *, bias: bool = True, part: int = 0, parts: int = 1) -> None:
        """Say where the weight of a canonical layer is, and its bias."""
        for end in ("weight", "bias") if bias else ("weight",):
            self.sources[f"{canonical}.{end}"] = Source(f"{stored}.{end}", part, parts)

    def names_of(self, layer: int, stored: Mapping[str, str], prefix: str) -> None:
        """The same for some parts of a layer."""
        for canonical, name in stored.items():
            self.name(f"layer.{layer}.{canonical}", prefix + name)

    def packed(self, layer: int, canonical: Sequence[str], stored: str, *, bias: bool = True) -> None:
        """Parts of a layer that a checkpoint has as one matrix, in this order."""
        for part, name in enumerate(canonical):
            self.name(f"layer.{layer}.{name}", stored, bias=bias, part=part, parts=len(canonical))

    def classifier(self, step: int, stored: str, inputs: int) -> Dense:
        """The head's last step. With two labels, the logit is the second minus the first."""
        minus = (1, 0) if self.labels == 2 else None
        for end in ("weight", "bias"):
            self.sources[f"head.{step}.{end}"] = Source(f"{stored}.{end}", minus=minus)
        return Dense(inputs, 1)

    def dense_head(
        self, dense: str, function: Activation, classifier: str, size: int
    ) -> tuple[HeadStep, ...]:
        """A dense layer, a function, a classifier: the head of most families."""
        self.name("head.0", dense)
        return Dense(size, size), Function(function), self.classifier(2, classifier, size)

    def layers(self, name: str = "num_hidden_layers") -> int:
        return self.config.integer(name, most=MOST_LAYERS)

    def heads(self, hidden: int, name: str = "num_attention_heads") -> int:
        heads = self.config.integer(name, most=hidden)
        if hidden % heads or hidden // heads % 2:
            raise CheckpointError(
                f"config.json: a hidden size of {hidden} does not divide into {heads} heads of an even size"
            )
        return heads

    def activation(self, name: str = "hidden_act", default: str = "gelu") -> Activation:
        found = self.config.text(name, default)
        if found not in _ACTIVATIONS:
            raise UndescribedError(f"its activation is {found}")
        return _ACTIVATIONS[found]

    def has(self, pattern: str) -> bool:
        """True if a tensor's name contains this."""
        return any(pattern in name for name in self.names)


def _bert(reader: _Reader) -> Architecture:
    if reader.config.text("position_embedding_type", "absolute") == "alibi" or reader.has(".gated_layers."):
        return _jina_bert(reader)
    architecture = _bert_like(reader, "BERT", "bert.")
    size = architecture.hidden
    return replace(architecture, head=reader.dense_head("bert.pooler.dense", "tanh", "classifier", size))


def _roberta(reader: _Reader) -> Architecture:
    if reader.has(".mixer.Wqkv."):
        return _xlm_roberta_flash(reader)
    kind = {"roberta": "RoBERTa", "camembert": "CamemBERT"}.get(reader.config.text("model_type", ""))
    architecture = _bert_like(reader, kind or "XLM-RoBERTa", "roberta.", padding_id=1)
    size = architecture.hidden
    return replace(
        architecture, head=reader.dense_head("classifier.dense", "tanh", "classifier.out_proj", size)
    )


def _electra(reader: _Reader) -> Architecture:
    architecture = _bert_like(reader, "ELECTRA", "electra.")
    size, embedding = architecture.hidden, reader.config.integer("embedding_size", 128)
    if embedding != size:
        reader.name("embedding.projection", "electra.embeddings_project")
    return replace(
        architecture,
        embedding=embedding,
        head=reader.dense_head("classifier.dense", "gelu", "classifier.out_proj", size),
    )


def _bert_like(reader: _Reader, family: str, prefix: str, padding_id: int | None = None) -> Architecture:
    """BERT's encoder, without its head. ``padding_id`` is the default of RoBERTa's kind."""
    config = reader.config
    found = config.text("position_embedding_type", "absolute")
    if found != "absolute":
        raise UndescribedError(f"its positions are {found} (position_embedding_type)")
    if config.flag("is_decoder", default=False):
        raise UndescribedError("it is a decoder, in which tokens see only those before them")
    hidden, layers = config.integer("hidden_size"), reader.layers()
    positions = _embeddings(reader, f"{prefix}embeddings.", f"{prefix}embeddings.LayerNorm", padding_id)
    for layer in range(layers):
        reader.names_of(layer, _BERT_LAYER, f"{prefix}encoder.layer.{layer}.")
    return Architecture(
        family,
        hidden,
        layers,
        reader.heads(hidden),
        config.integer("intermediate_size"),
        config.integer("vocab_size"),
        hidden,
        positions.rows - positions.first,
        positions,
        (),
        segments=config.integer("type_vocab_size", 2),
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=reader.activation(),
    )


_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


def _embeddings(reader: _Reader, prefix: str, norm: str, padding_id: int | None) -> Learned:
    """Words, positions and segments, and their norm. RoBERTa counts positions after the padding id."""
    for name, stored in (
        ("words", "word_embeddings"),
        ("positions", "position_embeddings"),
        ("segments", "token_type_embeddings"),
    ):
        reader.name(f"embedding.{name}", prefix + stored, bias=False)
    reader.name("embedding.norm", norm)
    rows = reader.config.integer("max_position_embeddings", most=1 << 24)
    if padding_id is None:
        return Learned(rows)
    padding = reader.config.integer("pad_token_id", padding_id, least=0)
    if rows - padding - 1 < 1:
        raise CheckpointError("config.json: max_position_embeddings leaves no room for tokens")
    return Learned(rows, padding + 1, padding)


def _distilbert(reader: _Reader) -> Architecture:
    config = reader.config
    hidden, layers = config.integer("dim"), reader.layers("n_layers")
    embeddings = "distilbert.embeddings."
    reader.name("embedding.words", f"{embeddings}word_embeddings", bias=False)
    reader.name("embedding.positions", f"{embeddings}position_embeddings", bias=False)
    reader.name("embedding.norm", f"{embeddings}LayerNorm")
    stored = {
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    }
    for layer in range(layers):
        reader.names_of(layer, stored, f"distilbert.transformer.layer.{layer}.")
    positions = Learned(config.integer("max_position_embeddings", 512, most=1 << 24))
    return Architecture(
        "DistilBERT",
        hidden,
        layers,
        reader.heads(hidden, "n_heads"),
        config.integer("hidden_dim"),
        config.integer("vocab_size"),
        hidden,
        positions.rows,
        positions,
        reader.dense_head("pre_classifier", "relu", "classifier", hidden),
        activation=reader.activation("activation"),
    )


def _modernbert(reader: _Reader) -> Architecture:
    config = reader.config
    hidden, layers = (
        config.integer("hidden_size", 768),
        config.integer("num_hidden_layers", 22, most=MOST_LAYERS),
    )
    heads = reader.heads(hidden)
    norm_bias = config.flag("norm_bias", default=False)
    attention_bias = config.flag("attention_bias", default=False)
    mlp_bias = config.flag("mlp_bias", default=False)
    reader.name("embedding.words", "model.embeddings.tok_embeddings", bias=False)
    reader.name("embedding.norm", "model.embeddings.norm", bias=norm_bias)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        if layer:
            reader.name(f"layer.{layer}.attention_norm", f"{prefix}attn_norm", bias=norm_bias)
        reader.packed(layer, ("query", "key", "value"), f"{prefix}attn.Wqkv", bias=attention_bias)
        reader.name(f"layer.{layer}.attention_output", f"{prefix}attn.Wo", bias=attention_bias)
        reader.name(f"layer.{layer}.output_norm", f"{prefix}mlp_norm", bias=norm_bias)
        reader.packed(layer, ("gate", "intermediate"), f"{prefix}mlp.Wi", bias=mlp_bias)
        reader.name(f"layer.{layer}.output", f"{prefix}mlp.Wo", bias=mlp_bias)
    reader.name("final_norm", "model.final_norm", bias=norm_bias)
    pooling = config.text("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise UndescribedError(f"its pooling is {pooling}")
    epsilon = config.number("norm_eps", 1e-5)
    reader.name("head.0", "head.dense", bias=config.flag("classifier_bias", default=False))
    reader.name("head.2", "head.norm", bias=norm_bias)
    head = (
        Dense(hidden, hidden),
        Function(reader.activation("classifier_activation")),
        HeadNorm(hidden, epsilon),
        reader.classifier(3, "classifier", hidden),
    )
    local = _modernbert_layers(config, layers)
    kinds = {kind: _modernbert_rotary(config, kind, hidden // heads) for kind in set(local)}
    window = config.integer("local_attention", 128, least=2) // 2
    return Architecture(
        "ModernBERT",
        hidden,
        layers,
        heads,
        config.integer("intermediate_size", 1152),
        config.integer("vocab_size", 50368),
        hidden,
        config.integer("max_position_embeddings", 8192, most=1 << 24),
        None,
        head,
        rotary=tuple(kinds[kind] for kind in local),
        windows=tuple(window if kind else None for kind in local),
        norm_first=True,
        first_norm=False,
        final_norm=True,
        epsilon=epsilon,
        activation=reader.activation("hidden_activation"),
        gated=True,
        pooling="first" if pooling == "cls" else "mean",
    )


def _modernbert_layers(config: Config, layers: int) -> list[bool]:
    """Whether each layer's attention is local."""
    types = config.values.get("layer_types")
    if types is None:
        every = config.integer("global_attn_every_n_layers", 3)
        return [bool(layer % every) for layer in range(layers)]
    known = {"full_attention": False, "sliding_attention": True}
    if not isinstance(types, list) or len(types) != layers or not set(map(str, types)) <= known.keys():
        raise CheckpointError(
            "config.json: layer_types must name full_attention or sliding_attention per layer"
        )
    return [known[str(kind)] for kind in types]


def _modernbert_rotary(config: Config, is_local: bool, size: int) -> Rotary:
    """Today's configs have rope_parameters for each kind of layer, older ones two fields."""
    parameters = config.part("rope_parameters").part("sliding_attention" if is_local else "full_attention")
    theta = config.number("global_rope_theta", 160_000.0)
    if is_local:
        theta = config.number("local_rope_theta", 10_000.0)
    return _rotary(parameters, parameters.number("rope_theta", theta), size, config)


def _new(reader: _Reader) -> Architecture:
    """Models of gte since 2024: model_type "new"."""
    config = reader.config
    hidden, layers = config.integer("hidden_size"), reader.layers()
    heads = reader.heads(hidden)
    found = config.text("position_embedding_type", "rope")
    if found not in ("rope", "absolute"):
        raise UndescribedError(f"its positions are {found} (position_embedding_type)")
    if config.flag("logn_attention_scale", default=False):
        raise UndescribedError("it scales attention by the logarithm of the length (logn_attention_scale)")
    if config.text("layer_norm_type", "layer_norm") != "layer_norm":
        raise UndescribedError(f"its norm is {config.text('layer_norm_type', '')}")
    segments = config.integer("type_vocab_size", 1, least=0)
    rows = config.integer("max_position_embeddings", 2048, most=1 << 24)
    embeddings = "new.embeddings."
    reader.name("embedding.words", f"{embeddings}word_embeddings", bias=False)
    if segments:
        reader.name("embedding.segments", f"{embeddings}token_type_embeddings", bias=False)
    if found == "absolute":
        reader.name("embedding.positions", f"{embeddings}position_embeddings", bias=False)
    reader.name("embedding.norm", f"{embeddings}LayerNorm")
    for layer in range(layers):
        prefix = f"new.encoder.layer.{layer}."
        if config.flag("pack_qkv", default=True):
            reader.packed(layer, ("query", "key", "value"), f"{prefix}attention.qkv_proj")
        else:
            for name in ("query", "key", "value"):
                reader.name(f"layer.{layer}.{name}", f"{prefix}attention.{name[0]}_proj")
        reader.name(f"layer.{layer}.attention_output", f"{prefix}attention.o_proj")
        reader.name(f"layer.{layer}.attention_norm", f"{prefix}attn_ln")
        reader.packed(layer, ("intermediate", "gate"), f"{prefix}mlp.up_gate_proj", bias=False)
        reader.name(f"layer.{layer}.output", f"{prefix}mlp.down_proj")
        reader.name(f"layer.{layer}.output_norm", f"{prefix}mlp_ln")
    head: tuple[HeadStep, ...]
    if reader.names and not reader.has("new.pooler."):
        head = (reader.classifier(0, "classifier", hidden),)
    else:
        head = reader.dense_head("new.pooler.dense", "tanh", "classifier", hidden)
    rotary: tuple[Rotary, ...] = ()
    if found == "rope":
        theta = config.number("rope_theta", 10_000.0)
        rotary = (_rotary(config.part("rope_scaling"), theta, hidden // heads, config),) * layers
    return Architecture(
        "gte (new-impl)",
        hidden,
        layers,
        heads,
        config.integer("intermediate_size"),
        config.integer("vocab_size"),
        hidden,
        rows,
        None if rotary else Learned(rows),
        head,
        rotary=rotary,
        segments=segments,
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=reader.activation(),
        gated=True,
    )


def _jina_bert(reader: _Reader) -> Architecture:
    """Jina's BERT with ALiBi and a gated feed-forward part."""
    config = reader.config
    hidden, layers = config.integer("hidden_size"), reader.layers()
    heads = reader.heads(hidden)
    kind = config.text("feed_forward_type", "original")
    if kind not in ("geglu", "reglu"):
        raise UndescribedError(f"its feed_forward_type is {kind}")
    if reader.has(".layer_norm_q."):
        raise UndescribedError("it normalises queries and keys")
    reader.name("embedding.words", "bert.embeddings.word_embeddings", bias=False)
    reader.name("embedding.segments", "bert.embeddings.token_type_embeddings", bias=False)
    reader.name("embedding.norm", "bert.embeddings.LayerNorm")
    attention = {name: _BERT_LAYER[name] for name in list(_BERT_LAYER)[:5]}
    for layer in range(layers):
        prefix = f"bert.encoder.layer.{layer}."
        reader.names_of(layer, attention, prefix)
        reader.packed(layer, ("gate", "intermediate"), f"{prefix}mlp.gated_layers", bias=False)
        reader.name(f"layer.{layer}.output", f"{prefix}mlp.wo")
        reader.name(f"layer.{layer}.output_norm", f"{prefix}mlp.layernorm")
    return Architecture(
        "JinaBERT",
        hidden,
        layers,
        heads,
        config.integer("intermediate_size"),
        config.integer("vocab_size"),
        hidden,
        config.integer("max_position_embeddings", most=1 << 24),
        Alibi(alibi_slopes(heads)),
        reader.dense_head("bert.pooler.dense", "tanh", "classifier", hidden),
        segments=config.integer("type_vocab_size", 2),
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation="gelu" if kind == "geglu" else "relu",
        gated=True,
    )


def _xlm_roberta_flash(reader: _Reader) -> Architecture:
    """Jina's XLM-RoBERTa, whose layers have the names of the flash-attention library."""
    config = reader.config
    hidden, layers = config.integer("hidden_size"), reader.layers()
    if config.text("position_embedding_type", "absolute") != "absolute":
        raise UndescribedError("its positions are rotary")
    positions = _embeddings(reader, "roberta.embeddings.", "roberta.emb_ln", 1)
    stored = {
        "attention_output": "mixer.out_proj",
        "attention_norm": "norm1",
        "intermediate": "mlp.fc1",
        "output": "mlp.fc2",
        "output_norm": "norm2",
    }
    for layer in range(layers):
        prefix = f"roberta.encoder.layers.{layer}."
        reader.packed(layer, ("query", "key", "value"), f"{prefix}mixer.Wqkv")
        reader.names_of(layer, stored, prefix)
    return Architecture(
        "XLM-RoBERTa (Jina)",
        hidden,
        layers,
        reader.heads(hidden),
        config.integer("intermediate_size"),
        config.integer("vocab_size"),
        hidden,
        positions.rows - positions.first,
        positions,
        reader.dense_head("classifier.dense", "tanh", "classifier.out_proj", hidden),
        segments=config.integer("type_vocab_size", 1),
        epsilon=config.number("layer_norm_eps", 1e-5),
        activation=reader.activation(),
    )


# --- rotary positions ---


def _rotary(parameters: Config, theta: float, size: int, config: Config) -> Rotary:
    """Frequencies of a head of ``size`` values; ``parameters`` is what scales them.

    The formulas are transformers' (modeling_rope_utils) and, for "ntk", those of gte's new-impl, which is
    from https://kexue.fm/archives/9706.
    """
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    if kind == "default":
        return Rotary(_frequencies(theta, exponents))
    factor = parameters.number("factor", 1.0)
    if kind == "linear":
        return Rotary(_frequencies(theta, exponents, factor))
    if kind == "ntk" and parameters.values.get("mixed_b") is None and factor > 1:
        return Rotary(_frequencies(theta * factor, exponents, factor ** (2 / size)))
    if kind == "yarn" and not parameters.values.keys() & {"mscale", "mscale_all_dim"}:
        return _yarn(parameters, theta, size, factor, config)
    raise UndescribedError(f"its rotary positions are scaled by {kind}")


def _frequencies(theta: float, exponents: Any, divisor: float = 1.0) -> tuple[float, ...]:
    found = 1.0 / (np.float32(theta) ** exponents * np.float32(divisor))
    return tuple(float(value) for value in found)


def _yarn(parameters: Config, theta: float, size: int, factor: float, config: Config) -> Rotary:
    """YaRN (arXiv 2309.00071): slow pairs of values are interpolated, fast ones are left as they are."""
    length = parameters.integer(
        "original_max_position_embeddings", config.integer("max_position_embeddings", 8192, most=1 << 24)
    )

    def place(rotations: float) -> float:
        """The pair of values that turns so often within the original length."""
        return size * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = place(parameters.number("beta_fast", 32.0))
    high = place(parameters.number("beta_slow", 1.0))
    if parameters.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / (max(high - low, 0.001)), 0, 1)
    fast = np.asarray(_frequencies(theta, np.arange(0, size, 2, dtype=np.float32) / np.float32(size)))
    mixed = fast / factor * ramp + fast * (1 - ramp)
    scale = parameters.number("attention_factor", 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return Rotary(tuple(float(np.float32(value)) for value in mixed), scale)


# --- chains of modules ---

_MODULE_FUNCTIONS: Mapping[str, Activation | None] = {
    "Identity": None,
    "Tanh": "tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}


def _with_modules(reader: _Reader, architecture: Architecture, modules: Sequence[Module]) -> Architecture:
    """A backbone whose head is a chain of sentence-transformers' modules."""
    for name in [name for name in reader.sources if name.startswith("head.")]:
        del reader.sources[name]
    pooling = "first"
    steps: list[HeadStep] = []
    size = architecture.hidden
    for module in modules:
        config = Config(module.config, f"{module.path}/config.json")
        if module.kind == "Pooling":
            pooling = _module_pooling(config)
        elif module.kind == "Dense":
            if config.flag("use_residual", default=False):
                raise UndescribedError(f"its module {module.path} has a residual connection")
            outputs = config.integer("out_features")
            bias = config.flag("bias", default=True)
            reader.name(f"head.{len(steps)}", f"{module.path}/linear", bias=bias)
            steps.append(Dense(size, outputs))
            size = outputs
            function = config.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[
                2
            ]
            if function not in _MODULE_FUNCTIONS:
                raise UndescribedError(f"its module {module.path} has the activation {function}")
            found = _MODULE_FUNCTIONS[function]
            if found:
                steps.append(Function(found))
        elif module.kind == "LayerNorm":
            reader.name(f"head.{len(steps)}", f"{module.path}/norm")
            steps.append(HeadNorm(size, 1e-5))
        elif module.kind != "Dropout":
            raise UndescribedError(f"its modules.json has the module {module.kind}")
    if not steps or not isinstance(steps[-1], Dense) or size != 1:
        raise UndescribedError("the last module in its modules.json is not a Dense with one output")
    return replace(
        architecture, pooling="first" if pooling == "first" else "mean", head=tuple(steps), labels=1
    )


def _module_pooling(config: Config) -> str:
    """What a Pooling module keeps; older ones have a bool for each mode."""
    mode = config.values.get("pooling_mode")
    if mode is None:
        active = [
            name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for name, value in config.values.items()
            if name.startswith("pooling_mode_") and value is True
        ]
        mode = active[0] if len(active) == 1 else active
    if mode not in ("cls", "mean"):
        raise UndescribedError(f"its pooling is {reprlib.repr(mode)}")
    return "first" if mode == "cls" else "mean"


# --- all of them ---


@dataclass(frozen=True, slots=True)
class Family:
    """How a model_type is read.

    Attributes:
        read: its reader.
        prefix: with which the names of the encoder's tensors begin in a cross-encoder.
        without: how these names begin where a checkpoint lacks the prefix.
    """

    read: Callable[[_Reader], Architecture]
    prefix: str
    without: re.Pattern[str]


_BERT_PARTS = re.compile(r"(embeddings|encoder|pooler|emb_ln)\.")

FAMILIES: Mapping[str, Family] = {
    "bert": Family(_bert, "bert.", _BERT_PARTS),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), Family(_roberta, "roberta.", _BERT_PARTS)),
    "electra": Family(_electra, "electra.", re.compile(r"(embeddings|embeddings_project|encoder)\.")),
    "distilbert": Family(_distilbert, "distilbert.", re.compile(r"(embeddings|transformer)\.")),
    "modernbert": Family(_modernbert, "model.", re.compile(r"(embeddings|layers|final_norm)\.")),
    "new": Family(_new, "new.", _BERT_PARTS),
}

_OLD_NORM = re.compile(r"(LayerNorm\.)(gamma|beta)$")


def todays_name(model_type: str | None, name: str) -> str:
    """The name that the family's code uses today for a tensor of a checkpoint."""
    name = _OLD_NORM.sub(lambda found: found[1] + {"gamma": "weight", "beta": "bias"}[found[2]], name)
    family = FAMILIES.get(model_type or "")
    return family.prefix + name if family and family.without.match(name) else name


def describe(
    values: Mapping[str, Any],
    where: str,
    names: Collection[str],
    labels: int,
    modules: Sequence[Module] = (),
) -> tuple[Architecture, _Sources]:
    """Read a config into an architecture, and name the checkpoint's tensor for each canonical one.

    Args:
        values: the object in config.json.
        where: the file, for messages.
        names: of the checkpoint's tensors, by ``todays_name``; empty if they are not known.
        labels: of the classifier: 1 or 2.
        modules: that follow the transformer, if its head is a chain of them.

    Raises:
        CheckpointError: a field is missing, or of the wrong type.
        UndescribedError: the model does something that an architecture cannot say.
    """
    reader = _Reader(Config(values, where), names, labels)
    kind = reader.config.text("model_type", "")
    family = FAMILIES.get(kind)
    if family is None:
        raise UndescribedError(f"its model_type is {kind or 'missing'}")
    architecture = replace(family.read(reader), labels=labels)
    if not 1e-30 <= architecture.epsilon < 1:
        raise CheckpointError(
            f"{where}: layer_norm_eps (or norm_eps) is {architecture.epsilon:g}; "
            "it must be a small positive number, such as 1e-5"
        )
    if modules:
        architecture = _with_modules(reader, architecture, modules)
    return architecture, reader.sources
