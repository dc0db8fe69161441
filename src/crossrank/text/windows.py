"""Cut a long text into windows that overlap and end at sentence ends, and choose the best of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from crossrank.text.keywords import KeywordIndex, keywords, order_of
from crossrank.text.sentences import Span, sentence_spans

__all__ = ["best_spans", "joined", "section_spans", "window_spans"]

_QUERY_CHARACTERS = 4000
"""Characters of a query in which keywords are looked for: far more than a model's window holds."""


def window_spans(text: str, starts: npt.NDArray[np.int64], room: int, overlap: int) -> list[Span]:
    """Windows of a text, in order: together they hold every character that is not white space.

    A window ends at the last sentence end that it has room for, and the next one begins with the first
    sentence that lies in its last ``overlap`` tokens. Where there is none, or the window would be less than
    half full, it is cut between words, and where there are no words, between tokens.

    Args:
        text: the text.
        starts: where each of its tokens begins, in characters, in ascending order.
        room: tokens of a window, at least 1.
        overlap: tokens that two neighbours share, less than half of ``room``.
    """
    sentences = list(sentence_spans(text))
    if not sentences:
        return []
    begins, ends = [span.start for span in sentences], [span.end for span in sentences]
    # How many tokens come before each of these places.
    before_begins = np.searchsorted(starts, begins).tolist()
    before_ends = np.searchsorted(starts, ends).tolist()
    spans: list[Span] = []
    start, stop, half = begins[0], ends[-1], (room + 1) // 2
    while True:
        first = int(np.searchsorted(starts, start))
        if first + room >= len(starts):
            spans.append(Span(start, stop))
            return spans
        last = bisect_right(before_ends, first + room) - 1
        full = last >= 0 and before_ends[last] - first >= half
        end = ends[last] if full else _between_words(text, starts, first + half, first + room)
        end = min(stop, max(end, start + 1))
        spans.append(Span(start, end))
        if end == stop:
            return spans
        least = int(np.searchsorted(starts, end)) - overlap
        following = bisect_left(before_begins, least)
        is_inside = following < len(begins) and begins[following] < end
        begin = begins[following] if is_inside else _between_words(text, starts, least, least + overlap // 2)
        start = min(end, max(begin, start + 1))


def _between_words(text: str, starts: npt.NDArray[np.int64], least: int, most: int) -> int:
    """A place with ``least`` to ``most`` tokens before it: behind the last white space, or the latest one."""
    low, high = (int(starts[max(0, token)]) for token in (least, most))
    space = max(text.rfind(space, low, high) for space in " \n\t")
    return high if space < 0 else space + 1


def section_spans(text: str, size: int) -> list[Span]:
    """Sections of a text, in order, of up to ``size`` characters: whole sentences, or parts of a longer one.

    Together they hold every character that is not white space.
    """
    spans: list[Span] = []
    for sentence in sentence_spans(text):
        for start in range(sentence.start, sentence.end, size):
            end = min(start + size, sentence.end)
            if spans and end - spans[-1].start <= size:
                spans[-1] = Span(spans[-1].start, end)
            else:
                spans.append(Span(start, end))
    return spans


def best_spans(query: str, text: str, spans: Sequence[Span], most: int) -> list[Span]:
    """The first span of a text, and those whose words fit a query best (BM25), in the text's order.

    Of spans without any of the query's words, some are taken from all over the text.

    Args:
        query: what is asked.
        text: the text.
        spans: parts of it, in its order.
        most: how many, at least 1.
    """
    if len(spans) <= most:
        return list(spans)
    wanted = keywords(query[:_QUERY_CHARACTERS])
    scores = KeywordIndex([text[start:end] for start, end in spans], set(wanted)).scores(wanted)
    chosen = [0, *(place for place in order_of(scores) if place and scores[place] > 0)][:most]
    others = sorted(set(range(len(spans))).difference(chosen))
    left = most - len(chosen)
    # The last ones of as many equal parts: the first span is there already.
    chosen += [others[len(others) * part // left - 1] for part in range(1, left + 1)]
    return [spans[place] for place in sorted(chosen)]


def joined(spans: Sequence[Span], text: str) -> list[Span]:
    """The same spans, those with only white space between them made one."""
    found: list[Span] = []
    for span in spans:
        if found and not text[found[-1].end : span.start].strip():
            found[-1] = Span(found[-1].start, span.end)
        else:
            found.append(span)
    return found
