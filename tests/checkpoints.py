"""Small random checkpoints with tokenizers of their own, in the hub's layout, for tests.

transformers 4 and 5, sentence-transformers and FlagEmbedding all load these folders.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

__all__ = ["CORPUS", "write_bert", "write_xlm_roberta"]

CORPUS = (
    "What is the capital of China? The capital of China is Beijing, a city of many people.",
    "Paris is the capital of France, and London is the capital of England.",
    "The giant panda is a bear that lives in the mountains of central China.",
    "How do I rerank search results? A cross-encoder reads the query and the document together.",
    "The price rose by 12.5% in 2023, from $100 to $112.50, and nobody was surprised.",
    "A long document is cut where the window ends; a short document is read whole.",
    "Tokenizers split words into pieces: rerank, reranker, reranking, ranked, ranking.",
    "中国的首都是哪里？中国的首都是北京。北京是一座有三千多年历史的古都。",
    "大熊猫是中国特有的动物，主要栖息在四川的山区。它们喜欢吃竹子。",
    "如何对搜索结果重新排序？交叉编码器同时读取查询和文档，然后给出分数。",
    "上海是中国最大的城市，人口超过两千万。今天天气很好，我们去公园散步。",
    "ما هي عاصمة الصين؟ عاصمة الصين هي بكين، وهي مدينة كبيرة وقديمة.",
    "القاهرة هي عاصمة مصر، ويعيش فيها ملايين الناس على ضفاف النيل.",
    "كيف أرتب نتائج البحث؟ يقرأ النموذج السؤال والوثيقة معا ثم يعطي درجة.",
    "I love pandas 🐼🐼 and good food 🍜😀! Today is sunny ☀️ and everybody is happy 😀🎉.",
)
"""What the tokenizers are made from; texts made of it have few unknown tokens."""

_PIECES, _LONGEST = 700, 8
_LAST = ("classifier", "classifier.out_proj")


def write_xlm_roberta(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    ffn: int = 128,
    positions: int = 514,
    seed: int = 0,
    labels: int = 1,
) -> Path:
    """Write a random XLMRobertaForSequenceClassification and its tokenizer; returns ``folder``.

    Positions are counted as the config counts them: the longest pair has ``positions - 2`` tokens.
    """
    tokenizer = Tokenizer.from_str(_xlm_roberta_tokenizer())
    config = {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "model_type": "xlm-roberta",
        "vocab_size": tokenizer.get_vocab_size(),
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    config |= _config(layers, hidden, heads, ffn, positions, labels)
    head = {"classifier.dense": (hidden, hidden), "classifier.out_proj": (labels, hidden)}
    _write_model(config, {**_encoder("roberta", config), **head}, folder, seed)
    specials = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    return _write_tokenizer(
        tokenizer, folder, "XLMRobertaTokenizer", {**specials, "mask": "<mask>"}, positions - 2
    )


def write_bert(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    ffn: int = 128,
    positions: int = 512,
    seed: int = 0,
    labels: int = 1,
) -> Path:
    """Write a random BertForSequenceClassification and its tokenizer; returns ``folder``."""
    tokenizer = Tokenizer.from_str(_bert_tokenizer())
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": tokenizer.get_vocab_size(),
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    config |= _config(layers, hidden, heads, ffn, positions, labels)
    head = {"bert.pooler.dense": (hidden, hidden), "classifier": (labels, hidden)}
    _write_model(config, {**_encoder("bert", config), **head}, folder, seed)
    specials = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    return _write_tokenizer(tokenizer, folder, "BertTokenizer", specials, positions)


def _config(layers: int, hidden: int, heads: int, ffn: int, positions: int, labels: int) -> dict[str, Any]:
    """What the configs of both families have, as transformers writes it."""
    names = {str(i): f"LABEL_{i}" for i in range(labels)}
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "max_position_embeddings": positions,
        "hidden_act": "gelu",
        "id2label": names,
        "label2id": {name: int(i) for i, name in names.items()},
    }


def _encoder(prefix: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each part; one number for a norm, two for a matrix."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.embeddings.word_embeddings": (config["vocab_size"], hidden),
        f"{prefix}.embeddings.position_embeddings": (config["max_position_embeddings"], hidden),
        f"{prefix}.embeddings.token_type_embeddings": (config["type_vocab_size"], hidden),
        f"{prefix}.embeddings.LayerNorm": (hidden,),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layer.{i}"
        shapes |= {f"{layer}.attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
        shapes |= {
            f"{layer}.attention.output.dense": (hidden, hidden),
            f"{layer}.attention.output.LayerNorm": (hidden,),
            f"{layer}.intermediate.dense": (ffn, hidden),
            f"{layer}.output.dense": (hidden, ffn),
            f"{layer}.output.LayerNorm": (hidden,),
        }
    return shapes


def _write_model(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], folder: Path, seed: int) -> None:
    """Give every parameter a value that matters, and save.

    transformers' own start (std 0.02, biases 0, norms 1) gives nearly one logit to all pairs, and
    hides an engine that forgets a bias.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    tensors = dict(_tensors(shapes, generator))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _tensors(
    shapes: dict[str, tuple[int, ...]], generator: np.random.Generator
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for name, shape in shapes.items():
        noise = generator.standard_normal(shape, np.float32)
        if name.endswith("LayerNorm"):
            yield f"{name}.weight", 1 + np.float32(0.1) * noise
        elif name.endswith("_embeddings"):
            yield f"{name}.weight", np.float32(0.5) * noise
            continue
        else:
            # What attention brings outweighs the residual: the first token must see the others.
            mixing = name.endswith((".value", "attention.output.dense"))
            gain = 4.0 if mixing or name in _LAST else 1.5
            yield f"{name}.weight", noise * np.float32(gain / math.sqrt(shape[1]))
        yield f"{name}.bias", np.float32(0.1) * generator.standard_normal(shape[:1], np.float32)


def _write_tokenizer(
    tokenizer: Tokenizer, folder: Path, kind: str, specials: dict[str, str], max_length: int
) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": kind, "model_max_length": max_length}
    config |= {f"{name}_token": token for name, token in specials.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def _frequent_pieces(words: Iterable[str]) -> dict[str, int]:
    """Pieces of words and how often they occur: all characters, then the commonest, longest first.

    The trainers of the tokenizers library give another vocabulary in every process.
    """
    counts = Counter(
        word[start:end]
        for word in words
        for start in range(len(word))
        for end in range(start + 1, min(start + _LONGEST, len(word)) + 1)
    )
    order = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece], -len(piece), piece))
    return {piece: counts[piece] for piece in order[:_PIECES]}


@cache
def _xlm_roberta_tokenizer() -> str:
    """XLM-R's tokenizer, small: the same parts and special tokens, without its table of characters."""
    # As in XLM-R's tokenizer.json and in transformers 5, which builds this part itself.
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    words = [word for line in CORPUS for word, _ in split.pre_tokenize_str(line)]
    pieces = _frequent_pieces(words)
    total = sum(pieces.values())
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [(token, 0.0) for token in specials]
    vocabulary += [(piece, math.log(count / total)) for piece, count in pieces.items()]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, ("<mask>", 0.0)], unk_id=3))
    tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens([*specials, "<mask>"])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


@cache
def _bert_tokenizer() -> str:
    """BERT's tokenizer, small."""
    normalizer, split = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = [word for line in CORPUS for word, _ in split.pre_tokenize_str(normalizer.normalize_str(line))]
    pieces = _frequent_pieces(words)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*specials, *pieces, *(f"##{piece}" for piece in pieces)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return str(tokenizer.to_str())
