"""Characters that no encoding has."""

from __future__ import annotations

import re

__all__ = ["clean"]

_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate, which UTF-8 and the tokenizers cannot hold."""
    return _SURROGATE.sub("\ufffd", text)
