"""Text to token ids: a query and a document become one sequence, as the model was trained on it.

Only this module knows about special tokens, truncation and windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer
from tokenizers.models import Unigram

from crossrank._template import PromptTemplates, Template, read_template
from crossrank.errors import CheckpointError, InputError, TooLongError
from crossrank.inputs import check_integer, check_number
from crossrank.models.files import check_no_pointer
from crossrank.models.prompt import Prompt
from crossrank.text.sentences import Span
from crossrank.text.unicode import clean
from crossrank.text.windows import best_spans, joined, section_spans, window_spans
from crossrank.text.words import TokenIds, WordTokenizer, library_errors

__all__ = [
    "MAX_WINDOWS",
    "WHOLE_WINDOW",
    "Cut",
    "EncodedPair",
    "EncodedQuery",
    "Long",
    "PairEncoder",
    "Side",
    "Truncation",
    "check_long",
]

Truncation = Literal["only_second", "longest_first"]
Side = Literal["right", "left"]
Long = Literal["cut", "windows"]

MAX_WINDOWS = 8
"""Windows of a document that are read by default: of 256 tokens, up to 2,000 tokens of a document."""

_END, _LONGER_END = 12, 6
"""Characters of a long text that are tokenised first, per token of the window. A token has up to five in most
languages, so this is usually enough; if it is not, ``_LONGER_END`` times as many are read."""

_READ_CHARACTERS, _SECTION_CHARACTERS = 8, 6
"""Characters that are tokenised of a text, for each token that its windows hold. Of a longer text, sections
are chosen that have so many together; a section has ``_SECTION_CHARACTERS`` for each token of one window."""

_PIECE_CHARACTERS = 4096
"""Characters of a long text that are tokenised at once."""

_ENDLESS = 1 << 40
"""Tokens of a document that is longer than any window."""

_OVERLAP = 8
"""A window shares an eighth of its tokens with the one before it."""

_MOST_TRIES = 4
"""Windows are laid out by the tokens of the whole text. If one alone has more, it is done again with less
room."""

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
        prefix: so many tokens at the start are the same for all documents of the query, as they do not see
            what follows; 0 for models without a prompt.
        window: of a document that is read in windows, which characters this one holds: from, and up to.
            ``truncated`` then says whether some of the document is in none of its windows.
    """

    token_ids: npt.NDArray[np.int32]
    segment_ids: npt.NDArray[np.int32] | None
    truncated: bool
    query_truncated: bool = False
    prefix: int = 0
    window: tuple[int, int] | None = None

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
        template: what stands around it and a document.
        text: the query's.
    """

    token_ids: TokenIds
    min_tokens: int
    template: Template
    text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Per-call truncation limits, on top of the encoder's own.

    Attributes:
        side: which end of a document is cut.
        document: max tokens of a document; None leaves it to the window.
        query: max tokens of a query, which is always cut at its end; None leaves it to the window.
        pair: max tokens of a pair, special tokens included, if fewer than the encoder's.
        allowed: if False, a pair that the window would cut raises TooLongError.
        long: what is done with a document that does not fit; None: as the encoder does it.
        max_windows: of a document; None: as many as the encoder reads.
    """

    side: Side = "right"
    document: int | None = None
    query: int | None = None
    pair: int | None = None
    allowed: bool = True
    long: Long | None = None
    max_windows: int | None = None


WHOLE_WINDOW = Cut()
"""Only the encoder's window cuts."""


