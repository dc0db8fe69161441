"""The models of the contest: what each is, how long its pairs are, and who takes part.

Weights are random, of the published shapes, but for crossrank-mini's: an engine takes the same time for them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

OURS = "CrossRank int8"
REFERENCE = "transformers fp32"

ENCODER_SIDES = (
    OURS,
    "CrossRank bf16",
    "CrossRank fp32",
    REFERENCE,
    "transformers bf16",
    "sentence-transformers torch",
    "sentence-transformers ONNX int8",
    "sentence-transformers OpenVINO int8",
    "ONNX Runtime int8 dynamic",
    "OpenVINO bf16",
    "OpenVINO int8 dynamic",
    "OpenVINO int8 static",
    "CTranslate2 int8",
    "llama.cpp Q8_0",
    "fastembed int8",
    "fastretrieval int8",
)
DECODER_SIDES = (
    OURS,
    "CrossRank int8, nothing shared",
    "CrossRank bf16",
    "CrossRank fp32",
    REFERENCE,
    "transformers bf16",
    "transformers bf16, shared prefix",
    "ONNX Runtime int8 dynamic",
    "OpenVINO bf16",
    "OpenVINO int8 dynamic",
    "OpenVINO int8 static",
    "llama.cpp Q8_0",
    "llama.cpp Q8_0, shared prefix",
    "llama.cpp Q4_K_M",
    "fastretrieval int8",
)


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        write: makes its fp32 checkpoint, given its folder and one for downloads.
        equal: how many pairs there are of each length; of a decoder, how many queries, and the length is the
            document's.
        calibrate: pairs that static quantisation gets.
        sides: names of worker.SIDES.
        decoder: it is asked with Qwen3-Reranker's prompt.
    """

    write: Callable[[Path, Path], None]
    equal: Mapping[int, int]
    calibrate: int = 32
    sides: tuple[str, ...] = ENCODER_SIDES
    decoder: bool = False

    @property
    def cells(self) -> list[str]:
        """Names of its workloads."""
        return [*map(str, self.equal), "mixed"]


def _write_v2_m3(folder: Path, downloads: Path) -> None:
    from benchmarks.v2_m3_shape import write

    write(folder, downloads)
    _write_tokenizer_config(folder, 8192, "<pad>")


# https://huggingface.co/Alibaba-NLP/gte-reranker-modernbert-base, config.json.
MODERNBERT: dict[str, Any] = {
    "architectures": ["ModernBertForSequenceClassification"],
    "model_type": "modernbert",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 50281,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 50281,
    "eos_token_id": 50282,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "label2id": {"LABEL_0": 0},
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "pad_token_id": 50283,
    "sep_token_id": 50282,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": 50368,
}


def _write_modernbert(folder: Path, downloads: Path) -> None:  # noqa: ARG001
    from benchmarks.contest.tokenizers import modernbert_like

    _write_encoder(folder, MODERNBERT)
    modernbert_like(folder / "tokenizer.json", MODERNBERT)
    _write_tokenizer_config(folder, 8192, "[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


# https://huggingface.co/Alibaba-NLP/gte-multilingual-reranker-base, config.json.
GTE_MULTILINGUAL: dict[str, Any] = {
    "architectures": ["NewForSequenceClassification"],
    "model_type": "new",
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {
        "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
        "AutoModelForSequenceClassification": "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification",
    },
    "classifier_dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "max_position_embeddings": 8192,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pack_qkv": True,
    "pad_token_id": 1,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 8.0, "type": "ntk"},
    "rope_theta": 20000,
    "torch_dtype": "float32",
    "type_vocab_size": 1,
    "vocab_size": 250048,
}


def _write_gte_multilingual(folder: Path, downloads: Path) -> None:
    _write_encoder(folder, GTE_MULTILINGUAL)
    write_xlm_roberta_tokenizer(folder, downloads)
    _write_tokenizer_config(folder, 8192, "<pad>")


# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, config.json.
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151669,
}


def _write_qwen3(folder: Path, downloads: Path) -> None:
    from benchmarks.contest.tokenizers import qwen

    hidden, inner, size = QWEN3["hidden_size"], QWEN3["intermediate_size"], QWEN3["head_dim"]
    queries, keys = QWEN3["num_attention_heads"] * size, QWEN3["num_key_value_heads"] * size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (QWEN3["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(QWEN3["num_hidden_layers"]):
        of_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.q_norm": (size,),
            "self_attn.k_norm": (size,),
            "self_attn.o_proj": (hidden, queries),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    write_random(folder, QWEN3, shapes)
    qwen(folder / "tokenizer.json", downloads)
    _write_tokenizer_config(folder, 131072, "<|endoftext|>", eos_token="<|im_end|>", padding_side="left")


def _write_mini(folder: Path, downloads: Path) -> None:  # noqa: ARG001
    from benchmarks.peers import write_uncompressed

    write_uncompressed(folder)


def _write_encoder(folder: Path, config: dict[str, Any]) -> None:
    """Random tensors of all names and shapes that CrossRank reads for a config."""
    from crossrank.models.families import describe

    architecture, sources = describe(config, "config.json", [], labels=1)
    shapes: dict[str, tuple[int, ...]] = {}
    for canonical, shape in architecture.shapes():
        if source := sources.get(canonical):
            shapes[source.name] = (source.parts * shape[0], *shape[1:])
    write_random(folder, config, shapes)


def write_random(folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Norms that change nothing, biases of zero, and matrices so wide that logits differ between pairs.

    transformers' own deviation is 0.02.
    """
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            tensors[name] = (np.zeros if name.endswith("bias") else np.ones)(shape, np.float32)
        else:
            deviation = np.float32(0.5 if "classifier" in name else 0.04)
            tensors[name] = rng.standard_normal(shape, np.float32) * deviation
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, {"format": "pt"})
    partial.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(f"{folder}: {sum(tensor.size for tensor in tensors.values()):,} weights", flush=True)


def write_xlm_roberta_tokenizer(folder: Path, downloads: Path) -> None:
    """The pieces of multilingual-e5-small's tokenizer are XLM-RoBERTa's."""
    from training.fetch import TOKENIZER, fetch

    shutil.copyfile(fetch(*TOKENIZER, downloads), folder / "tokenizer.json")


def _write_tokenizer_config(folder: Path, longest: int, padding: str, **others: str) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "pad_token": padding,
    } | others
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


EQUAL = {32: 128, 128: 64, 512: 16}
MODELS: dict[str, Model] = {
    "v2-m3-shape": Model(_write_v2_m3, EQUAL),
    "crossrank-mini": Model(_write_mini, EQUAL, calibrate=128),
    "modernbert-base-shape": Model(_write_modernbert, EQUAL | {2048: 4}),
    "gte-multilingual-base-shape": Model(_write_gte_multilingual, EQUAL),
    "qwen3-reranker-0.6b-shape": Model(
        _write_qwen3, {32: 64, 128: 32, 512: 16}, sides=DECODER_SIDES, decoder=True
    ),
}
