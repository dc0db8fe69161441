"""Keyword ranking (BM25), the first stage that rerankers are compared with."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import bm25s

__all__ = ["KeywordIndex", "keywords"]

# Scripts without spaces between words. Their text is indexed by pairs of characters, as is usual without a
# word segmenter.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_RUNS = re.compile(f"[{_UNSPACED}]+|[^\\W{_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def keywords(text: str) -> list[str]:
    """The keywords of a text: lower-cased words, and character pairs of unspaced scripts."""
    return [keyword for keyword, _, _ in _located(text)]


def shared_spans(query: str | Collection[str], text: str) -> list[tuple[int, int]]:
    """The spans of a text that repeat keywords of a query: (start, end) in characters, sorted and disjoint.

    Args:
        query: the query, or its keywords; for many texts, pass a set of keywords.
        text: the text to search.
    """
    wanted = set(keywords(query)) if isinstance(query, str) else query
    spans: list[tuple[int, int]] = []
    for keyword, start, end in _located(text):
        if keyword not in wanted:
            continue
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _located(text: str) -> Iterator[tuple[str, int, int]]:
    """(keyword, start, end) of each keyword of a text."""
    for found in _RUNS.finditer(text):
        run, start = found[0].lower(), found.start()
        if not _IS_UNSPACED.match(run):
            yield run, start, found.end()
        elif len(run) == 1:
            yield run, start, start + 1
        else:
            for i in range(len(run) - 1):
                yield run[i : i + 2], start + i, start + i + 2


class KeywordIndex:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over a list of texts.

    Args:
        documents: the texts.
        wanted: the keywords that will be asked for: the same scores, made faster; None: any.
    """

    def __init__(self, documents: Sequence[str], wanted: Collection[str] | None = None) -> None:
        corpus = [keywords(document) for document in documents]
        if wanted is not None:
            # The others count for the lengths alone.
            corpus = [[each if each in wanted else "" for each in document] for document in corpus]
        self._size = len(corpus)
        self._index: bm25s.BM25 | None = None
        if any(corpus):
            import bm25s  # imports scipy, which takes longer than everything else

            self._index = bm25s.BM25()
            self._index.index(corpus, show_progress=False)

    def scores(self, query: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """The score of every document, float32 (documents,); 0 if it shares no keyword with the query.

        Args:
            query: the query, or its keywords.
        """
        wanted = keywords(query) if isinstance(query, str) else list(query)
        if self._index is None or not wanted:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._index.get_scores(wanted), np.float32)

    def order(self, query: str) -> list[int]:
        """Indices of all documents, best first; equal scores keep the input order."""
        return order_of(self.scores(query))


def order_of(scores: npt.NDArray[np.float32]) -> list[int]:
    """Indices of documents by their scores, best first; equal scores keep the input order."""
    return [int(i) for i in np.argsort(-scores, kind="stable")]
