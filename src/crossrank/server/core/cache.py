"""Scores that were computed before: the same model, settings and texts have the same logit."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

__all__ = ["ENTRY_BYTES", "CachedPair", "ScoreCache", "pair_keys"]

ENTRY_BYTES = 248
"""Memory of one entry, measured on CPython 3.11: its key, its value and its place in the table."""

_VALUE = struct.Struct("<fi??ii")


class CachedPair(NamedTuple):
    """What is kept of a query and a document: the logit, the tokens as scored, and what of them was read.

    Attributes:
        window: as ``ScoredPair`` has it.
    """

    logit: float
    tokens: int
    truncated: bool
    query_truncated: bool = False
    window: tuple[int, int] | None = None


class ScoreCache:
    """The most lately used pairs within a number of bytes. Safe between threads.

    Texts are not kept: a key is a 128-bit BLAKE2 hash of the model, the settings and both texts.

    Attributes:
        limit: bytes; an entry takes ``ENTRY_BYTES``.
        hits, misses, evicted: counted since the start.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.hits = self.misses = self.evicted = 0
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._most = limit // ENTRY_BYTES
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes in use."""
        return len(self._entries) * ENTRY_BYTES

    def find(self, keys: Sequence[bytes]) -> list[CachedPair | None]:
        """What is known of each key; None: nothing."""
        found: list[CachedPair | None] = []
        with self._lock:
            for key in keys:
                value = self._entries.get(key)
                if value is None:
                    self.misses += 1
                    found.append(None)
                else:
                    self.hits += 1
                    self._entries.move_to_end(key)
                    logit, tokens, cut, query_cut, start, end = _VALUE.unpack(value)
                    window = (start, end) if end else None
                    found.append(CachedPair(logit, tokens, cut, query_cut, window))
        return found

    def keep(
        self,
        key: bytes,
        logit: float,
        tokens: int,
        truncated: bool,
        query_truncated: bool = False,
        window: tuple[int, int] | None = None,
    ) -> None:
        """Remember a pair; the least lately used make room. ``logit`` is a float32 and stays exact."""
        with self._lock:
            self._entries[key] = _VALUE.pack(logit, tokens, truncated, query_truncated, *(window or (0, 0)))
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)
                self.evicted += 1


def pair_keys(settings: str, queries: Sequence[str], texts: Sequence[str]) -> list[bytes]:
    """Keys of texts with one query, or with one each; ``settings`` is all else that a logit depends on."""
    start = hashlib.blake2b(_with_length(settings), digest_size=16)
    begun: dict[str, hashlib.blake2b] = {}
    for query in queries:
        if query not in begun:
            begun[query] = start.copy()
            begun[query].update(_with_length(query))
    keys = []
    for query, text in zip(cycle(queries), texts):
        key = begun[query].copy()
        key.update(text.encode("utf-8", "surrogatepass"))
        keys.append(key.digest())
    return keys


def _with_length(text: str) -> bytes:
    """So that no two lists of texts are the same bytes."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data
