"""Pairs as a server may read them wrongly, and what the model here says of them.

Everything is made of the model's own encoder: of two texts, and of what it puts around and between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank.evaluation.diagnose import RIGHT
from crossrank.pairs import Cut, EncodedPair
from crossrank.reranker import Reranker

__all__ = ["Misreader"]

_Ids = npt.NDArray[np.int32]

_WITHOUT_TEMPLATE = "the template is missing, and query and document run into one another"
_WITHOUT_SEPARATOR = "what the template has between query and document is missing"
_WITHOUT_SEGMENTS = "segment ids are missing"
_SWAPPED = "the document stands where the query should"
_NO_QUERY, _NO_DOCUMENT = "the query is lost", "the document is lost"
_NO_END = "what the template has behind the document is cut"
_NO_QUERY_CUT = "the start of the pair is cut, and with it the query"
_NO_START = "the start of the document is cut"

_WORDS = ("zebra", "quartz")
"""Texts by which the template is found: no prompt has them."""


@dataclass(frozen=True, slots=True)
class _Around:
    """What the encoder puts around two texts, and their segments."""

    before: _Ids
    between: _Ids
    after: _Ids
    segments: tuple[int, int] | None


class Misreader:
    """Scores pairs as they should be read, and as they should not.

    Args:
        reranker: the model.
    """

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker
        self._around = self._find_around()

    def _find_around(self) -> _Around:
        encoder = self._reranker.encoder
        query, document = (list(encoder.query(text).token_ids) for text in _WORDS)
        (pair,) = encoder.encode(_WORDS[0], [_WORDS[1]])
        ids = list(pair.token_ids)
        # From the end, as a prompt is long before the texts and short behind them.
        end = _last(ids, document, len(ids))
        start = _last(ids, query, end)
        segments = None
        if pair.segment_ids is not None:
            segments = (int(pair.segment_ids[start]), int(pair.segment_ids[end]))
        parts = ids[:start], ids[start + len(query) : end], ids[end + len(document) :]
        before, between, after = (np.array(part, np.int32) for part in parts)
        return _Around(before, between, after, segments)

    def right(self, query: str, documents: Sequence[str]) -> npt.NDArray[np.float64]:
        """The logits of a query's documents."""
        return self._logits(self._reranker.encoder.encode(query, documents))

    def misread(self, query: str, documents: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The logits of a query's documents, for each way to read them wrongly."""
        encoder, around = self._reranker.encoder, self._around
        asked = encoder.query(query).token_ids
        texts = [encoder.query(text).token_ids for text in documents]
        none = np.zeros(0, np.int32)
        ways = {
            _WITHOUT_TEMPLATE: [self._pair(none, asked, none, text, none) for text in texts],
            _WITHOUT_SEPARATOR: [
                self._pair(around.before, asked, none, text, around.after) for text in texts
            ],
            _SWAPPED: [encoder.encode(text, [query])[0] for text in documents],
            _NO_QUERY: encoder.encode("", documents),
            _NO_DOCUMENT: encoder.encode(query, [""] * len(documents)),
        }
        if around.segments is not None and around.segments[0] != around.segments[1]:
            ways[_WITHOUT_SEGMENTS] = [
                EncodedPair(
                    token_ids=pair.token_ids, segment_ids=np.zeros_like(pair.token_ids), truncated=False
                )
                for pair in encoder.encode(query, documents)
            ]
        return {how: self._logits(pairs) for how, pairs in ways.items()}

    def tokens(self, query: str, document: str) -> int:
        """How many tokens a pair has that is not cut, up to twice the model's window."""
        around, encoder = self._around, self._reranker.encoder
        parts = (around.before, encoder.query(query).token_ids, around.between, around.after)
        return sum(map(len, parts)) + len(encoder.query(document).token_ids)

    def cut(
        self, query: str, documents: Sequence[str], windows: Sequence[int]
    ) -> dict[tuple[str, int], npt.NDArray[np.float64]]:
        """The logits of long documents that are cut at their ends, for each window."""
        encoder = self._reranker.encoder
        return {
            (RIGHT, window): self._logits(encoder.encode(query, documents, Cut(pair=window)))
            for window in windows
        }

    def miscut(
        self, query: str, documents: Sequence[str], windows: Sequence[int]
    ) -> dict[tuple[str, int], npt.NDArray[np.float64]]:
        """The logits of long documents, for each way to cut their pairs wrongly at each window."""
        around, encoder = self._around, self._reranker.encoder
        asked = encoder.query(query).token_ids
        none = np.zeros(0, np.int32)
        starts = [encoder.query(text).token_ids for text in documents]
        # Tokens do not depend on characters far away.
        ends = [encoder.query(text[-encoder.first_characters :]).token_ids for text in documents]
        head, tail = sum(map(len, (around.before, asked, around.between))), len(around.after)
        found = {}
        for window in windows:
            ways = {
                _NO_END: [
                    self._pair(around.before, asked, around.between, ids[: window - head], none)
                    for ids in starts
                ],
                _NO_START: encoder.encode(query, documents, Cut("left", pair=window)),
                _NO_QUERY_CUT: [
                    self._pair(none, none, none, ids[-(window - tail) :], around.after) for ids in ends
                ],
            }
            found.update({(how, window): self._logits(pairs) for how, pairs in ways.items()})
        return found

    def _pair(self, before: _Ids, query: _Ids, between: _Ids, document: _Ids, after: _Ids) -> EncodedPair:
        parts = (before, query, between, document, after)
        ids = np.concatenate(parts).astype(np.int32)
        segments = None
        if self._around.segments is not None:
            first, second = self._around.segments
            own = [np.full(len(part), first if i < 3 else second, np.int32) for i, part in enumerate(parts)]
            segments = np.concatenate(own)
        return EncodedPair(token_ids=ids, segment_ids=segments, truncated=False)

    def _logits(self, pairs: Sequence[EncodedPair]) -> npt.NDArray[np.float64]:
        """Logits of pairs; NaN for those without a token, which no engine takes."""
        logits = np.full(len(pairs), np.nan)
        there = [i for i, pair in enumerate(pairs) if pair.tokens]
        logits[there] = self._reranker.model.logits([pairs[i] for i in there])
        return logits


def _last(ids: list[int], part: list[int], end: int) -> int:
    """Where a part last stands before a place."""
    for start in range(end - len(part), -1, -1):
        if ids[start : start + len(part)] == part:
            return start
    raise ValueError("the encoder's pair does not have its texts in it")
