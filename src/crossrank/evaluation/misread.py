"""Pairs as a server may read them wrongly, and what the model here says of them.

Everything is made of the model's own encoder: of two texts, and of what it puts around and between them.
"""

from __future__ import annotations

from collections.abc import Sequence

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
_WITHOUT_END = "what the template has behind the document is missing"
_WITHOUT_INSTRUCTION = "the instruction is missing"


class Misreader:
    """Scores pairs as they should be read, and as they should not.

    Args:
        reranker: the model.
    """

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker
        self._around = reranker.encoder.query("").template
        (pair,) = reranker.encoder.encode("", [""])
        self._with_segments = pair.segment_ids is not None

    @property
    def min_window(self) -> int:
        """Tokens of the shortest window: a token of the query and one of the document fit."""
        return self._around.size + 2

    def right(self, query: str, documents: Sequence[str]) -> npt.NDArray[np.float64]:
        """The logits of a query's documents."""
        return self._logits(self._reranker.encoder.encode(query, documents))

    def misread(self, query: str, documents: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The logits of a query's documents, for each way to read them wrongly."""
        encoder, around = self._reranker.encoder, self._around
        asked, texts = encoder.query(query).token_ids, self._documents(documents)
        none = np.zeros(0, np.int32)
        bare, *bare_texts = encoder.ids([query, *documents])
        ways = {
            _WITHOUT_TEMPLATE: [self._pair(none, bare, none, text, none) for text in bare_texts],
            _WITHOUT_SEPARATOR: [
                self._pair(around.before, asked, none, text, around.after) for text in texts
            ],
            _SWAPPED: [encoder.encode(text, [query])[0] for text in documents],
            _NO_QUERY: encoder.encode("", documents),
            _NO_DOCUMENT: encoder.encode(query, [""] * len(documents)),
        }
        if self._with_segments and around.segments[1] != around.segments[3]:
            ways[_WITHOUT_SEGMENTS] = [
                EncodedPair(
                    token_ids=pair.token_ids, segment_ids=np.zeros_like(pair.token_ids), truncated=False
                )
                for pair in encoder.encode(query, documents)
            ]
        if around.shared:
            ways[_WITHOUT_END] = [
                self._pair(around.before, asked, around.between, text, none) for text in texts
            ]
        if encoder.instruction:
            ways[_WITHOUT_INSTRUCTION] = encoder.encode(query, documents, instruction="")
        return {how: self._logits(pairs) for how, pairs in ways.items()}

    def tokens(self, query: str, document: str) -> int:
        """How many tokens a pair has that is not cut, up to twice the model's window."""
        asked = self._reranker.encoder.query(query)
        return asked.template.size + len(asked.token_ids) + len(self._documents([document])[0])

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
        starts = self._documents(documents)
        # Tokens do not depend on characters far away.
        ends = self._documents([text[-encoder.first_characters :] for text in documents])
        head, tail = sum(map(len, (around.before, asked, around.between))), len(around.after)
        found = {}
        for window in windows:
            ways = {
                _NO_END: [
                    self._pair(around.before, asked, around.between, ids[: max(0, window - head)], none)
                    for ids in starts
                ],
                _NO_START: encoder.encode(query, documents, Cut("left", pair=window)),
                _NO_QUERY_CUT: [
                    self._pair(none, none, none, ids[-(window - tail) :], around.after) for ids in ends
                ],
            }
            found.update({(how, window): self._logits(pairs) for how, pairs in ways.items()})
        return found

    def _documents(self, texts: Sequence[str]) -> list[_Ids]:
        """Token ids of documents as they stand in pairs that are not cut."""
        return self._reranker.encoder.ids([self._around.document.fill(text) for text in texts])

    def _pair(self, before: _Ids, query: _Ids, between: _Ids, document: _Ids, after: _Ids) -> EncodedPair:
        parts = (before, query, between, document, after)
        ids = np.concatenate(parts).astype(np.int32)
        segments = None
        if self._with_segments:
            _, first, _, second, _ = self._around.segments
            own = [np.full(len(part), first if i < 3 else second, np.int32) for i, part in enumerate(parts)]
            segments = np.concatenate(own)
        return EncodedPair(token_ids=ids, segment_ids=segments, truncated=False)

    def _logits(self, pairs: Sequence[EncodedPair]) -> npt.NDArray[np.float64]:
        """Logits of pairs; NaN for those without a token, which no engine takes."""
        logits = np.full(len(pairs), np.nan)
        there = [i for i, pair in enumerate(pairs) if pair.tokens]
        logits[there] = self._reranker.model.logits([pairs[i] for i in there])
        return logits
