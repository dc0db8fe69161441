"""Random checkpoints of each family: logits are the reference's, on both engines.

The reference is transformers' model, or sentence-transformers' for a chain of modules. The code of gte and
Jina is in their repositories, so theirs is written here in numpy, from the published order of operations, and
reads the checkpoint's own tensors by their own names.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from crossrank import Reranker
from crossrank.engines._plain import PlainModel
from crossrank.engines.native import NativeEngine
from crossrank.engines.torch import TorchEngine
from crossrank.errors import CheckpointError
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import Pack
from tests.checkpoints import write_xlm_roberta

Array = npt.NDArray[np.float64]

SIZE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
CONFIGS: dict[str, Any] = {
    "modernbert": transformers.ModernBertConfig(**SIZE, local_attention=8, pad_token_id=0),
    "modernbert, mean, biases": transformers.ModernBertConfig(
        **SIZE,
        local_attention=8,
        classifier_pooling="mean",
        pad_token_id=0,
        norm_bias=True,
        attention_bias=True,
        mlp_bias=True,
        classifier_bias=True,
    ),
    "electra": transformers.ElectraConfig(**SIZE, embedding_size=32),
    "distilbert": transformers.DistilBertConfig(vocab_size=60, dim=64, n_layers=2, n_heads=4, hidden_dim=96),
    "camembert": transformers.CamembertConfig(**SIZE, pad_token_id=1),
    "bert, relu": transformers.BertConfig(**SIZE, hidden_act="relu"),
    "roberta, tanh gelu": transformers.RobertaConfig(**SIZE, pad_token_id=1, hidden_act="gelu_new"),
}
LENGTHS = (30, 7, 30, 1, 45)


def pack_of(pairs: list[npt.NDArray[np.int32]]) -> Pack:
    return Pack(np.concatenate(pairs), np.cumsum([0, *map(len, pairs)]).astype(np.int32))


def random_pairs() -> list[npt.NDArray[np.int32]]:
    rng = np.random.default_rng(5)
    return [rng.integers(3, 60, length).astype(np.int32) for length in LENGTHS]


def check_engines(folder: Path, pairs: list[npt.NDArray[np.int32]], expected: list[float]) -> None:
    assert np.ptp(expected) > 0.05  # or a constant would do
    checkpoint = Checkpoint(folder)
    native, plain = NativeEngine(checkpoint, precision="fp32", threads=2), TorchEngine(checkpoint)
    assert isinstance(plain._model, PlainModel)
    for engine in (native, plain):
        np.testing.assert_allclose(engine.logits(pack_of(pairs)), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("family", CONFIGS)
def test_transformers(family: str, labels: int, tmp_path: Path) -> None:
    config = CONFIGS[family]
    config.num_labels = labels
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    pairs = random_pairs()
    with torch.inference_mode():
        rows = [model(torch.from_numpy(pair).long()[None]).logits[0] for pair in pairs]
    check_engines(tmp_path, pairs, [float(row[0] if labels == 1 else row[1] - row[0]) for row in rows])


def matched(query: torch.Tensor, document: torch.Tensor, weights: torch.Tensor) -> float:
    """The mean of the query tokens' best cosines, one token after the other."""
    best = [max(float(torch.cosine_similarity(q, d, dim=0)) for d in document) for q in query]
    shares = torch.softmax(query @ weights, 0).tolist()
    return float(np.dot(shares, best))


