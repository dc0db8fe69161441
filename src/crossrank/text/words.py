"""Tokenise texts word by word, so that a word seen before is not tokenised again.

The tokenizers library takes one to three microseconds a word, several percent of a fast engine's time. Most
tokenizers of cross-encoders split a text at its spaces, and then a word's tokens do not depend on its
neighbours: a text's tokens are those of its words, one after the other. If a tokenizer or a text might be an
exception, the library gets the whole text.
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
from crossrank.text.unicode import clean

__all__ = ["TokenIds", "WordTokenizer", "library_errors"]

MAX_WORDS = 1 << 17
"""Words that are remembered. So many take about 20 MB."""

WORDS_PER_TASK = 256
"""New words that one of the library's threads tokenises at a time."""

MAX_CHARACTERS = 32
"""Characters of the longest word that is remembered. What is longer is rarely a word, or its language has no
spaces."""

# Normalizers that change a character, with the marks on it, in the same way wherever it stands in a text, or
# that only change a text's ends.
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
# word would begin with the symbol for a space; another symbol might occur within a word.
_BERT = {"type": "BertPreTokenizer"}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_WHITESPACE = {"type": "WhitespaceSplit"}


TokenIds: TypeAlias = npt.NDArray[np.int32]
"""Token ids of a text: int32 (T,), without special tokens."""


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn errors of the tokenizers library within the block, panics included, into CheckpointError.

    Args:
        what: the subject of the message, which begins with it.
    """
    try:
        yield
    except BaseException as error:
        # The library raises plain Exception, and the other three for values that it cannot convert. A panic
        # is not an Exception, and its class cannot be imported.
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
        tokenizer: it must neither truncate nor pad, and must not be changed afterwards.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = [_folded(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        with library_errors("tokenizer.json"):
            reads_words = _reads_words(tokenizer)
        self._by_words = reads_words and not any(" " in content for content in added)
        self._strange = re.compile("|".join(map(re.escape, [" ", *added])))
        # Bytes instead of arrays: a word that is not in the processor's cache costs one access to memory.
        self._known: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, equal to those that the tokenizer gives for the whole text.

        Raises:
            CheckpointError: the tokenizer fails.
        """
        if not self._by_words:
            return self._tokenise_whole(texts)
        found = [self._look_up(text) for text in texts]
        for tokenise in (self._learn, self._tokenise_whole):
            missing = [i for i, ids in enumerate(found) if ids is None]
            if missing:
                for i, ids in zip(missing, tokenise([texts[i] for i in missing]), strict=True):
                    found[i] = ids
        return [ids for ids in found if ids is not None]

    def _tokenise_whole(self, texts: Sequence[str]) -> list[TokenIds]:
        with library_errors("the tokenizer"):
            encodings = self._tokenizer.encode_batch_fast(
                [clean(text) for text in texts], add_special_tokens=False
            )
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _look_up(self, text: str) -> TokenIds | None:
        """Token ids of a text; None if one of its words is unknown."""
        try:
            return np.frombuffer(b"".join(map(self._known.__getitem__, text.split(" "))), np.int32)
        except KeyError:
            return None

    def _learn(self, texts: Sequence[str]) -> list[TokenIds | None]:
        """Learn the words of texts; return the token ids of each text, or None if a word is not plain."""
        new: set[str] = set()
        for text in texts:
            words = set(text.split(" ")).difference(self._known)
            if all(word in new or self._is_plain(word) for word in words):
                new |= words
        if len(self._known) + len(new) > MAX_WORDS:
            self._known = {}  # simpler than evicting the oldest, and as good: common words soon return
        ordered = list(new)
        parts = [ordered[i : i + WORDS_PER_TASK] for i in range(0, len(ordered), WORDS_PER_TASK)]
        # A sequence of words takes half as long as the words one by one.
        with library_errors("the tokenizer"):
            encodings = self._tokenizer.encode_batch(parts, is_pretokenized=True, add_special_tokens=False)
        for part, encoding in zip(parts, encodings, strict=True):
            ids = np.array(encoding.ids, np.int32)
            ends = np.searchsorted(np.array(encoding.word_ids, np.int64), np.arange(len(part)), "right")
            first = 0
            for word, end in zip(part, ends.tolist(), strict=True):
                self._known[word] = ids[first:end].tobytes()
                first = end
        return [self._look_up(text) for text in texts]

    def _is_plain(self, word: str) -> bool:
        """True if the tokenizer certainly reads a word alone as it does between spaces."""
        if not 0 < len(word) <= MAX_CHARACTERS:
            return False  # an empty word comes from two spaces in a row, or from one at an end of the text
        # Four letters decompose to a mark and more; the mark joins the character before it, even a space.
        if (
            not word[0].isascii()
            and unicodedata.category(unicodedata.normalize("NFKD", word[0])[0])[0] == "M"
        ):
            return False
        if not word.isalnum() and not (word.isascii() and word.isprintable()):
            kinds = [unicodedata.category(character) for character in word]
            # Letters, marks, digits, punctuation, and symbols of currencies and mathematics.
            if not all(kind[0] in "LMNP" or kind in ("Sc", "Sm") for kind in kinds):
                return False
        return not self._strange.search(_folded(word))


def _folded(text: str) -> str:
    """A text as folded as any normalizer may make it, in which a space or an added token would show."""
    return unicodedata.normalize("NFKC", text).casefold()


def _reads_words(tokenizer: Tokenizer) -> bool:
    """True if a tokenizer splits a text at its spaces and tokenises each part on its own."""
    if not isinstance(tokenizer.model, Unigram | WordPiece):
        return False
    normalizers = _parts(tokenizer.normalizer, "normalizers")
    split = _parts(tokenizer.pre_tokenizer, "pretokenizers")
    if not all(part["type"] in _NORMALIZERS or _joins_spaces(part) for part in normalizers):
        return False
    return split in ([_BERT], [_METASPACE], [_WHITESPACE, _METASPACE])


def _parts(component: Any, of_sequence: str) -> list[dict[str, Any]]:
    """The components of a normalizer or a pre-tokenizer, as in tokenizer.json."""
    if component is None:
        return []
    state: dict[str, Any] = json.loads(component.__getstate__())
    parts: list[dict[str, Any]] = state[of_sequence] if state["type"] == "Sequence" else [state]
    return parts


def _joins_spaces(part: dict[str, Any]) -> bool:
    """True if a normalizer only replaces several spaces with one."""
    return part["type"] == "Replace" and bool(part["pattern"] == {"Regex": " {2,}"})
