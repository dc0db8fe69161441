from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crossrank.packing import build_pack, plan_packs
from crossrank.pairs import EncodedPair

lengths_and_budget = st.tuples(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 4096))


@given(lengths_and_budget)
def test_every_pair_is_in_exactly_one_pack(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    packs = plan_packs(lengths, budget)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(packs)


@given(lengths_and_budget)
def test_the_budget_is_kept_unless_one_pair_alone_exceeds_it(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    for pack in plan_packs(lengths, budget):
        assert len(pack) == 1 or sum(lengths[i] for i in pack) <= budget


@given(lengths_and_budget)
def test_pairs_are_sorted_by_length_longest_first(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    order = [lengths[i] for pack in plan_packs(lengths, budget) for i in pack]
    assert order == sorted(lengths, reverse=True)


@given(lengths_and_budget)
def test_no_two_neighbouring_packs_would_fit_into_one(case: tuple[list[int], int]) -> None:
    lengths, budget = case
    packs = plan_packs(lengths, budget)
    for left, right in pairwise(packs):
        assert sum(lengths[i] for i in left) + lengths[right[0]] > budget


def test_equal_lengths_keep_their_order() -> None:
    assert plan_packs([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def pair(ids: list[int], segments: list[int] | None = None) -> EncodedPair:
    as_array = None if segments is None else np.asarray(segments, np.int32)
    return EncodedPair(np.asarray(ids, np.int32), as_array, False)


def test_a_pack_lays_pairs_end_to_end() -> None:
    pack = build_pack([pair([1, 2, 3]), pair([4]), pair([5, 6])])
    assert pack.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert pack.offsets.tolist() == [0, 3, 4, 6]
    assert pack.lengths.tolist() == [3, 1, 2]
    assert pack.token_ids.dtype == pack.offsets.dtype == np.int32
    assert pack.segment_ids is None
    assert len(pack) == 3


def test_a_pack_keeps_segments() -> None:
    pack = build_pack([pair([1, 2, 3], [0, 0, 1]), pair([4, 5], [0, 1])])
    assert pack.segment_ids is not None
    assert pack.segment_ids.tolist() == [0, 0, 1, 0, 1]


def test_an_empty_pack() -> None:
    pack = build_pack([])
    assert len(pack) == 0
    assert pack.offsets.tolist() == [0]
