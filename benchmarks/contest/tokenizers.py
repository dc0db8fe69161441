"""Tokenizers for checkpoints of models whose own are on the hub alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TEXTS = ("xquad/*.json", "drcd/*.json", "cmrc2018/*.json")
"""Files of DATA that byte pairs are learnt from."""

# https://pypi.org/project/dashscope: Qwen's byte pairs, of the first to the third generation.
QWEN_RANKS = ("dashscope", "2.0.2", "dashscope/resources/qwen.tiktoken")
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, tokenizer.json: what is split before byte pairs are joined.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> "
    "<|file_sep|> <tool_response> </tool_response> <think> </think>"
)
QWEN_PLAIN = ("<tool", "</tool", "<|fim", "<|repo", "<|file", "<think", "</think")
"""Beginnings of added tokens that are not special: they stay when ids become text."""


def modernbert_like(path: Path, config: dict[str, Any]) -> None:
    """Byte pairs learnt from the data, and ModernBERT's special tokens at their ids.

    The pieces are others than ModernBERT's, and the texts become about as many tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config["cls_token_id"] - 1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    # Texts may hold fewer pairs than there are ids: the rest has no text.
    learnt = tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken(f"[unused{n}]") for n in range(learnt, config["cls_token_id"] - 1)])
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    cls, sep = config["cls_token_id"], config["sep_token_id"]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    found = [tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]")]
    if found != [cls, sep, config["pad_token_id"]]:
        raise SystemExit(f"the special tokens have other ids than ModernBERT's: {found}")
    tokenizer.save(str(path))


def _texts() -> Iterator[str]:
    for pattern in TEXTS:
        for file in sorted(DATA.glob(pattern)):
            for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
                for paragraph in article["paragraphs"]:
                    yield paragraph["context"]
                    yield from (question["question"] for question in paragraph["qas"])


def qwen(path: Path, downloads: Path) -> None:
    """Qwen3's tokenizer.json, from the ranks of its byte pairs."""
    from tokenizers import AddedToken, Tokenizer, models
    from tokenizers.processors import ByteLevel

    from training.fetch import fetch

    ranks: dict[bytes, int] = {}
    for line in fetch(*QWEN_RANKS, downloads).read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    letters = _letters_of_bytes()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [tuple(text[part] for part in _halves(ranks, token)) for token in ranks if len(token) > 1]
    vocabulary = {text[token]: rank for token, rank in ranks.items()}
    tokenizer = split_as_qwen(Tokenizer(models.BPE(vocabulary, merges)))  # type: ignore[arg-type]
    tokenizer.post_processor = ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    for name in QWEN_SPECIAL.split():
        special = not name.startswith(QWEN_PLAIN)
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add([AddedToken(name, normalized=False, special=special)])
    known = {name: tokenizer.token_to_id(name) for name in ("no", "yes", "<|im_start|>", "</think>")}
    if list(known.values()) != [2152, 9693, 151644, 151668]:
        raise SystemExit(f"the tokens have other ids than Qwen3's: {known}")
    tokenizer.save(str(path))


def split_as_qwen(tokenizer: Tokenizer) -> Tokenizer:
    """A byte-level tokenizer with what Qwen's does to a text before byte pairs are joined; returns it."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _halves(ranks: dict[bytes, int], token: bytes) -> tuple[bytes, bytes]:
    """The two tokens that are joined to make this one."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(parts[i] + parts[i + 1], 1 << 30) for i in range(len(parts) - 1)]
        place = min(range(len(joined)), key=joined.__getitem__)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def _letters_of_bytes() -> list[str]:
    """The letter that byte-level tokenizers write for each byte: printable ones as they are."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


# --- Qwen3-Reranker's prompt: https://github.com/QwenLM/Qwen3-Embedding, README ---

QWEN_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
QWEN_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QWEN_BODY = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"
QWEN_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN_NO, QWEN_YES = 2152, 9693


class Prompts:
    """Token ids of Qwen3-Reranker's whole prompt.

    Args:
        path: a tokenizer.json of Qwen3.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(path))
        self._suffix = self.ids(QWEN_SUFFIX)

    def ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer.encode(text).ids
        return found

    def cut(self, text: str, tokens: int) -> str | None:
        """The beginning of a text that, after a space, has so many tokens; None: there is none."""
        encoding = self._tokenizer.encode(" " + text)
        if len(encoding.ids) < tokens:
            return None
        cut = (" " + text)[: encoding.offsets[tokens - 1][1]].strip()
        return cut if len(self.ids(" " + cut)) == tokens else None

    def pair(self, query: str, document: str, longest: int) -> tuple[list[int], int]:
        """A prompt's ids, and how many come before the document; a document of at most so many tokens."""
        body = QWEN_BODY.format(instruction=QWEN_INSTRUCTION, query=query)
        before = self.ids(QWEN_PREFIX + body)
        return [*before, *self.ids(" " + document)[:longest], *self._suffix], len(before)
