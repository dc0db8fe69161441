"""What the adapters rank in their tests."""

from tests.checkpoints import CORPUS

__all__ = ["DOCUMENTS", "LONG", "QUERY"]

QUERY = "What is the capital of China?"
DOCUMENTS = list(CORPUS)
"""Short enough that nobody cuts them."""
LONG = " ".join(CORPUS) * 3
"""Longer than any window."""
