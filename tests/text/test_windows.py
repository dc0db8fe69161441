from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrank.text.sentences import Span, sentence_spans
from crossrank.text.windows import best_spans, joined, section_spans, window_spans

TEXTS = st.text("ab c.。\n", max_size=300)


def starts_of(text: str) -> npt.NDArray[np.int64]:
    """A token for every two characters of a word, as a subword tokenizer has it."""
    found = [start for word in re.finditer(r"\S+", text) for start in range(word.start(), word.end(), 2)]
    return np.array(found, np.int64)


def windows(text: str, room: int, overlap: int = 0) -> list[str]:
    return [text[start:end].strip() for start, end in window_spans(text, starts_of(text), room, overlap)]


def assert_whole(text: str, spans: list[Span]) -> None:
    """The spans are in the text's order, and together hold all of it that is not white space."""
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(first.start < second.start and first.end < second.end for first, second in pairwise(spans))
    assert len(joined(spans, text)) <= 1
    if text.strip():
        assert text[: spans[0].start].strip() == text[spans[-1].end :].strip() == ""


@given(TEXTS, st.integers(1, 40))
def test_windows_hold_all_of_a_text_and_no_more_tokens_than_there_is_room_for(text: str, room: int) -> None:
    starts = starts_of(text)
    spans = window_spans(text, starts, room, room // 8)
    assert_whole(text, spans)
    for start, end in spans:
        assert np.searchsorted(starts, end) - np.searchsorted(starts, start) <= room
    assert len(spans) <= 1 + len(starts)


def test_windows_end_at_sentence_ends_and_share_sentences() -> None:
    text = "Aa bb. Cc dd. Ee ff. Gg hh. Ii jj."
    sentences = [text[start:end] for start, end in sentence_spans(text)]
    assert [len(starts_of(each)) for each in sentences] == [3] * 5
    assert windows(text, 7) == ["Aa bb. Cc dd.", "Ee ff. Gg hh.", "Ii jj."]
    assert windows(text, 9, overlap=3) == ["Aa bb. Cc dd. Ee ff.", "Ee ff. Gg hh. Ii jj."]


def test_a_text_without_sentence_ends_is_cut_between_words_and_then_between_tokens() -> None:
    assert windows("aa bb cc dd ee ff", 4, overlap=1) == ["aa bb cc dd", "dd ee ff"]
    assert windows("a" * 20, 4, overlap=0) == ["a" * 8, "a" * 8, "a" * 4]
    assert windows("a" * 20, 4, overlap=1) == ["a" * 8, "a" * 8, "a" * 8]


def test_a_short_sentence_before_a_long_one_is_no_window_of_its_own() -> None:
    text = "aa. " + "bb " * 20
    first, *_ = windows(text, 10)
    assert len(starts_of(first)) > 5


def test_several_tokens_of_one_character_stay_together() -> None:
    starts = np.repeat(np.arange(6), 3)
    assert window_spans("abcdef", starts, 7, 0) == [(0, 2), (2, 4), (4, 6)]
    assert window_spans("abcdef", starts, 2, 0) == [(i, i + 1) for i in range(6)]


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_white_space_has_no_windows_and_no_sections(text: str) -> None:
    assert window_spans(text, starts_of(text), 5, 1) == section_spans(text, 5) == []


@given(TEXTS, st.integers(1, 40))
def test_sections_hold_all_of_a_text_and_are_no_longer_than_said(text: str, size: int) -> None:
    spans = section_spans(text, size)
    assert_whole(text, spans)
    assert all(end - start <= size for start, end in spans)


def test_sections_are_whole_sentences_where_these_fit() -> None:
    text = "Aa bb. Cc dd. Ee ff."
    assert [text[start:end] for start, end in section_spans(text, 13)] == ["Aa bb. Cc dd.", "Ee ff."]


def test_the_best_spans_are_the_first_and_those_with_the_querys_words() -> None:
    parts = ["one.", "two.", "three cats.", "four.", "five cats sleep."]
    text = " ".join(parts)
    spans = [Span(text.index(part), text.index(part) + len(part)) for part in parts]
    chosen = [text[start:end] for start, end in best_spans("Do cats sleep?", text, spans, 3)]
    assert chosen == ["one.", "three cats.", "five cats sleep."]
    assert best_spans("Do cats sleep?", text, spans, 2) == [spans[0], spans[4]]
    assert best_spans("Do cats sleep?", text, spans, 1) == spans[:1]
    assert best_spans("nothing", text, spans, 3) == [spans[0], spans[2], spans[4]]
    assert best_spans("nothing", text, spans, 2) == [spans[0], spans[4]]
    assert best_spans("Do cats sleep?", text, spans, 4) == [spans[0], spans[2], spans[3], spans[4]]
    assert best_spans("Do cats sleep?", text, spans, 5) == spans


def test_neighbours_with_only_white_space_between_them_are_joined() -> None:
    text = "aa bb cc dd"
    assert joined([Span(0, 2), Span(3, 5), Span(4, 5), Span(9, 11)], text) == [(0, 5), (9, 11)]
