"""Find where a text's sentences begin and end, in any language, without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Span", "sentence_spans"]


class Span(NamedTuple):
    """A part of a text: ``text[start:end]``."""

    start: int
    end: int


# Characters that may follow a sentence's final punctuation and still belong to the sentence.
_CLOSERS = "\"'”’»›」』）)】］]〉》〕｣"
# Punctuation that always ends a sentence: Chinese, Japanese, Devanagari, Arabic, Urdu, Ethiopic, Burmese,
# Khmer, Armenian.
_STRONG = "。！？｡।॥؟۔።။៕។։"
# Thai and Lao have no such punctuation: a space ends a clause.
_THAI = "\u0e00-\u0eff"
_THAI_MIN = 24
"""Characters of the shortest clause. A space after fewer, such as a name or a number, does not end one."""

# The look-behinds let a run of punctuation or spaces match from its first character only. If that fails, it
# fails from every later character too, and trying them all would take quadratic time.
_BREAK = re.compile(
    rf"(?P<strong>[{_STRONG}][{_STRONG}!?.…]*[{re.escape(_CLOSERS)}]*)"
    rf"|(?P<weak>(?<![.!?…])[.!?…]+[{re.escape(_CLOSERS)}]*)(?=\s|$|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"
    r"|(?P<line>(?<![^\S\n])[^\S\n]*\n\s*)"
    rf"|(?P<thai>(?<=[{_THAI}])[^\S\n]+(?=[{_THAI}]))"
)
_NEXT = re.compile(r"\s*(\S)")
_LAST_WORD = re.compile(r"[^\W_](?:[^\W_]|\.(?=[^\W_]))*$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]$")
_NUMBERING = re.compile(r"[(\[]?(?:\d{1,3}|[ivxIVX]{1,4}|[a-zA-Z])$")
_SPACE = re.compile(r"\s+")
_LONGEST_ABBREVIATION = 12

# Abbreviations that stand before a name: the capital letter after their full stop does not begin a sentence.
_TITLES = frozenset(
    # English; German, French, Spanish, Italian, Portuguese, Dutch; Russian, Polish, Czech, Turkish
    """
    mr mrs ms dr prof jr mt gen col maj capt lt sgt rev hon gov pres messrs vs al cf eg ie viz approx dept
    univ bros ave blvd rd hwy eds bzw ggf usw hrsg tel vgl zb dh ua evtl mio mrd hl mme mlle sra srta dra
    ud uds dott avv dhr mw drs bijv г гг вв им ул пр тыс млн млрд руб коп акад проф доц np tzn tzv např
    örn bkz
    """.split()  # noqa: SIM905 - a list of 90 strings would take a page
)
# Words that are abbreviations only before a number: "no. 5", but "he said no. Then he left".
_BEFORE_NUMBERS = frozenset(
    """
    no nos nr vol vols fig figs eq eqs sec ch chap pp p art ca est jan feb mar apr jun jul aug sep sept
    oct nov dec mon tue wed thu fri sat sun op ed st abb abs bd núm pág págs cap pag blz стр рис см ст обр
    č str čl
    """.split()  # noqa: SIM905
)


def sentence_spans(text: str) -> Iterator[Span]:
    """The sentences of a text, in order, without the white space around them.

    Every character that is not white space is in exactly one sentence. A full stop ends a sentence only
    before white space, and not after initials, common abbreviations and list numbers, nor before a word in
    lower case. A line break ends a sentence unless the next line begins in lower case, as a wrapped line
    does. Thai and Lao, which have no full stop, are split at the spaces between clauses.

    Returns:
        The place of each sentence: ``text[span.start:span.end]``.
    """
    start = read = _after_spaces(text, 0)
    # Punctuation alone is not a sentence: it joins the next one, or, at the end of the text, the last one.
    has_letters = False
    pending: Span | None = None
    for found in _BREAK.finditer(text, start):
        end = found.end() if found.lastgroup in ("strong", "weak") else found.start()
        has_letters = has_letters or any(character.isalnum() for character in text[read:end])
        read = max(read, end)
        if has_letters and end > start and _ends(text, start, found):
            if pending:
                yield pending
            pending = Span(start, end)
            start = read = _after_spaces(text, found.end())
            has_letters = False
    end = len(text.rstrip())
    if pending and start < end and not any(character.isalnum() for character in text[start:end]):
        pending, start = Span(pending.start, end), end
    if pending:
        yield pending
    if start < end:
        yield Span(start, end)


def _after_spaces(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _ends(text: str, start: int, found: re.Match[str]) -> bool:
    """True if a sentence that begins at ``start`` ends at this punctuation, line break or space."""
    if found["strong"]:
        return True
    following = _NEXT.match(text, found.end())
    lower = following is not None and following[1].islower()
    if found["thai"]:
        return found.start() - start >= _THAI_MIN
    if found["line"]:
        return found["line"].count("\n") > 1 or not lower
    if lower:
        return False
    if found["weak"] != ".":
        return "…" not in found["weak"] or following is None or not _is_cjk(following[1])
    word = _LAST_WORD.search(text, max(start, found.start() - _LONGEST_ABBREVIATION), found.start())
    if word is None or following is None:
        return True
    lowered = word[0].lower()
    if lowered in _TITLES or (lowered in _BEFORE_NUMBERS and following[1].isdigit()):
        return False
    if word.start() - start <= 1 and _NUMBERING.match(text[start : found.start()]):
        return False
    return not _INITIALS.match(word[0]) or _is_cjk(following[1])


def _is_cjk(character: str) -> bool:
    return "\u3040" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af"
