"""Readers of encoders: BERT and its kin, ModernBERT, gte's and Jina's models."""

from __future__ import annotations

from dataclasses import replace

from crossrank.errors import CheckpointError
from crossrank.models.architecture import (
    Alibi,
    Architecture,
    Dense,
    Function,
    HeadNorm,
    HeadStep,
    Learned,
    Match,
    Rotary,
    Source,
    alibi_slopes,
)
from crossrank.models.reader import MOST_LAYERS, Config, Reader, UndescribedError, local_layers
from crossrank.models.rotary import read_rotary

__all__ = ["bert", "distilbert", "electra", "modernbert", "new", "roberta"]


def bert(reader: Reader) -> Architecture:
    if reader.config.text("position_embedding_type", "absolute") == "alibi" or reader.has(".gated_layers."):
        return _jina_bert(reader)
    architecture = _bert_like(reader, "BERT", "bert.")
    head = reader.dense_head("bert.pooler.dense", "tanh", "classifier", architecture.hidden)
    return replace(architecture, head=head, match=_match(reader, architecture.layers))


def _match(reader: Reader, layers: int) -> Match | None:
    """The second part of the logit that CrossRank's own models have; their config describes it."""
    own = reader.config.part("crossrank")
    if "match" not in own.values:
        return None
    match = own.part("match")
    for name in ("match.query", "match.factor"):
        reader.sources[name] = Source(name)
    return Match(match.integer("layer", most=layers - 1), match.integer("separator", least=0))


def roberta(reader: Reader) -> Architecture:
    if reader.has(".mixer.Wqkv."):
        return _xlm_roberta_flash(reader)
    kind = {"roberta": "RoBERTa", "camembert": "CamemBERT"}.get(reader.config.text("model_type", ""))
    architecture = _bert_like(reader, kind or "XLM-RoBERTa", "roberta.", padding_id=1)
    size = architecture.hidden
    return replace(
        architecture, head=reader.dense_head("classifier.dense", "tanh", "classifier.out_proj", size)
    )


def electra(reader: Reader) -> Architecture:
    architecture = _bert_like(reader, "ELECTRA", "electra.")
    size, embedding = architecture.hidden, reader.config.integer("embedding_size", 128)
    if embedding != size:
        reader.name("embedding.projection", "electra.embeddings_project")
    return replace(
        architecture,
        embedding=embedding,
        head=reader.dense_head("classifier.dense", "gelu", "classifier.out_proj", size),
    )


def _bert_like(reader: Reader, family: str, prefix: str, padding_id: int | None = None) -> Architecture:
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


def _embeddings(reader: Reader, prefix: str, norm: str, padding_id: int | None) -> Learned:
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


def distilbert(reader: Reader) -> Architecture:
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


def modernbert(reader: Reader) -> Architecture:
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
    return local_layers(types, layers)


def _modernbert_rotary(config: Config, is_local: bool, size: int) -> Rotary:
    """Today's configs have rope_parameters for each kind of layer, older ones two fields."""
    parameters = config.part("rope_parameters").part("sliding_attention" if is_local else "full_attention")
    theta = config.number("global_rope_theta", 160_000.0)
    if is_local:
        theta = config.number("local_rope_theta", 10_000.0)
    return read_rotary(parameters, parameters.number("rope_theta", theta), size, config)


def new(reader: Reader) -> Architecture:
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
        rotary = (read_rotary(config.part("rope_scaling"), theta, hidden // heads, config),) * layers
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


def _jina_bert(reader: Reader) -> Architecture:
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


def _xlm_roberta_flash(reader: Reader) -> Architecture:
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
