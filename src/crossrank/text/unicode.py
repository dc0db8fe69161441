"""Lone surrogates, which are not characters and cannot be encoded."""

from __future__ import annotations

import re

__all__ = ["clean"]

_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Replace each lone surrogate, which neither UTF-8 nor a tokenizer can hold, with U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)
