"""Small random decoders with tokenizers of their own, in the hub's layout, for tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

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

# Qwen's rule for splitting texts: contractions, words with the character before them, single digits,
# punctuation, line ends, spaces.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

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
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
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
    values = {"vocab_size": tokenizer.get_vocab_size(), **_SIZES, **changes}
    values = {name: value for name, value in values.items() if value is not None}
    if labels:
        values |= {"num_labels": labels}  # and no pad_token_id: nothing is padded
    config = transformers.AutoConfig.for_model(kind, **values)
    factory: Any = (
        transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    )
    model = factory.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        # Norms must differ from one another, and what attention brings must outweigh the residual.
        if value.ndim == 1:
            value.data += 0.1 * noise
        elif "embed" in name:
            value.data = 0.5 * noise
        else:
            gain = 3.0 if name.endswith(("v_proj.weight", "o_proj.weight")) else 1.5
            value.data = noise * gain / value.shape[1] ** 0.5
    model.save_pretrained(folder)
    return folder


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