def check_long(long: object, max_windows: object) -> None:
    """Raise InputError unless these are what an encoder takes."""
    if long not in get_args(Long):
        raise InputError(f"long is {long!r}; it must be {' or '.join(get_args(Long))}")
    check_integer("max_windows", max_windows)


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
        long: what ``join_windows`` does with a document that does not fit: "cut", or read it in "windows".
        max_windows: the most windows of a document.
        window_length: tokens of a window's pair; None: ``max_length``.
        vocabulary: rows of the model's embedding table, to check the tokenizer's ids; None checks nothing.
        prompt: the model's; None: its tokenizer says what stands around a pair.

    Attributes:
        instruction: what a query is asked with by default; None: the model takes no instruction.

    Raises:
        CheckpointError: the file is missing, is not a tokenizer that can encode pairs, or has ids beyond
            the embedding table.
        UnsupportedModelError: the prompt's parts cannot be tokenised apart.
        InputError: an option is out of range.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | Path,
        *,
        max_length: int = 512,
        truncation: Truncation = "only_second",
        query_share: float = 0.5,
        long: Long = "cut",
        max_windows: int = MAX_WINDOWS,
        window_length: int | None = None,
        vocabulary: int | None = None,
        prompt: Prompt | None = None,
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
        self.instruction = prompt.instruction if prompt else None
        self._prompt = prompt
        self._templates = PromptTemplates(prompt, tokenizer) if prompt else None
        self._template = (
            self._templates.of(self.instruction or "") if self._templates else read_template(tokenizer)
        )
        self._around = "the prompt's tokens" if prompt else "the special tokens"
        self._with_segments = len({s for part in self._template.segments for s in np.ravel(part)}) > 1
        if truncation not in get_args(Truncation):
            choices = " or ".join(get_args(Truncation))
            raise InputError(f"truncation is {truncation!r}; it must be {choices}")
        wanted = "a number above 0 and below 1"
        check_number("query_share", query_share, lambda number: 0 < number < 1, wanted)
        check_long(long, max_windows)
        shortest = self._template.size + 2
        if max_length < shortest:
            raise InputError(
                f"max_length is {max_length}; it must be at least {shortest}: "
                f"{self._around}, one token of the query and one of the document"
            )
        self.max_length = max_length
        self.truncation: Truncation = truncation
        self.query_share = query_share
        self.long: Long = long
        self.max_windows = max_windows
        self.window_length = min(max_length, max(shortest, window_length or max_length))

    @property
    def special_tokens(self) -> int:
        """The number of tokens around a query and a document: special ones, or the prompt's."""
        return self._template.size

    @property
    def template(self) -> str:
        """A pair with its special tokens, such as ``<s> query </s></s> document </s>``, or the prompt."""
        if self._prompt is not None:
            return self._prompt.text(self.instruction or "")
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
        self,
        queries: str | Sequence[str],
        texts: Sequence[str],
        cut: Cut = WHOLE_WINDOW,
        *,
        instruction: str | None = None,
    ) -> list[EncodedPair]:
        """One pair for each text, in their order.

        Args:
            queries: one for all texts, or one for each; equal queries are tokenised once.
            texts: the documents.
            cut: limits of this call.
            instruction: as ``queries``.

        Raises:
            InputError, TooLongError: as ``queries`` and ``join``.
        """
        if isinstance(queries, str):
            return self.join(self.query(queries, instruction=instruction), texts, cut)
        return self.join(self.queries(queries, instruction=instruction), texts, cut)

    def query(self, text: str, *, instruction: str | None = None) -> EncodedQuery:
        """A query to join to documents, in as many calls as they come in; see ``queries``."""
        return self.queries([text], instruction=instruction)[0]

    def queries(
        self, texts: Sequence[str], *, instruction: str | Sequence[str | None] | None = None
    ) -> list[EncodedQuery]:
        """Queries to join to documents, one for each text; equal ones are tokenised once.

        Args:
            texts: the queries.
            instruction: what the model is told to look for: one for all queries, or one for each; None is
                the model's own.

        Raises:
            InputError: the model takes no instruction, or one leaves no room for a query and a document.
        """
        told: list[str | None]
        if instruction is None or isinstance(instruction, str):
            told = [instruction] * len(texts)
        else:
            told = list(instruction)
        templates = {each: self._told(each) for each in dict.fromkeys(told)}
        filled = [templates[each].query.fill(text) for text, each in zip(texts, told, strict=True)]
        distinct = list(dict.fromkeys(filled))
        encoded = {
            text: (ids, self._counted(text, ids))
            for text, ids in zip(distinct, self.ids(distinct), strict=True)
        }
        return [
            EncodedQuery(*encoded[filling], templates[each], text)
            for text, filling, each in zip(texts, filled, told, strict=True)
        ]

    def taken(self, instruction: str | None) -> str | None:
        """The instruction, for a caller that ignores it where the model takes none: None then."""
        return None if self.instruction is None else instruction

    def _told(self, instruction: str | None) -> Template:
        """The template with an instruction."""
        if instruction is None:
            return self._template
        if self._templates is None or self.instruction is None:
            raise InputError("the model takes no instruction: leave it out")
        template = self._templates.of(instruction)
        if template.size + 2 > self.max_length:
            raise InputError(
                f"the instruction is too long: the prompt has {template.size} tokens with it, and max_length "
                f"is {self.max_length}, of which one token of the query and one of the document need a part"
            )
        return template

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
        asked = [queries] * len(texts) if isinstance(queries, EncodedQuery) else queries
        window = self._narrowed(cut, asked)
        filled = [query.template.document.fill(text) for query, text in zip(asked, texts, strict=True)]
        documents = self.ids(filled, cut.side)
        if not cut.allowed:
            for i, (query, text, document) in enumerate(zip(asked, filled, documents, strict=True)):
                self._check_length(i, query, text, document, cut, window)
        return [
            self._join(query, document, cut, window) for query, document in zip(asked, documents, strict=True)
        ]

    def join_windows(
        self,
        queries: EncodedQuery | Sequence[EncodedQuery],
        texts: Sequence[str],
        cut: Cut = WHOLE_WINDOW,
    ) -> list[list[EncodedPair]]:
        """The pairs of each text, in their order: one, or one for each window of a text that does not fit.

        The pair of a window is that of its characters, as if they were a text of their own. The arguments
        and errors are those of ``join``.
        """
        pairs = self.join(queries, texts, cut)
        found = [[pair] for pair in pairs]
        if self.windows(cut):
            for index, pair in enumerate(pairs):
                if pair.truncated:
                    query = queries if isinstance(queries, EncodedQuery) else queries[index]
                    found[index] = self._in_windows(query, texts[index], cut) or [pair]
        return found

    def windows(self, cut: Cut) -> int:
        """How many windows of a document may be read in a call; 0: it is cut."""
        return (cut.max_windows or self.max_windows) if (cut.long or self.long) == "windows" else 0

    def most_characters(self, cut: Cut) -> int:
        """Characters of a long text that are tokenised in a call, more or less."""
        return max(self.first_characters, _READ_CHARACTERS * self.windows(cut) * self.window_length)

    def expect(self, query: int, document: int, cut: Cut) -> tuple[int, int]:
        """About how many pairs a document makes, and how many tokens they have together.

        Args:
            query: tokens of the query, about.
            document: of the document.
            cut: limits of the call.
        """
        size, most = self._template.size, self.windows(cut)
        window = min(self.max_length, cut.pair or self.max_length)
        total = size + query + document
        if total <= window or not most or window < size + 2:
            return 1, min(total, window)
        keep, room = self._window(query, _ENDLESS, window, window - size)
        document = min(document, cut.document or document)
        if document <= room:
            return 1, size + keep + document
        window = min(window, max(self.window_length, size + 2))
        keep, room = self._window(query, _ENDLESS, window, window - size)
        overlap = room // _OVERLAP
        count = min(most, -(-(document - overlap) // (room - overlap)))
        return count, count * (size + keep) + min(count * room, document + (count - 1) * overlap)

    def ids(self, texts: Sequence[str], side: Side = "right") -> list[TokenIds]:
        """Token ids of each text, with nothing around it; of a very long text only the end that is kept."""
        return self._of_ends(texts, side, self._words.ids)

    def kept(self, query: str, document: str, *, instruction: str | None = None) -> int | None:
        """How many characters of the document its pair contains, from its start; None if it contains all."""
        asked = self.query(query, instruction=instruction)
        slot = asked.template.document
        (encoding,) = self._of_ends([slot.fill(document)], "right", self._with_offsets)
        room = self.max_length - asked.template.size
        _, keep = self._window(len(asked.token_ids), len(encoding.ids), self.max_length, room)
        if keep == len(encoding.ids):
            return None
        keep -= len(slot.trail_ids)
        return slot.place(document, int(encoding.offsets[keep - 1][1])) if keep > 0 else 0

    def _narrowed(self, cut: Cut, asked: Sequence[EncodedQuery]) -> int:
        """The window of a call."""
        if cut.pair is None:
            return self.max_length
        shortest = max((query.template.size for query in asked), default=self._template.size) + 2
        if cut.pair < shortest:
            raise InputError(
                f"{cut.pair} tokens for a pair are too few; it takes at least {shortest}: "
                f"{self._around}, one token of the query and one of the document"
            )
        return min(cut.pair, self.max_length)

    def _in_windows(self, query: EncodedQuery, text: str, cut: Cut) -> list[EncodedPair]:
        """The pairs of a text's windows; none if a call's own limit is what cuts it, or it is white space."""
        window, slot, size = self._narrowed(cut, [query]), query.template.document, query.template.size
        of_query, _ = _capped((len(query.token_ids), 0), cut)
        # What is left beside the query for the longest of documents.
        _, room = self._window(of_query, _ENDLESS, window, window - size)
        if cut.document is not None and cut.document <= room:
            return []
        window = min(window, max(self.window_length, size + 2))
        _, room = self._window(of_query, _ENDLESS, window, window - size)
        most = self.windows(cut)
        parts = self._parts(query, text, cut, most * window)
        parts, tokens = self._starts(text, parts, _READ_CHARACTERS * most * window)
        if cut.document is not None and parts:
            parts, tokens = _first_tokens(parts[0], tokens[0], cut.document, cut.side)
        laid = room - len(slot.lead_ids) - len(slot.trail_ids)
        for _ in range(_MOST_TRIES):
            laid = max(1, laid)
            spans = [
                Span(part.start + start, part.start + end)
                for part, starts in zip(parts, tokens, strict=True)
                for start, end in window_spans(text[part.start : part.end], starts, laid, laid // _OVERLAP)
            ]
            chosen = best_spans(query.text, text, spans, most)
            ids = self.ids([slot.fill(text[start:end]) for start, end in chosen])
            excess = max((len(each) for each in ids), default=0) - room
            if excess <= 0:
                break
            laid -= excess
        read = joined(chosen, text)
        whole = len(read) == 1 and text[: read[0].start].strip() == text[read[0].end :].strip() == ""
        pairs = [self._join(query, each, cut, window) for each in ids]
        return [
            replace(pair, truncated=pair.truncated or not whole, window=(span.start, span.end))
            for pair, span in zip(pairs, chosen, strict=True)
        ]

    def _parts(self, query: EncodedQuery, text: str, cut: Cut, tokens: int) -> list[Span]:
        """The parts of a text that are laid out in windows, which hold so many tokens.

        To tokenise all of a very long text would take long, so sections of it are chosen first. Where a call
        limits the document, its first or last characters are taken, and never what may lie beyond the limit.
        """
        limit = _READ_CHARACTERS * tokens
        if cut.document is not None:
            limit = min(limit, _END * cut.document)
            start = max(0, len(text) - limit) if cut.side == "left" else 0
            return [Span(start, min(len(text), start + limit))]
        if len(text) <= limit:
            return [Span(0, len(text))]
        size = _SECTION_CHARACTERS * self.window_length
        return joined(best_spans(query.text, text, section_spans(text, size), max(1, limit // size)), text)

    def _starts(
        self, text: str, parts: list[Span], most: int
    ) -> tuple[list[Span], list[npt.NDArray[np.int64]]]:
        """The parts of a text as far as they have ``most`` tokens together, and where each token of each
        begins, in characters from the part's start.

        They are tokenised piece by piece: some characters have 18 tokens, and nobody should wait for a text
        of nothing else.
        """
        read: list[Span] = []
        tokens: list[npt.NDArray[np.int64]] = []
        for part in parts:
            if most <= 0:
                break
            starts: list[npt.NDArray[np.int64]] = []
            end = part.start
            for piece in section_spans(text[part.start : part.end], _PIECE_CHARACTERS):
                first, end = part.start + piece.start, part.start + piece.end
                (encoding,) = self._with_offsets([text[first:end]])
                starts.append(piece.start + np.array([start for start, _ in encoding.offsets], np.int64))
                most -= len(encoding.ids)
                if most <= 0:
                    break
            if starts:
                read.append(Span(part.start, end))
                tokens.append(np.maximum.accumulate(np.concatenate(starts)))
        return read, tokens

    def _check_length(
        self, index: int, query: EncodedQuery, text: str, document: TokenIds, cut: Cut, window: int
    ) -> None:
        """Raise TooLongError where the window would cut the pair of a query and a text."""
        lengths = _capped((len(query.token_ids), len(document)), cut)
        if sum(lengths) + query.template.size <= window:
            return
        # Only a part of a very long text was tokenised, as all of it would take long, so the number of its
        # tokens is a lower bound.
        least = _capped((query.min_tokens, self._counted(text, document)), cut)
        tokens = sum(least) + query.template.size
        raise TooLongError(index, tokens, window, exact=least == lengths)

    def _counted(self, text: str, ids: TokenIds) -> int:
        """How many tokens a text has, or a lower bound if only a part of it was tokenised."""
        partial = len(text) > self.first_characters and len(ids) >= 2 * self.max_length
        return self.max_length if partial else len(ids)

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

    def _join(self, asked: EncodedQuery, document: TokenIds, cut: Cut, window: int) -> EncodedPair:
        query, t = asked.token_ids, asked.template
        lengths = _capped((len(query), len(document)), cut)
        keep_query, keep_document = self._window(*lengths, window, window - t.size)
        query_truncated, truncated = keep_query < len(query), keep_document < len(document)
        query = t.query.first(query, keep_query)
        keep = t.document.last if cut.side == "left" else t.document.first
        document = keep(document, keep_document)
        token_ids = np.concatenate((t.before, query, t.between, document, t.after))
        if not self._with_segments:
            prefix = len(t.before) + len(query) + len(t.between) if t.shared else 0
            return EncodedPair(token_ids, None, truncated, query_truncated, prefix)
        before, of_query, between, of_document, after = t.segments
        parts = [*before, *[of_query] * len(query), *between, *[of_document] * len(document), *after]
        return EncodedPair(token_ids, np.array(parts, np.int32), truncated, query_truncated)

    def _window(self, query: int, document: int, window: int, room: int) -> tuple[int, int]:
        """Tokens to keep of a query and a document of these lengths; ``room`` is what both may have."""
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


def _first_tokens(
    part: Span, starts: npt.NDArray[np.int64], count: int, side: Side
) -> tuple[list[Span], list[npt.NDArray[np.int64]]]:
    """So many tokens of a part of a text, from its start or its end."""
    if count >= len(starts):
        return [part], [starts]
    if side == "right":
        return [Span(part.start, part.start + int(starts[count]))], [starts[:count]]
    first = int(starts[-count])
    return [Span(part.start + first, part.end)], [starts[-count:] - first]


def _load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; save the model's fast tokenizer there: "
            "transformers.AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)"
        )
    check_no_pointer(path)
    with library_errors(str(path)):
        return Tokenizer.from_file(str(path))
