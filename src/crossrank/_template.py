"""What stands around a query and a document: special tokens, or a prompt.

Byte-level tokenizers may merge a text's first characters with what stands before it, and its last ones with
what follows: the space of "Document: ..." belongs to the document's first word. So some characters of a
prompt are tokenised with the text beside them, as few as give the ids of the whole prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.prompt import Prompt
from crossrank.text.words import TokenIds, library_errors

__all__ = ["PromptTemplates", "Slot", "Template", "read_template"]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a text stands in a template.

    Attributes:
        lead: characters before the text that are tokenised with it.
        trail: those after it.
        lead_ids: of ``lead`` without spaces at its end: what a text begins with that is cut at its start.
        trail_ids: of ``trail``: what a text ends with that is cut at its end.
        is_stripped: white space at the text's ends is left out.
    """

    lead: str
    trail: str
    lead_ids: TokenIds
    trail_ids: TokenIds
    is_stripped: bool = False

    def fill(self, text: str) -> str:
        """The text that is tokenised."""
        if self is _PLAIN:
            return text
        return f"{self.lead}{text.strip() if self.is_stripped else text}{self.trail}"

    def place(self, text: str, end: int) -> int:
        """The place in a text of a place in what is tokenised."""
        dropped = len(text) - len(text.lstrip()) if self.is_stripped else 0
        return min(max(0, end - len(self.lead)) + dropped, len(text))

    def first(self, ids: TokenIds, keep: int) -> TokenIds:
        """So many tokens of a text from its start."""
        if keep >= len(ids) or not len(self.trail_ids):
            return ids[:keep]
        end = self.trail_ids[:keep]
        return np.concatenate((ids[: keep - len(end)], end))

    def last(self, ids: TokenIds, keep: int) -> TokenIds:
        """So many tokens of a text from its end."""
        if keep >= len(ids):
            return ids
        start = self.lead_ids[:keep]
        return np.concatenate((start, ids[len(ids) - keep + len(start) :]))


_MOST_KNOWN = 1024
_ANY = "\ue000"
"""Stands for an instruction."""

_NEAR = 24
"""Characters of a prompt beside a field that are looked at: no text is merged with what is further away."""

_ENDS = (
    *(
        "",
        "a",
        "A",
        "7",
        "é",
        "е",
        "中",
        "の",
        "ไ",
        "ع",
        "अ",
        "한",
        "\u0301",
        "🐼",
        "👩\u200d🚀",
        "\u200b",
        "\ufeff",
    ),
    *(" ", "  ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\xa0", "\u3000", "\u2028"),
    *(
        "'",
        "'s",
        "'ll",
        '"',
        "(",
        ")",
        "<",
        ">",
        "</",
        "|",
        ":",
        ".",
        "..",
        ",",
        "?",
        "!",
        "/",
        "\\",
        "-",
        "_",
        "=",
    ),
    *("#", "$", "%", "&", "*", "+", "@", "^", "~", "`", "{", "}", "[", "]", "。", "？", "：", "“", "€"),
)
_PROBES = tuple(dict.fromkeys(f"{first}{second}" for first in _ENDS for second in ("", "a", " a", "\n")))
"""Texts with all kinds of characters at both ends. Tokenizers split texts by such kinds."""

_STRIPPED = tuple(probe for probe in _PROBES if probe == probe.strip())

_NONE = np.zeros(0, np.int32)
_PLAIN = Slot("", "", _NONE, _NONE)


@dataclass(frozen=True, slots=True)
class Template:
    """What stands around a query and a document.

    Attributes:
        before, between, after: the tokens.
        segments: the segment of each of the five parts.
        query, document: the places of the texts.
        shared: what stands before the document is shared by all documents of a query.
    """

    before: TokenIds
    between: TokenIds
    after: TokenIds
    segments: tuple[list[int], int, list[int], int, list[int]] = ([], 0, [], 0, [])
    query: Slot = _PLAIN
    document: Slot = _PLAIN
    shared: bool = False

    @property
    def size(self) -> int:
        """Tokens that are neither the query's nor the document's."""
        return len(self.before) + len(self.between) + len(self.after)


def read_template(tokenizer: Tokenizer) -> Template:
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
            "and a document would run into one another; a model that is made from a language model needs its "
            "prompt (docs/models.md)"
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
    return Template(
        ids[:first],
        ids[last + 1 : begin],
        ids[end + 1 :],
        (types[:first], types[first], types[last + 1 : begin], types[begin], types[end + 1 :]),
    )


def _inseparable() -> UnsupportedModelError:
    return UnsupportedModelError(
        "tokenizer.json may merge characters of the query and the document with any text between them, so "
        "the prompt's parts cannot be tokenised apart"
    )


