"""Where a text's sentences begin and end, in any language, without a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Span", "sentence_spans"]


class Span(NamedTuple):
    """A part of a text: ``text[start:end]``."""

    start: int
    end: int


# What may follow a sentence's last mark and still belongs to it.
_CLOSERS = "\"'”’»›」』）)】］]〉》〕｣"
# Marks that always end one: Chinese, Japanese, Devanagari, Arabic, Urdu, Ethiopic, Burmese, Khmer, Armenian.
_STRONG = "。！？｡।॥؟۔።။៕។։"
# Thai and Lao have no such mark; where their writers leave a space, a clause ends.
_THAI = "\u0e00-\u0eff"
_THAI_LEAST = 24
"""Characters of such a clause; shorter ones (names, numbers) go on."""

# A run of marks or spaces is tried from its first character only (the look-behinds): what fails there
# fails from every later one too, and trying them all would take quadratic time.
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

# Words that a full stop follows within a sentence, before a name (which begins like a sentence).
_TITLES = frozenset(
    # English; German, French, Spanish, Italian, Portuguese, Dutch; Russian, Polish, Czech, Turkish
    """
    mr mrs ms dr prof jr mt gen col maj capt lt sgt rev hon gov pres messrs vs al cf eg ie viz approx dept
    univ bros ave blvd rd hwy eds bzw ggf usw hrsg tel vgl zb dh ua evtl mio mrd hl mme mlle sra srta dra
    ud uds dott avv dhr mw drs bijv г гг вв им ул пр тыс млн млрд руб коп акад проф доц np tzn tzv např
    örn bkz
    """.split()  # noqa: SIM905 - a list of 90 strings would take a page
)
# And words that it follows only before a number: "no. 5", but "he said no. Then he left".
_BEFORE_NUMBERS = frozenset(
    """
    no nos nr vol vols fig figs eq eqs sec ch chap pp p art ca est jan feb mar apr jun jul aug sep sept
    oct nov dec mon tue wed thu fri sat sun op ed st abb abs bd núm pág págs cap pag blz стр рис см ст обр
    č str čl
    """.split()  # noqa: SIM905
)


def sentence_spans(text: str) -> Iterator[Span]:
    """The sentences of a text, one after another, without the white space around them.

    Every character that is not white space is in exactly one of them. A full stop ends a sentence
    before white space only, and not after initials, common abbreviations and the number of a list,
    nor before a word in lower case. A line ends one unless the next begins in lower case, as a
    wrapped line does. Thai and Lao, which have no full stop, are divided at spaces between clauses.
    """
    start = read = _after_spaces(text, 0)
    spoken = False  # marks alone are no sentence: they go with what follows, and the last with what precedes
    held: Span | None = None
    for found in _BREAK.finditer(text, start):
        end = found.end() if found.lastgroup in ("strong", "weak") else found.start()
        spoken = spoken or any(character.isalnum() for character in text[read:end])
        read = max(read, end)
        if spoken and end > start and _ends(text, start, found):
            if held:
                yield held
            held = Span(start, end)
            start = read = _after_spaces(text, found.end())
            spoken = False
    end = len(text.rstrip())
    if held and start < end and not any(character.isalnum() for character in text[start:end]):
        held, start = Span(held.start, end), end
    if held:
        yield held
    if start < end:
        yield Span(start, end)


def _after_spaces(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _ends(text: str, start: int, found: re.Match[str]) -> bool:
    """Whether a sentence that begins at ``start`` ends at this mark, line or space."""
    if found["strong"]:
        return True
    following = _NEXT.match(text, found.end())
    lower = following is not None and following[1].islower()
    if found["thai"]:
        return found.start() - start >= _THAI_LEAST
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
