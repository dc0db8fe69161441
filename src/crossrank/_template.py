"""What stands around a query and a document: special tokens, or a prompt.

Byte-level tokenizers may merge a text's first characters with what stands before it, and its last ones with
what follows: the space of "Document: ..." belongs to the document's first word. So some characters of a prompt
are tokenised with the text beside them, as few as give the ids of the whole prompt.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.templates import Prompt
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
    """

    lead: str
    trail: str
    lead_ids: TokenIds
    trail_ids: TokenIds

    def fill(self, text: str) -> str:
        """The text that is tokenised."""
        return f"{self.lead}{text}{self.trail}"

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
_PROBES = tuple(
    dict.fromkeys(f"{first}{second}" for first in _ENDS for second in ("", "a", " a", "\n", "7", "."))
)
"""Texts with all kinds of characters at both ends. Tokenizers split texts by such kinds."""

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
        for instruction in {prompt.instruction or "", "x"} if prompt.instruction is not None else {""}:
            self._slots[bool(instruction)] = self._find_slots(instruction)
        # A few instructions serve all requests; if they are many, none is worth keeping.
        self._known: dict[str, Template] = {}

    def of(self, instruction: str) -> Template:
        """The template with an instruction."""
        found = self._known.get(instruction)
        if found is None:
            found = self._build(instruction)
            if len(self._known) >= _MOST_KNOWN:
                self._known = {}
            self._known[instruction] = found
        return found

    def _build(self, instruction: str) -> Template:
        slots = self._slots.get(bool(instruction)) or self._slots[True]
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
        found: list[Slot] = []
        fields: list[str] = []
        for pieces in self._prompt.pieces(instruction):
            start = 0
            for i, field in enumerate(pieces):
                if i % 2 == 0:
                    continue
                before, after = pieces[i - 1][start:], pieces[i + 1]
                lead = self._lead(before, free=i == 1)
                trail = self._trail(after, free=i + 2 == len(pieces))
                start = len(trail)
                fields.append(field)
                found.append(Slot(lead, trail, self._ids(lead.rstrip(" ")), self._ids(trail)))
        if fields != ["query", "document"]:
            raise UnsupportedModelError(
                "the model's prompt does not have the query and the document behind it, each once"
            )
        return found[0], found[1]

    def _lead(self, text: str, *, free: bool) -> str:
        """The characters of the text before a field that are tokenised with the field's text.

        Args:
            free: all may be, since nothing else stands before them.
        """
        for place in range(len(text), -1, -1):
            if place == 0 and free:
                break
            head = self._ids(text[:place])
            if all(
                np.array_equal(np.concatenate((head, self._ids(text[place:] + probe))), whole)
                for probe, whole in ((probe, self._ids(text + probe)) for probe in _PROBES)
            ):
                return text[place:]
        if not free:
            raise _inseparable()
        return text

    def _trail(self, text: str, *, free: bool) -> str:
        """The same for the text after a field."""
        for place in range(len(text) + 1):
            if place == len(text) and free:
                break
            end = self._ids(text[place:])
            if all(
                np.array_equal(np.concatenate((self._ids(probe + text[:place]), end)), whole)
                for probe, whole in ((probe, self._ids(probe + text)) for probe in _PROBES)
            ):
                return text[:place]
        if not free:
            raise _inseparable()
        return text

    def _ids(self, text: str) -> TokenIds:
        with library_errors("the tokenizer"):
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