class PromptTemplates:
    """A model's prompt as templates, one for each instruction. Safe to use from several threads.

    Args:
        prompt: the model's.
        tokenizer: the model's.

    Raises:
        UnsupportedModelError: the document comes before the query, or their tokens cannot be told apart.
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._slots: dict[bool, tuple[Slot, Slot]] = {}
        for instruction in ("", _ANY) if prompt.bare is not None else (_ANY,):
            self._slots[bool(instruction)] = self._find_slots(instruction)
        # A few instructions serve all requests; if they are many, none is worth keeping.
        self._known: dict[str, Template] = {}

    def of(self, instruction: str) -> Template:
        """The template with an instruction."""
        if "instruction" in self._prompt.stripped:
            instruction = instruction.strip()
        found = self._known.get(instruction)
        if found is None:
            found = self._build(instruction)
            if len(self._known) >= _MOST_KNOWN:
                self._known = {}
            self._known[instruction] = found
        return found

    def _build(self, instruction: str) -> Template:
        slots = self._slots.get(bool(instruction), self._slots[True])
        between: list[list[str]] = [[]]
        slot = iter(slots)
        for pieces in self._prompt.pieces(instruction):
            start = 0
            for text, field in zip(pieces[::2], [*pieces[1::2], None], strict=True):
                if field is None:
                    between[-1].append(text[start:])
                    continue
                edge = next(slot)
                between[-1].append(text[start : len(text) - len(edge.lead)])
                between.append([])
                start = len(edge.trail)
        before, middle, after = (
            np.concatenate([_NONE, *(self._ids(text) for text in texts)]) for texts in between
        )
        return Template(before, middle, after, query=slots[0], document=slots[1], shared=True)

    def _find_slots(self, instruction: str) -> tuple[Slot, Slot]:
        parts = self._prompt.pieces(instruction)
        if [field for pieces in parts for field in pieces[1::2]] != ["query", "document"]:
            raise UnsupportedModelError(
                "the model's prompt does not have the query and the document behind it, each once"
            )
        found: list[Slot] = []
        for pieces in parts:
            start = 0
            for i, field in enumerate(pieces):
                if i % 2 == 0:
                    continue
                before, after = pieces[i - 1][start:], pieces[i + 1]
                is_stripped = field in self._prompt.stripped
                probes = _STRIPPED if is_stripped else _PROBES
                lead = self._lead(before, probes, free=i == 1)
                trail = self._trail(after, probes, free=i + 2 == len(pieces))
                start = len(trail)
                ids = self._ids(lead.rstrip(" ")), self._ids(trail)
                found.append(Slot(lead, trail, *ids, is_stripped))
        return found[0], found[1]

    def _lead(self, text: str, probes: Sequence[str], *, free: bool) -> str:
        """The characters of the text before a field that are tokenised with the field's text.

        Args:
            text: all of it.
            probes: texts that the field may have.
            free: all may be, since nothing else stands before them.
        """
        near = text[-_NEAR:]
        for place in range(len(near), 0, -1):
            if self._parts_at([near + probe for probe in probes], [place] * len(probes)):
                lead = near[place:]
                break
        else:
            lead = text
        if (lead == text and not free) or _ANY in lead:
            raise _inseparable()
        return lead

    def _trail(self, text: str, probes: Sequence[str], *, free: bool) -> str:
        """The same for the text after a field."""
        near = text[:_NEAR]
        for place in range(len(near)):
            if self._parts_at([probe + near for probe in probes], [len(probe) + place for probe in probes]):
                trail = near[:place]
                break
        else:
            trail = text
        if (trail == text and not free) or _ANY in trail:
            raise _inseparable()
        return trail

    def _parts_at(self, texts: list[str], places: list[int]) -> bool:
        """Whether texts have the tokens of what stands before a place, and then of what stands behind it."""
        some = slice(0, None, len(texts) // 8)  # most places fail at once
        for chosen in (some, slice(None)):
            cut = list(zip(texts[chosen], places[chosen], strict=True))
            wholes = self._all_ids([text for text, _ in cut])
            heads = self._all_ids([text[:place] for text, place in cut])
            tails = self._all_ids([text[place:] for text, place in cut])
            if any(whole != head + tail for whole, head, tail in zip(wholes, heads, tails, strict=True)):
                return False
        return True

    def _all_ids(self, texts: list[str]) -> list[list[int]]:
        with library_errors("the tokenizer"):
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _ids(self, text: str) -> TokenIds:
        with library_errors("the tokenizer"):
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
