"""Pairs to packs: token sequences laid end to end, without padding, under a token budget.

Pairs that begin alike, as those of a query do after a prompt, can share that beginning: it is their prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank.pairs import EncodedPair

__all__ = ["Pack", "build_pack", "plan_packs", "plan_sharing"]


@dataclass(frozen=True, slots=True)
class Pack:
    """B pairs of T tokens in all, end to end.

    Where there are prefixes, ``token_ids`` and ``offsets`` hold what comes after them. Pairs that have none
    then share an empty one.

    Attributes:
        token_ids: int32 (T,).
        offsets: int32 (B+1,), cumulative lengths (also called cu_seqlens): pair b is
            ``token_ids[offsets[b]:offsets[b + 1]]``.
        segment_ids: int32 (T,) for models that tell query from document by segment, else None.
        prefix_ids: int32 (P,), the prefixes end to end; None: there are none.
        prefix_offsets: int32 (G+1,), their cumulative lengths.
        prefix_of: int32 (B,), the prefix of each pair.
    """

    token_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]
    segment_ids: npt.NDArray[np.int32] | None = None
    prefix_ids: npt.NDArray[np.int32] | None = None
    prefix_offsets: npt.NDArray[np.int32] | None = None
    prefix_of: npt.NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each pair, int32 (B,), without its prefix."""
        return np.diff(self.offsets)

    def whole(self) -> Pack:
        """The same pairs without prefixes, each a whole sequence: what an engine reads that cannot share."""
        if self.prefix_ids is None or self.prefix_offsets is None or self.prefix_of is None:
            return self
        prefixes = np.split(self.prefix_ids, self.prefix_offsets[1:-1])
        tails = np.split(self.token_ids, self.offsets[1:-1])
        wholes = [
            np.concatenate((prefixes[group], tail))
            for group, tail in zip(self.prefix_of.tolist(), tails, strict=True)
        ]
        return Pack(np.concatenate(wholes), _offsets([len(whole) for whole in wholes]))


def plan_packs(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group pairs into packs of at most ``budget`` tokens, longest pairs first.

    Neighbours in a pack have similar lengths, so an engine that must pad wastes little, and the
    largest pack comes first, so memory runs out at once or not at all.

    Args:
        lengths: tokens of each pair; for an engine that shares prefixes, those after the prefix.
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


def plan_sharing(pairs: Sequence[EncodedPair], budget: int) -> list[list[int]]:
    """Group pairs into packs of at most ``budget`` tokens for an engine that computes a prefix once.

    Pairs with the same prefix stay together, as the engine cannot keep those of all queries. A pack has its
    longest pairs first.

    Args:
        pairs: the pairs.
        budget: tokens of a pack, each of its prefixes counted once; a single larger pair gets a pack of its
            own.

    Returns:
        Indices into ``pairs``, every one exactly once.
    """
    groups: dict[bytes, list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.token_ids[: pair.prefix].tobytes(), []).append(index)
    packs: list[list[int]] = []
    room = 0
    for group in groups.values():
        prefix = pairs[group[0]].prefix
        begun = False  # the prefix is in the last pack
        for index in group:
            tail = pairs[index].tokens - prefix
            if not packs or tail + (0 if begun else prefix) > room:
                packs.append([])
                room, begun = budget, False
            packs[-1].append(index)
            room -= tail + (0 if begun else prefix)
            begun = True
    return [sorted(pack, key=lambda index: pairs[index].prefix - pairs[index].tokens) for pack in packs]


def build_pack(pairs: Sequence[EncodedPair]) -> Pack:
    """Lay pairs end to end, in the order given. Equal prefixes of theirs become one."""
    if not pairs:
        return Pack(np.zeros(0, np.int32), _offsets([]))
    if any(pair.prefix for pair in pairs):
        return _build_with_prefixes(pairs)
    offsets = _offsets([len(pair.token_ids) for pair in pairs])
    token_ids = np.concatenate([pair.token_ids for pair in pairs])
    if pairs[0].segment_ids is None:
        return Pack(token_ids, offsets)
    segments = [pair.segment_ids for pair in pairs if pair.segment_ids is not None]
    return Pack(token_ids, offsets, np.concatenate(segments))


def _build_with_prefixes(pairs: Sequence[EncodedPair]) -> Pack:
    prefixes = [pair.token_ids[: pair.prefix] for pair in pairs]
    groups: dict[bytes, int] = {}
    prefix_of = [groups.setdefault(prefix.tobytes(), len(groups)) for prefix in prefixes]
    distinct = [np.frombuffer(prefix, np.int32) for prefix in groups]
    tails = [pair.token_ids[pair.prefix :] for pair in pairs]
    return Pack(
        np.concatenate(tails),
        _offsets([len(tail) for tail in tails]),
        None,
        np.concatenate(distinct),
        _offsets([len(prefix) for prefix in distinct]),
        np.array(prefix_of, np.int32),
    )


def _offsets(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