def test_a_bert_that_compares_tokens_in_the_middle(tmp_path: Path) -> None:
    """CrossRank's own kind of model; the reference is transformers' hidden states."""
    torch.manual_seed(0)
    config_of_one_label: Any = transformers.BertConfig(**SIZE)
    config_of_one_label.num_labels = 1
    model: Any = transformers.BertForSequenceClassification(config_of_one_label).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    weights = 0.1 * torch.randn(model.config.hidden_size)
    tensors = load_file(tmp_path / "model.safetensors")
    own = {"match.query": weights.numpy(), "match.factor": np.array([6.0], np.float32)}
    save_file(tensors | own, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["crossrank"] = {"match": {"layer": 2, "separator": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    pairs = [np.array([0, *pair, 2], np.int32) for pair in ([9, 8, 2, 2, 7, 9], [5, 2, 2, 6], [9, 2, 2], [3])]
    expected = []
    for pair in pairs:
        with torch.inference_mode():
            found = model(torch.from_numpy(pair).long()[None], output_hidden_states=True)
        states, end = found.hidden_states[2][0], pair.tolist().index(2)
        query, document = states[1:end], states[end + 2 : -1]
        part = 6.0 * matched(query, document, weights) if len(document) else 0.0
        expected.append(float(found.logits[0, 0]) + part)
    check_engines(tmp_path, pairs, expected)

    for wrong, message in ((4, "layer is 4"), (0, "layer is 0")):
        config["crossrank"]["match"]["layer"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            _ = Checkpoint(tmp_path).description


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_chain_of_modules(pooling: Any, tmp_path: Path) -> None:
    tokens = write_xlm_roberta(tmp_path / "tokens")
    vocabulary = json.loads((tokens / "config.json").read_text())["vocab_size"]
    torch.manual_seed(1)
    sizes = SIZE | {"vocab_size": vocabulary}
    backbone = transformers.ModernBertModel(
        transformers.ModernBertConfig(**sizes, pad_token_id=1, local_attention=16)
    )
    for parameter in backbone.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    backbone.save_pretrained(tmp_path / "backbone")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokens / name).exists():
            (tmp_path / "backbone" / name).write_bytes((tokens / name).read_bytes())
    transformer = Transformer(str(tmp_path / "backbone"))
    chain = [
        transformer,
        Pooling(64, pooling),
        Dense(64, 32, activation_function=torch.nn.GELU()),
        LayerNorm(32),
        Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    reference = CrossEncoder(modules=chain, activation_fn=torch.nn.Identity())
    reference.save_pretrained(str(tmp_path / "m"))
    assert Checkpoint(tmp_path / "m").parameters() == sum(value.numel() for value in reference.parameters())
    texts = ["Paris", "the capital of China is Beijing", "pandas eat bamboo and live in the mountains " * 5]
    pairs = [("what is the capital of China?", text) for text in texts]
    expected = reference.predict(pairs)
    assert np.ptp(expected) > 0.01
    with Reranker(tmp_path / "m", device="cpu", precision="fp32") as reranker:
        assert reranker.engine.name == "native"
        np.testing.assert_allclose(reranker.logits(pairs), expected, rtol=0, atol=1e-3)


# --- gte and Jina, in numpy ---


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


class Reference:
    """A checkpoint's tensors, and the operations that these families share."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, npt.NDArray[np.float32]]) -> None:
        self.config = config
        self.tensors = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(self, name: str, x: Array) -> Array:
        return np.asarray(x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0.0))

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return np.asarray(scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"])

    def attention(self, q: Array, k: Array, v: Array, *, slopes: Array | None = None) -> Array:
        heads = self.config["num_attention_heads"]
        parts = [x.reshape(len(x), heads, -1).transpose(1, 0, 2) for x in (q, k, v)]
        if slopes is None and "rope_theta" in self.config:
            parts[:2] = [self.turned(x) for x in parts[:2]]
        scores = parts[0] @ parts[1].transpose(0, 2, 1) / math.sqrt(parts[0].shape[-1])
        if slopes is not None:
            places = np.arange(len(q))
            scores = scores - slopes[:, None, None] * np.abs(places[:, None] - places)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.asarray((weights @ parts[2]).transpose(1, 0, 2).reshape(len(q), -1))

    def turned(self, x: Array) -> Array:
        """Rotary positions whose base and frequencies are scaled as gte's "ntk" does."""
        size, factor = x.shape[-1], self.config["rope_scaling"]["factor"]
        frequencies = 1 / (self.config["rope_theta"] * factor) ** (np.arange(0, size, 2) / size)
        angles = np.arange(x.shape[1])[:, None] * (frequencies / factor ** (2 / size))
        low, high = x[..., : size // 2], x[..., size // 2 :]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def gte(reference: Reference, ids: npt.NDArray[np.int32]) -> float:
    t, r = reference.tensors, reference
    x = t["new.embeddings.word_embeddings.weight"][ids] + t["new.embeddings.token_type_embeddings.weight"][0]
    x = r.norm("new.embeddings.LayerNorm", x)
    for layer in range(r.config["num_hidden_layers"]):
        at = f"new.encoder.layer.{layer}."
        q, k, v = np.split(r.linear(f"{at}attention.qkv_proj", x), 3, axis=-1)
        x = r.norm(f"{at}attn_ln", x + r.linear(f"{at}attention.o_proj", r.attention(q, k, v)))
        up, gate = np.split(r.linear(f"{at}mlp.up_gate_proj", x), 2, axis=-1)
        x = r.norm(f"{at}mlp_ln", x + r.linear(f"{at}mlp.down_proj", gelu(gate) * up))
    return float(r.linear("classifier", np.tanh(r.linear("new.pooler.dense", x[0])))[0])


def jina_v1(reference: Reference, ids: npt.NDArray[np.int32]) -> float:
    t, r = reference.tensors, reference
    slopes = np.array([2.0 ** (-8 * (head + 1) / 4) for head in range(4)])
    x = (
        t["bert.embeddings.word_embeddings.weight"][ids]
        + t["bert.embeddings.token_type_embeddings.weight"][0]
    )
    x = r.norm("bert.embeddings.LayerNorm", x)
    for layer in range(r.config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{layer}."
        q, k, v = (r.linear(f"{at}attention.self.{name}", x) for name in ("query", "key", "value"))
        context = r.attention(q, k, v, slopes=slopes)
        x = r.norm(f"{at}attention.output.LayerNorm", x + r.linear(f"{at}attention.output.dense", context))
        gated, plain = np.split(r.linear(f"{at}mlp.gated_layers", x), 2, axis=-1)
        x = r.norm(f"{at}mlp.layernorm", x + r.linear(f"{at}mlp.wo", gelu(gated) * plain))
    return float(r.linear("classifier", np.tanh(r.linear("bert.pooler.dense", x[0])))[0])


def jina_v2(reference: Reference, ids: npt.NDArray[np.int32]) -> float:
    t, r = reference.tensors, reference
    x = t["roberta.embeddings.word_embeddings.weight"][ids]
    x = x + t["roberta.embeddings.position_embeddings.weight"][2 : 2 + len(ids)]
    x = r.norm("roberta.emb_ln", x + t["roberta.embeddings.token_type_embeddings.weight"][0])
    for layer in range(r.config["num_hidden_layers"]):
        at = f"roberta.encoder.layers.{layer}."
        q, k, v = np.split(r.linear(f"{at}mixer.Wqkv", x), 3, axis=-1)
        x = r.norm(f"{at}norm1", x + r.linear(f"{at}mixer.out_proj", r.attention(q, k, v)))
        x = r.norm(f"{at}norm2", x + r.linear(f"{at}mlp.fc2", gelu(r.linear(f"{at}mlp.fc1", x))))
    return float(r.linear("classifier.out_proj", np.tanh(r.linear("classifier.dense", x[0])))[0])


def dense(name: str, outputs: int, inputs: int, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (64,), f"{name}.bias": (64,)}


def gte_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "new.embeddings.word_embeddings.weight": (60, 64),
        "new.embeddings.token_type_embeddings.weight": (1, 64),
    }
    shapes |= (
        norm("new.embeddings.LayerNorm") | dense("new.pooler.dense", 64, 64) | dense("classifier", 1, 64)
    )
    for layer in range(2):
        at = f"new.encoder.layer.{layer}."
        shapes |= dense(f"{at}attention.qkv_proj", 192, 64) | dense(f"{at}attention.o_proj", 64, 64)
        shapes |= dense(f"{at}mlp.up_gate_proj", 192, 64, bias=False) | dense(f"{at}mlp.down_proj", 64, 96)
        shapes |= norm(f"{at}attn_ln") | norm(f"{at}mlp_ln")
    return shapes


def jina_v1_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (60, 64),
        "bert.embeddings.token_type_embeddings.weight": (2, 64),
    }
    shapes |= (
        norm("bert.embeddings.LayerNorm") | dense("bert.pooler.dense", 64, 64) | dense("classifier", 1, 64)
    )
    for layer in range(2):
        at = f"bert.encoder.layer.{layer}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= dense(f"{at}attention.{name}", 64, 64)
        shapes |= dense(f"{at}mlp.gated_layers", 192, 64, bias=False) | dense(f"{at}mlp.wo", 64, 96)
        shapes |= norm(f"{at}attention.output.LayerNorm") | norm(f"{at}mlp.layernorm")
    return shapes


def jina_v2_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "roberta.embeddings.word_embeddings.weight": (60, 64),
        "roberta.embeddings.position_embeddings.weight": (130, 64),
        "roberta.embeddings.token_type_embeddings.weight": (1, 64),
    }
    shapes |= norm("roberta.emb_ln") | dense("classifier.dense", 64, 64) | dense("classifier.out_proj", 1, 64)
    for layer in range(2):
        at = f"roberta.encoder.layers.{layer}."
        shapes |= dense(f"{at}mixer.Wqkv", 192, 64) | dense(f"{at}mixer.out_proj", 64, 64)
        shapes |= dense(f"{at}mlp.fc1", 96, 64) | dense(f"{at}mlp.fc2", 64, 96)
        shapes |= norm(f"{at}norm1") | norm(f"{at}norm2")
    return shapes


def own_code(name: str) -> dict[str, str]:
    return {"AutoModelForSequenceClassification": name}


SMALL: dict[str, Any] = SIZE | {"num_hidden_layers": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
OWN_CODE: dict[str, Any] = {
    # The fields of Alibaba-NLP/gte-multilingual-reranker-base's config that matter, with its values.
    "gte": (
        gte,
        gte_shapes,
        SMALL
        | {
            "architectures": ["NewForSequenceClassification"],
            "model_type": "new",
            "id2label": {"0": "LABEL_0"},
            "auto_map": own_code("Alibaba-NLP/new-impl--modeling.NewForSequenceClassification"),
            "max_position_embeddings": 128,
            "pack_qkv": True,
            "position_embedding_type": "rope",
            "rope_theta": 20000,
            "rope_scaling": {"factor": 8.0, "type": "ntk"},
            "type_vocab_size": 1,
            "logn_attention_scale": False,
            "layer_norm_type": "layer_norm",
        },
    ),
    # jinaai/jina-reranker-v1-tiny-en: it names another class, and no labels.
    "jina v1": (
        jina_v1,
        jina_v1_shapes,
        SMALL
        | {
            "architectures": ["JinaBertForMaskedLM"],
            "model_type": "bert",
            "type_vocab_size": 2,
            "auto_map": own_code(
                "jinaai/jina-bert-implementation--modeling_bert.JinaBertForSequenceClassification"
            ),
            "feed_forward_type": "geglu",
            "emb_pooler": "mean",
            "position_embedding_type": "alibi",
            "max_position_embeddings": 8192,
            "attn_implementation": None,
        },
    ),
    # jinaai/jina-reranker-v2-base-multilingual.
    "jina v2": (
        jina_v2,
        jina_v2_shapes,
        SMALL
        | {
            "architectures": ["XLMRobertaForSequenceClassification"],
            "model_type": "xlm-roberta",
            "pad_token_id": 1,
            "auto_map": own_code("jinaai/xlm-roberta-flash-implementation--modeling_xlm_roberta.X"),
            "max_position_embeddings": 130,
            "position_embedding_type": "absolute",
            "type_vocab_size": 1,
            "id2label": {"0": "LABEL_0"},
            "layer_norm_eps": 1e-5,
        },
    ),
}


@pytest.mark.parametrize("name", OWN_CODE)
def test_models_whose_code_is_in_their_repository(name: str, tmp_path: Path) -> None:
    score, shapes, config = OWN_CODE[name]
    rng = np.random.default_rng(3)
    tensors = {
        key: (rng.normal(0, 0.2, shape) + (key.endswith("weight") and len(shape) == 1)).astype(np.float32)
        for key, shape in shapes().items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    pairs = random_pairs()
    reference = Reference(config, load_file(tmp_path / "model.safetensors"))
    check_engines(tmp_path, pairs, [score(reference, pair) for pair in pairs])
