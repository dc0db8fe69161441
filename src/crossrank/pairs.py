"""Text to token ids: a query and a document become one sequence, as the model was trained on it.

Only this module knows about special tokens, truncation and windows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer
from tokenizers.models import Unigram

from crossrank.errors import CheckpointError, InputError, TooLongError
from crossrank.inputs import check_number
from crossrank.models.files import check_no_pointer
from crossrank.text.unicode import clean
from crossrank.text.words import TokenIds, WordTokenizer, library_errors

__all__ = ["WHOLE_WINDOW", "Cut", "EncodedPair", "EncodedQuery", "PairEncoder", "Side", "Truncation"]

Truncation = Literal["only_second", "longest_first"]
Side = Literal["right", "left"]

_END, _LONGER_END = 12, 6
"""Characters of a long text that are tokenised first, per token of the window. A token has up to five in most
languages, so this is usually enough; if it is not, ``_LONGER_END`` times as many are read."""

_Tokens = TypeVar("_Tokens", TokenIds, Encoding)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """One query and one document as the model reads them.

    Attributes:
        token_ids: int32 (T,), special tokens included.
        segment_ids: int32 (T,), 0 for the query and 1 for the document, or None where the
            tokenizer does not tell them apart.
        truncated: whether the document was cut to fit.
        query_truncated: whether the query was cut to fit. With ``longest_first`` that depends on the
            document, too.
    """

    token_ids: npt.NDArray[np.int32]
    segment_ids: npt.NDArray[np.int32] | None
    truncated: bool
    query_truncated: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query, tokenised once for all the documents that it is joined to.

    Attributes:
        token_ids: int32 (T,), without special tokens; of a very long query only the start.
        min_tokens: how many tokens it has; of a very long query, at least so many.
    """

    token_ids: TokenIds
    min_tokens: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Per-call truncation limits, on top of the encoder's own.

    Attributes:
        side: which end of a document is cut.
        document: max tokens of a document; None leaves it to the window.
        query: max tokens of a query, which is always cut at its end; None leaves it to the window.
        pair: max tokens of a pair, special tokens included, if fewer than the encoder's.
        allowed: if False, a pair that the window would cut raises TooLongError.
    """

    side: Side = "right"
    document: int | None = None
    query: int | None = None
    pair: int | None = None
    allowed: bool = True


WHOLE_WINDOW = Cut()
"""Only the encoder's window cuts."""


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens around a pair, the segment of each of the five parts, and how many are special."""

    before: TokenIds
    between: TokenIds
    after: TokenIds
    segments: tuple[list[int], int, list[int], int, list[int]]
    size: int


def _read_template(tokenizer: Tokenizer) -> _Template:
    """Find the pair template by encoding one pair: it works for every kind of post-processor.

    Raises:
        CheckpointError: there is none, or it is not a query before a document, each whole and once.
    """
    with library_errors("tokenizer.json"):
        encoding = tokenizer.encode("a", "b")
        alone = [tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "b")]
    parts = encoding.sequence_ids  # None for a special token, 0 for the query, 1 for the document
    if 0 not in parts or 1 not in parts:
        raise CheckpointError("tokenizer.json reads no tokens from the letters 'a' and 'b': it is damaged")
    if None not in parts:
        raise CheckpointError(
            "tokenizer.json has no template for pairs (its post_processor adds no special tokens): a query "
            "and a document would run into one another; rerankers with prompts, such as those made from "
            "language models, are not supported"
        )
    runs = [
        (part, [encoding.ids[i] for i in places])
        for part, places in itertools.groupby(range(len(parts)), parts.__getitem__)
        if part is not None
    ]
    # If a text appears twice, sequence_ids mark all but one copy as special tokens; the mask does not.
    twice = any(
        part is None and not mask for part, mask in zip(parts, encoding.special_tokens_mask, strict=True)
    )
    if twice or runs != list(enumerate(alone)):
        raise CheckpointError(
            "tokenizer.json's template for pairs (its post_processor) does not put the query first and the "
            "document behind it, each once; such a template is not supported"
        )
    first, last = parts.index(0), len(parts) - 1 - parts[::-1].index(0)
    begin, end = parts.index(1), len(parts) - 1 - parts[::-1].index(1)
    ids, types = np.array(encoding.ids, np.int32), encoding.type_ids
    return _Template(
        ids[:first],
        ids[last + 1 : begin],
        ids[end + 1 :],
        (types[:first], types[first], types[last + 1 : begin], types[begin], types[end + 1 :]),
        parts.count(None),
    )


def _check_ids(tokenizer: Tokenizer, vocabulary: int) -> None:
    """Raise CheckpointError if the tokenizer has an id that is not below ``vocabulary``."""
    added = tokenizer.get_added_tokens_decoder()
    if isinstance(tokenizer.model, Unigram):  # ids are 0 to size - 1, and listing 250,000 tokens is slow
        largest = tokenizer.get_vocab_size(with_added_tokens=False) - 1
    else:
        largest = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    largest = max(largest, *added, -1)
    if largest >= vocabulary:
        token = tokenizer.id_to_token(largest)
        raise CheckpointError(
            f"tokenizer.json has the token {token!r} with the id {largest}, but the model's embedding table "
            f"has {vocabulary} rows (vocab_size): use the tokenizer that the model was trained with, or "
            "resize the table (transformers: resize_token_embeddings) and train it"
        )


class PairEncoder:
    """Builds pairs with a model's own tokenizer. Safe to use from several threads.

    The query is tokenised once and joined to each document by ids; the ids equal the
    tokenizer's own encoding of the pair. An empty query or document is encoded as it stands.

    Args:
        tokenizer: the model's tokenizer, or the path of its ``tokenizer.json``.
        max_length: tokens of a pair, special tokens included.
        truncation: what is cut where a pair is longer. ``only_second`` cuts the document, and
            the query only where it alone has more than ``query_share`` of the window.
            ``longest_first`` takes tokens one by one from the longer of the two.
        query_share: with ``only_second``, the largest share of the window for the query.
        vocabulary: rows of the model's embedding table, to check the tokenizer's ids; None checks nothing.

    Raises:
        CheckpointError: the file is missing, is not a tokenizer that can encode pairs, or has ids beyond
            the embedding table.
        InputError: an option is out of range.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | Path,
        *,
        max_length: int = 512,
        truncation: Truncation = "only_second",
        query_share: float = 0.5,
        vocabulary: int | None = None,
    ) -> None:
        if isinstance(tokenizer, Path):
            tokenizer = _load_tokenizer(tokenizer)
        # Truncation and padding are state that threads would share, so they are turned off here for good.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if vocabulary is not None:
            _check_ids(tokenizer, vocabulary)
        self._tokenizer = tokenizer
        self._words = WordTokenizer(tokenizer)
        self._template = _read_template(tokenizer)
        self._with_segments = len({s for part in self._template.segments for s in np.ravel(part)}) > 1
        if truncation not in get_args(Truncation):
            choices = " or ".join(get_args(Truncation))
            raise InputError(f"truncation is {truncation!r}; it must be {choices}")
        wanted = "a number above 0 and below 1"
        check_number("query_share", query_share, lambda number: 0 < number < 1, wanted)
        shortest = self._template.size + 2
        if max_length < shortest:
            raise InputError(
                f"max_length is {max_length}; it must be at least {shortest}: "
                "the special tokens, one token of the query and one of the document"
            )
        self.max_length = max_length
        self.truncation: Truncation = truncation
        self.query_share = query_share

    @property
    def special_tokens(self) -> int:
        """The number of special tokens in a pair."""
        return self._template.size

    @property
    def template(self) -> str:
        """A pair with its special tokens, such as ``<s> query </s></s> document </s>``."""
        parts = [
            "".join(self._tokenizer.id_to_token(int(i)) or "?" for i in ids)
            for ids in (self._template.before, self._template.between, self._template.after)
        ]
        return " ".join(part for part in (parts[0], "query", parts[1], "document", parts[2]) if part)

    @property
    def first_characters(self) -> int:
        """Characters of a long text that are tokenised first; usually they are enough."""
        return _END * self.max_length

    def encode(
        self, queries: str | Sequence[str], texts: Sequence[str], cut: Cut = WHOLE_WINDOW
    ) -> list[EncodedPair]:
        """One pair for each text, in their order.

        Args:
            queries: one for all texts, or one for each; equal queries are tokenised once.
            texts: the documents.

        Raises:
            InputError, TooLongError: as ``join``.
        """
        asked = self.query(queries) if isinstance(queries, str) else self.queries(queries)
        return self.join(asked, texts, cut)

    def query(self, text: str) -> EncodedQuery:
        """A query to join to documents, in as many calls as they come in."""
        return self.queries([text])[0]

    def queries(self, texts: Sequence[str]) -> list[EncodedQuery]:
        """Queries to join to documents, one for each text; equal ones are tokenised once."""
        distinct = list(dict.fromkeys(texts))
        encoded = {
            text: EncodedQuery(ids, self._counted(text, ids))
            for text, ids in zip(distinct, self._ids(distinct), strict=True)
        }
        return [encoded[text] for text in texts]

    def join(
        self,
        queries: EncodedQuery | Sequence[EncodedQuery],
        texts: Sequence[str],
        cut: Cut = WHOLE_WINDOW,
    ) -> list[EncodedPair]:
        """One pair for each text, in their order.

        Args:
            queries: one for all texts, or one for each.
            texts: the documents.
            cut: limits of this call.

        Raises:
            InputError: ``cut.pair`` leaves no room for a token of the query and one of the document.
            TooLongError: ``cut.allowed`` is False, and a pair is longer than the window.
        """
        window = self._narrowed(cut)
        asked = [queries] * len(texts) if isinstance(queries, EncodedQuery) else queries
        documents = self._ids(texts, cut.side)
        if not cut.allowed:
            for i, (query, text, document) in enumerate(zip(asked, texts, documents, strict=True)):
                self._check_length(i, query, text, document, cut, window)
        return [
            self._join(query.token_ids, document, cut, window)
            for query, document in zip(asked, documents, strict=True)
        ]

    def kept(self, query: str, document: str) -> int | None:
        """How many characters of the document its pair contains, from its start; None if it contains all."""
        (query_ids,) = self._ids([query])
        (encoding,) = self._of_ends([document], "right", self._with_offsets)
        _, keep = self._window(len(query_ids), len(encoding.ids), self.max_length)
        if keep == len(encoding.ids):
            return None
        return int(encoding.offsets[keep - 1][1]) if keep else 0

    def _narrowed(self, cut: Cut) -> int:
        """The window of a call."""
        if cut.pair is None:
            return self.max_length
        shortest = self._template.size + 2
        if cut.pair < shortest:
            raise InputError(
                f"{cut.pair} tokens for a pair are too few; it takes at least {shortest}: "
                "the special tokens, one token of the query and one of the document"
            )
        return min(cut.pair, self.max_length)

    def _check_length(
        self, index: int, query: EncodedQuery, text: str, document: TokenIds, cut: Cut, window: int
    ) -> None:
        """Raise TooLongError where the window would cut the pair of a query and a text."""
        lengths = _capped((len(query.token_ids), len(document)), cut)
        if sum(lengths) + self._template.size <= window:
            return
        # Only a part of a very long text was tokenised, as all of it would take long, so the number of its
        # tokens is a lower bound.
        least = _capped((query.min_tokens, self._counted(text, document)), cut)
        tokens = sum(least) + self._template.size
        raise TooLongError(index, tokens, window, exact=least == lengths)

    def _counted(self, text: str, ids: TokenIds) -> int:
        """How many tokens a text has, or a lower bound if only a part of it was tokenised."""
        partial = len(text) > self.first_characters and len(ids) >= 2 * self.max_length
        return self.max_length if partial else len(ids)

    def _ids(self, texts: Sequence[str], side: Side = "right") -> list[TokenIds]:
        """Token ids of each text, without special tokens; see ``_of_ends`` for very long texts."""
        return self._of_ends(texts, side, self._words.ids)

    def _with_offsets(self, texts: list[str]) -> list[Encoding]:
        texts = [clean(text) for text in texts]
        with library_errors("the tokenizer"):
            return list(self._tokenizer.encode_batch(texts, add_special_tokens=False))

    def _of_ends(
        self, texts: Sequence[str], side: Side, tokenize: Callable[[list[str]], list[_Tokens]]
    ) -> list[_Tokens]:
        """Tokenise texts; of a very long text, only the end that the window can keep.

        A token does not depend on characters far from it. So the end of a long text is tokenised by itself,
        and accepted if it has twice as many tokens as the window; otherwise a longer end is tokenised.
        """
        limit, enough = self.first_characters, 2 * self.max_length
        found = tokenize([text[:limit] if side == "right" else text[-limit:] for text in texts])
        while short := [
            i for i, tokens in enumerate(found) if len(texts[i]) > limit and len(tokens) < enough
        ]:
            limit *= _LONGER_END
            again = tokenize([texts[i][:limit] if side == "right" else texts[i][-limit:] for i in short])
            for i, tokens in zip(short, again, strict=True):
                found[i] = tokens
        return found

    def _join(self, query: TokenIds, document: TokenIds, cut: Cut, window: int) -> EncodedPair:
        keep_query, keep_document = self._window(*_capped((len(query), len(document)), cut), window)
        query_truncated, truncated = keep_query < len(query), keep_document < len(document)
        first = len(document) - keep_document if cut.side == "left" else 0
        query, document = query[:keep_query], document[first : first + keep_document]
        t = self._template
        token_ids = np.concatenate((t.before, query, t.between, document, t.after))
        if not self._with_segments:
            return EncodedPair(token_ids, None, truncated, query_truncated)
        before, of_query, between, of_document, after = t.segments
        parts = [*before, *[of_query] * len(query), *between, *[of_document] * len(document), *after]
        return EncodedPair(token_ids, np.array(parts, np.int32), truncated, query_truncated)

    def _window(self, query: int, document: int, window: int) -> tuple[int, int]:
        """Tokens to keep of a query and a document of these lengths."""
        room = window - self._template.size
        if self.truncation == "only_second":
            query = min(query, max(1, int(window * self.query_share)), room - 1)
            return query, min(document, room - query)
        excess = query + document - room
        if excess <= 0:
            return query, document
        # As the tokenizers library does it: cut the longer one; where that is not enough, halve
        # the room, and an odd token goes to the longer (the document if they are equal).
        shorter = min(query, document)
        if shorter <= room - shorter:
            return (query, room - query) if query <= document else (room - document, document)
        half, larger = room // 2, room - room // 2
        return (half, larger) if query <= document else (larger, half)


def _capped(lengths: tuple[int, int], cut: Cut) -> tuple[int, int]:
    """Tokens of a query and a document after a call's own limits."""
    if cut.query is cut.document is None:
        return lengths
    query, document = lengths
    return (
        query if cut.query is None else min(query, cut.query),
        document if cut.document is None else min(document, cut.document),
    )


def _load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; save the model's fast tokenizer there: "
            "transformers.AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    check_no_pointer(path)
    with library_errors(str(path)):
        return Tokenizer.from_file(str(path))
