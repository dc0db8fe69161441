"""The same token ids and logits as other libraries give: what they are compared on."""

from pathlib import Path

from crossrank.models.checkpoint import Checkpoint
from crossrank.pairs import EncodedPair, PairEncoder, Truncation
from tests.checkpoints import CORPUS

__all__ = ["PAIRS", "WINDOWS", "encode"]

_ENGLISH, _CHINESE, _ARABIC, _EMOJI = CORPUS[0], CORPUS[7], CORPUS[11], CORPUS[14]
_LONG = " ".join(CORPUS[::2])  # longer than half of the largest window

PAIRS: tuple[tuple[str, str], ...] = (
    ("capital of China", "Beijing"),
    (_ENGLISH, CORPUS[1]),
    ("中国的首都是哪里？", _CHINESE),
    ("大熊猫", "The giant panda is a bear. 🐼"),
    (_ARABIC, CORPUS[12]),
    (_EMOJI, "👩‍🚀 unknown: ᚠᛇᚻ"),
    ("  spaces \t and\nlines ", " more   spaces\r\n\u3000 here  "),
    ("capital of China", _LONG),
    ("中国的首都是哪里？", "".join(CORPUS[7:11]) * 4),
    (_LONG, "Beijing"),
    (_LONG, _CHINESE),
    (_LONG, _LONG),
    (_LONG * 2, _LONG + _LONG[::-1]),
    (_LONG + _CHINESE, _LONG * 2),
    ("", "Beijing is the capital of China."),
    ("capital of China", ""),
    ("", ""),
    ("", _LONG * 2),
    (_LONG * 2, ""),
    ("</s> [SEP] <mask>", "<s> [CLS] </s></s> special tokens in the text [MASK]"),
)
"""Short and long queries and documents, several scripts, empty strings."""

WINDOWS = (20, 33, 127, 512)
"""Small, odd, and the default."""


def encode(
    folder: Path, window: int, truncation: Truncation = "only_second", query_share: float = 0.5
) -> list[EncodedPair]:
    """PAIRS as CrossRank builds them."""
    encoder = PairEncoder(
        Checkpoint(folder).tokenizer_path,
        max_length=window,
        truncation=truncation,
        query_share=query_share,
    )
    return encoder.encode([query for query, _ in PAIRS], [text for _, text in PAIRS])
