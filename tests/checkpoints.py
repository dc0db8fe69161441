"""Small random checkpoints with tokenizers of their own, in the hub's layout, for tests.

transformers 4 and 5, sentence-transformers and FlagEmbedding all load these folders.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
import transformers
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
_LAST = ("classifier.weight", "out_proj.weight")


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
    config = transformers.XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    config.num_labels = labels
    _write_model(transformers.XLMRobertaForSequenceClassification(config), folder, seed)
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
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=positions,
    )
    config.num_labels = labels
    _write_model(transformers.BertForSequenceClassification(config), folder, seed)
    specials = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    return _write_tokenizer(tokenizer, folder, "BertTokenizer", specials, positions)


def _write_model(model: torch.nn.Module, folder: Path, seed: int) -> None:
    """Give every parameter a value that matters, and save.

    transformers' own start (std 0.02, biases 0, norms 1) gives nearly one logit to all pairs, and
    hides an engine that forgets a bias.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "embeddings" in name:
                parameter.copy_(0.5 * noise)
            else:
                # What attention brings outweighs the residual: the first token must see the others.
                mixing = ".value." in name or "attention.output" in name
                gain = 4.0 if mixing or name.endswith(_LAST) else 1.5
                parameter.copy_(noise * gain / math.sqrt(parameter.shape[1]))
    assert isinstance(model, transformers.PreTrainedModel)
    model.save_pretrained(folder)


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
