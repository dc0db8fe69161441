"""Small random decoders with tokenizers of their own, in the hub's layout, for tests."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from benchmarks.contest.tokenizers import split_as_qwen
from crossrank.models.templates import KNOWN
from tests.checkpoints import CORPUS

__all__ = ["TEXTS", "gemma_tokenizer", "qwen_tokenizer", "write_decoder", "write_sentence_transformer"]

TEXTS = (
    *("Beijing is the capital of China.", "中国的首都是北京。", "12.5%", "I love pandas 🐼!", "👩‍🚀", ""),
    *(
        " leading",
        "  two spaces",
        "trailing ",
        "\nline",
        "\n\nlines\n\n",
        "\ttab",
        "\r\n",
        "\u3000wide",
        "   ",
    ),
    *("'s", "(brackets)", ": colon", "> greater", "...", "\u0301mark", "<|im_end|> and </think> as text"),
)
"""Texts whose ends may be merged with what stands beside them."""

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}


def _texts() -> list[str]:
    prompts = [known.prompt.text("Find the answer") for known in KNOWN]
    return [*CORPUS, *prompts, "\n\n \n\n\n  \n", *["yes no Yes 1 0 yes no Yes"] * 20]


@cache
def qwen_tokenizer() -> str:
    """A byte-level tokenizer with the parts of Qwen's."""
    tokenizer = split_as_qwen(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return str(tokenizer.to_str())


@cache
def gemma_tokenizer() -> str:
    """A tokenizer with the parts of Gemma's: it does not split texts before it merges."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        max_token_length=16,
        show_progress=False,
    )
    # Whole texts would become tokens: Gemma's were trained on words, too.
    tokenizer.train_from_iterator((word for text in _texts() for word in text.split(" ")), trainer)
    return str(tokenizer.to_str())


def write_decoder(folder: Path, kind: str, *, labels: int = 0, seed: int = 0, **changes: Any) -> Path:
    """Write a random decoder and its tokenizer; returns ``folder``.

    Args:
        kind: its model_type.
        labels: of its classifier; 0: it is a language model.
        changes: of its config; None leaves a field out.
    """
    text = gemma_tokenizer() if kind == "gemma" else qwen_tokenizer()
    tokenizer = Tokenizer.from_str(text)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    end = "<eos>" if kind == "gemma" else "<|endoftext|>"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end}
    if kind == "gemma":
        settings["bos_token"] = "<bos>"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    suffix = "ForSequenceClassification" if labels else "ForCausalLM"
    values = {"vocab_size": tokenizer.get_vocab_size(), **_SIZES, **changes}
    config = {name: value for name, value in values.items() if value is not None}
    config |= {"model_type": kind, "architectures": [kind.capitalize() + suffix], "dtype": "float32"}
    if labels:
        names = {str(i): f"LABEL_{i}" for i in range(labels)}
        config |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(seed)
    tensors = {
        name: _values(name, shape, kind, generator) for name, shape in _shapes(kind, config, labels).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _shapes(kind: str, config: dict[str, Any], labels: int) -> dict[str, tuple[int, ...]]:
    """Tensors as transformers calls them."""
    hidden, inner, heads = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    size = config.get("head_dim", hidden // heads)
    wide, narrow = heads * size, config["num_key_value_heads"] * size
    bias = config.get("attention_bias", False)
    biases = {"q": bias or kind == "qwen2", "k": bias or kind == "qwen2", "v": bias or kind == "qwen2"}
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}

    def add(name: str, outputs: int, inputs: int, has_bias: bool) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            found[f"{name}.bias"] = (outputs,)

    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{name}.weight"] = (hidden,)
        for name, outputs in (("q", wide), ("k", narrow), ("v", narrow)):
            add(f"{layer}.self_attn.{name}_proj", outputs, hidden, biases[name])
        add(f"{layer}.self_attn.o_proj", hidden, wide, bias)
        for name in ("q_norm", "k_norm") if kind == "qwen3" else ():
            found[f"{layer}.self_attn.{name}.weight"] = (size,)
        mlp_bias = config.get("mlp_bias", False)
        add(f"{layer}.mlp.gate_proj", inner, hidden, mlp_bias)
        add(f"{layer}.mlp.up_proj", inner, hidden, mlp_bias)
        add(f"{layer}.mlp.down_proj", hidden, inner, mlp_bias)
    found["model.norm.weight"] = (hidden,)
    if labels:
        found["score.weight"] = (labels, hidden)
    elif not config.get("tie_word_embeddings", kind == "gemma"):
        found["lm_head.weight"] = (config["vocab_size"], hidden)
    return found


def _values(
    name: str, shape: tuple[int, ...], kind: str, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Norms differ from one another, and what attention brings outweighs the residual."""
    noise = generator.standard_normal(shape, np.float32)
    if name.endswith("norm.weight"):
        return np.float32(kind != "gemma") + np.float32(0.1) * noise  # Gemma adds the one itself
    if len(shape) == 1:
        return np.float32(0.1) * noise
    if name == "model.embed_tokens.weight":
        return np.float32(0.5) * noise
    gain = 3.0 if name.endswith(("v_proj.weight", "o_proj.weight")) else 1.5
    return noise * np.float32(gain / math.sqrt(shape[1]))


CHAT_TEMPLATE = (
    "<|im_start|>system\nJudge the document.<|im_end|>\n<|im_start|>user\n"
    '<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first '
    '| default("Find the answer") }}\n'
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}'
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def write_sentence_transformer(
    folder: Path,
    *,
    template: str = CHAT_TEMPLATE,
    tokens: tuple[str, ...] = ("yes", "no"),
    prompt: str | None = None,
) -> Path:
    """Make a Qwen model's folder one in sentence-transformers' own form; returns ``folder``."""
    ids = [Tokenizer.from_str(qwen_tokenizer()).token_to_id(token) for token in tokens]
    package = "sentence_transformers"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{package}.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_LogitScore",
            "type": f"{package}.cross_encoder.modules.logit_score.LogitScore",
        },
    ]
    message = {"method": "forward", "method_output_name": "logits", "format": "flat"}
    files: dict[str, Any] = {
        "modules.json": modules,
        "1_LogitScore/config.json": {
            "true_token_id": ids[0],
            "false_token_id": ids[1] if len(ids) == 2 else None,
            "module_input_name": "causal_logits",
        },
        "sentence_bert_config.json": {
            "transformer_task": "text-generation",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "logits"},
                "message": message,
            },
            "module_output_name": "causal_logits",
        },
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.linear.Identity",
            "prompts": {} if prompt is None else {"query": prompt},
            "default_prompt_name": None if prompt is None else "query",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(template)
    return folder
