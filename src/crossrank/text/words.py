"""Texts to token ids, word by word: a word that was seen before is not tokenised again.

The tokenizers library takes one to three microseconds a word, some percent of all that a fast engine does.
Most tokenizers of cross-encoders split a text at its spaces, and then a word's tokens do not depend on its
neighbours: a text's tokens are its words', one after the other. Where that is not certain, of a tokenizer or
of a text, the library gets the whole text.
"""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordPiece

from crossrank.errors import CheckpointError

__all__ = ["TokenIds", "WordTokenizer", "clean", "library_errors"]

_SURROGATE = re.compile("[\ud800-\udfff]")

MOST_WORDS = 1 << 17  # that are remembered, in about 20 MB
WORDS_AT_ONCE = 256  # that are learnt: one thread's share
MOST_CHARACTERS = 32  # of a word; what is longer is hardly one, or of a language that has no spaces

# They change a character, and the marks on it, in the same way wherever it stands in a text; or its ends.
_NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Precompiled",
    "Strip",
    "StripAccents",
}

# The pre-tokenizers of BERT and of SentencePiece models. With another "prepend_scheme", only a text's first
# word would begin with the sign of a space; another sign might stand in a word.
_BERT = {"type": "BertPreTokenizer"}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_WHITESPACE = {"type": "WhitespaceSplit"}


TokenIds: TypeAlias = npt.NDArray[np.int32]
"""int32 (T,), without special tokens."""


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Around calls of the tokenizers library: its errors, panics included, become CheckpointError.

    Args:
        what: the message begins with it.
    """
    try:
        yield
    except BaseException as error:
        # The library raises plain Exception, and these for values that do not convert. A panic is no
        # Exception at all, and has no name to catch it by.
        own = (Exception, ValueError, TypeError, OverflowError)
        if type(error) not in own and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{what} cannot be used: the tokenizers library says: {reason[:300]}; its tokenizer.json is "
            "damaged, or not for this version of the library"
        ) from error


class WordTokenizer:
    """Token ids of texts, without special tokens. Safe to use from several threads.

    Args:
        tokenizer: it neither cuts nor pads, and is not changed any more.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = [_folded(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        with library_errors("tokenizer.json"):
            reads_words = _reads_words(tokenizer)
        self._by_words = reads_words and not any(" " in content for content in added)
        self._strange = re.compile("|".join(map(re.escape, [" ", *added])))
        # Of bytes, and not arrays: a word that is not in the processor's cache costs one look at memory.
        self._known: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text: those that the tokenizer gives it."""
        if not self._by_words:
            return self._whole(texts)
        found = [self._recalled(text) for text in texts]
        for read in (self._learnt, self._whole):
            missing = [i for i, ids in enumerate(found) if ids is None]
            if missing:
                for i, ids in zip(missing, read([texts[i] for i in missing]), strict=True):
                    found[i] = ids
        return [ids for ids in found if ids is not None]

    def _whole(self, texts: Sequence[str]) -> list[TokenIds]:
        with library_errors("the tokenizer"):
            encodings = self._tokenizer.encode_batch_fast(
                [clean(text) for text in texts], add_special_tokens=False
            )
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _recalled(self, text: str) -> TokenIds | None:
        """Token ids of a text, if all its words are known."""
        try:
            return np.frombuffer(b"".join(map(self._known.__getitem__, text.split(" "))), np.int32)
        except KeyError:
            return None

    def _learnt(self, texts: Sequence[str]) -> list[TokenIds | None]:
        """Token ids of each text that has only plain words, which are known from now on."""
        new: set[str] = set()
        for text in texts:
            words = set(text.split(" ")).difference(self._known)
            if all(word in new or self._is_plain(word) for word in words):
                new |= words
        if len(self._known) + len(new) > MOST_WORDS:
            self._known = {}  # simpler than to forget the oldest, and as good: common words are back at once
        ordered = list(new)
        parts = [ordered[i : i + WORDS_AT_ONCE] for i in range(0, len(ordered), WORDS_AT_ONCE)]
        # As one sequence of words: half as dear as each by itself.
        with library_errors("the tokenizer"):
            encodings = self._tokenizer.encode_batch(parts, is_pretokenized=True, add_special_tokens=False)
        for part, encoding in zip(parts, encodings, strict=True):
            ids = np.array(encoding.ids, np.int32)
            ends = np.searchsorted(np.array(encoding.word_ids, np.int64), np.arange(len(part)), "right")
            first = 0
            for word, end in zip(part, ends.tolist(), strict=True):
                self._known[word] = ids[first:end].tobytes()
                first = end
        return [self._recalled(text) for text in texts]

    def _is_plain(self, word: str) -> bool:
        """Whether a tokenizer surely reads a word on its own as it does between spaces."""
        if not 0 < len(word) <= MOST_CHARACTERS:
            return False  # no characters: two spaces in a row, or one at an end
        # Four letters begin with a mark that the character before them takes, be it a space.
        if (
            not word[0].isascii()
            and unicodedata.category(unicodedata.normalize("NFKD", word[0])[0])[0] == "M"
        ):
            return False
        if not word.isalnum() and not (word.isascii() and word.isprintable()):
            kinds = [unicodedata.category(character) for character in word]
            # Letters and digits; marks on them, punctuation, signs of currencies and of mathematics.
            if not all(kind[0] in "LMNP" or kind in ("Sc", "Sm") for kind in kinds):
                return False
        return not self._strange.search(_folded(word))


def clean(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 tokenizer can read, by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def _folded(text: str) -> str:
    """A text as any normalizer may make it, so far as to find a space or an added token in it."""
    return unicodedata.normalize("NFKC", text).casefold()


def _reads_words(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer splits a text at its spaces, and reads each part for itself."""
    if not isinstance(tokenizer.model, Unigram | WordPiece):
        return False
    normalizers = _parts(tokenizer.normalizer, "normalizers")
    split = _parts(tokenizer.pre_tokenizer, "pretokenizers")
    if not all(part["type"] in _NORMALIZERS or _joins_spaces(part) for part in normalizers):
        return False
    return split in ([_BERT], [_METASPACE], [_WHITESPACE, _METASPACE])


def _parts(component: Any, of_sequence: str) -> list[dict[str, Any]]:
    """What a normalizer or a pre-tokenizer consists of, as tokenizer.json has it."""
    if component is None:
        return []
    state: dict[str, Any] = json.loads(component.__getstate__())
    parts: list[dict[str, Any]] = state[of_sequence] if state["type"] == "Sequence" else [state]
    return parts


def _joins_spaces(part: dict[str, Any]) -> bool:
    """Whether a normalizer only makes one space of several."""
    return part["type"] == "Replace" and bool(part["pattern"] == {"Regex": " {2,}"})
