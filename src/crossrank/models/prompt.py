"""A prompt: the text around a query and a document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Part", "Prompt"]

Part: TypeAlias = str
"""Text with the fields ``{instruction}``, ``{query}`` and ``{document}``, which is tokenised as one."""

_FIELD = re.compile(r"\{(instruction|query|document)\}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A model's prompt.

    Attributes:
        parts: the prompt; parts are tokenised apart, and their ids joined.
        instruction: what is used where the caller gives none; None: the model takes no instruction.
        bare: the prompt without an instruction; None: ``parts`` with an empty one.
        max_length: tokens of a pair by default, as the reference has it.
        stripped: fields whose texts lose white space at both ends.
    """

    parts: tuple[Part, ...]
    instruction: str | None = None
    bare: tuple[Part, ...] | None = None
    max_length: int = 512
    stripped: frozenset[str] = frozenset()

    def pieces(self, instruction: str) -> list[list[str]]:
        """Each part as text, field, text, ..., field, text, with the instruction in its place."""
        parts = self.parts if instruction or self.bare is None else self.bare
        found = []
        for part in parts:
            text, *rest = _FIELD.split(part)
            pieces = [text]
            for field, following in zip(rest[::2], rest[1::2], strict=True):
                if field == "instruction":
                    pieces[-1] += instruction + following
                else:
                    pieces += [field, following]
            found.append(pieces)
        return found

    def text(self, instruction: str) -> str:
        """The whole prompt with the fields ``{query}`` and ``{document}``."""
        return "".join(
            piece if i % 2 == 0 else f"{{{piece}}}"
            for pieces in self.pieces(instruction)
            for i, piece in enumerate(pieces)
        )
