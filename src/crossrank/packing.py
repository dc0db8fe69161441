"""Pairs to packs: token sequences laid end to end, without padding, under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank.pairs import EncodedPair

__all__ = ["Pack", "build_pack", "plan_packs"]


@dataclass(frozen=True, slots=True)
class Pack:
    """B pairs of T tokens in all, end to end.

    Attributes:
        token_ids: int32 (T,).
        offsets: int32 (B+1,), cumulative lengths (also called cu_seqlens): pair b is
            ``token_ids[offsets[b]:offsets[b + 1]]``.
        segment_ids: int32 (T,) for models that tell query from document by segment, else None.
    """

    token_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]
    segment_ids: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each pair, int32 (B,)."""
        return np.diff(self.offsets)


def plan_packs(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group pairs into packs of at most ``budget`` tokens, longest pairs first.

    Neighbours in a pack have similar lengths, so an engine that must pad wastes little, and the
    largest pack comes first, so memory runs out at once or not at all.

    Args:
        lengths: tokens of each pair.
        budget: tokens of a pack; a single longer pair gets a pack of its own.

    Returns:
        Indices into ``lengths``, every one exactly once; equal lengths keep their order.
    """
    packs: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):  # stable all the same
        if not packs or lengths[index] > room:
            packs.append([])
            room = budget
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def build_pack(pairs: Sequence[EncodedPair]) -> Pack:
    """Lay pairs end to end, in the order given."""
    offsets = np.zeros(len(pairs) + 1, np.int32)
    np.cumsum([len(pair.token_ids) for pair in pairs], out=offsets[1:])
    if not pairs:
        return Pack(np.zeros(0, np.int32), offsets)
    token_ids = np.concatenate([pair.token_ids for pair in pairs])
    if pairs[0].segment_ids is None:
        return Pack(token_ids, offsets)
    segments = [pair.segment_ids for pair in pairs if pair.segment_ids is not None]
    return Pack(token_ids, offsets, np.concatenate(segments))
