"""The order of pairs, counted in tokens: nothing here looks at a clock."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrank.server.core.fair import LARGE_SHARE, LOWER_SHARE, FairQueue, Flow, Room

QUANTUM = 100
LONGEST = 60
BUDGET = 80


@dataclass(frozen=True, eq=False)
class Pair:
    tokens: int
    flow: Flow[Pair, str] | None = None


Queue = FairQueue[Pair, str]
PACK = Room(BUDGET, 200)


def take(queue: Queue, room: Room = PACK, blocked: Collection[str] = ()) -> list[Pair]:
    """The next pack of the group whose turn it is."""
    group = queue.next_group(blocked)
    return [] if group is None else queue.take(group, room)


def flow(priority: int = 0, small: bool = False, group: str = "model", client: str = "") -> Flow[Pair, str]:
    return Flow(group, priority, small=small, client=client)


def fill(queue: Queue, of: Flow[Pair, str], lengths: list[int]) -> list[Pair]:
    pairs = [Pair(tokens, of) for tokens in lengths]
    queue.add(of, pairs)
    return pairs


def served(queue: Queue, packs: int) -> Counter[Flow[Pair, str]]:
    """Tokens that each flow gets in the next packs."""
    tokens: Counter[Flow[Pair, str]] = Counter()
    for _ in range(packs):
        for pair in take(queue):
            assert pair.flow is not None
            tokens[pair.flow] += pair.tokens
    return tokens


lengths = st.lists(st.integers(1, LONGEST), max_size=20)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new", "more", "take", "remove"]),
            lengths,
            st.integers(0, 9),
            st.integers(0, 2),
            st.booleans(),
            st.sampled_from(["A", "B"]),
            st.sampled_from(["one", "another", "third"]),
        ),
        max_size=60,
    )
)
def test_no_pair_is_lost_or_doubled(
    steps: list[tuple[str, list[int], int, int, bool, str, str]],
) -> None:
    queue = Queue(QUANTUM)
    flows: list[Flow[Pair, str]] = []
    waiting: set[Pair] = set()
    for action, sizes, which, priority, small, group, client in steps:
        if action == "new" or not flows:
            flows.append(flow(priority, small, group, client))
            waiting.update(fill(queue, flows[-1], sizes))
        elif action == "more":
            waiting.update(fill(queue, flows[which % len(flows)], sizes))
        elif action == "take":
            pack = take(queue)
            assert set(pack) <= waiting
            assert len(set(pack)) == len(pack)
            waiting.difference_update(pack)
            assert bool(pack) or not waiting
            assert len({pair.flow.group for pair in pack if pair.flow}) <= 1
        else:
            removed = flows[which % len(flows)]
            gone = {pair for pair in waiting if pair.flow is removed}
            assert queue.remove(removed) == len(gone)
            waiting -= gone
        assert queue.pairs == len(waiting)
        assert queue.tokens == sum(pair.tokens for pair in waiting)
        assert (queue.next_group() is not None) == bool(waiting)
        assert {f for f in flows if f.waiting} == set(queue.flows())
    while queue.next_group() is not None:
        pack = take(queue)
        assert pack
        waiting.difference_update(pack)
    assert not waiting


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(1, LONGEST), min_size=1, max_size=9), min_size=2, max_size=6), st.data())
def test_requests_that_wait_get_the_same_to_within_a_turn(
    sizes: list[list[int]], data: st.DataObject
) -> None:
    queue = Queue(QUANTUM)
    flows = [flow() for _ in sizes]
    for each, pattern in zip(flows, sizes, strict=True):
        fill(queue, each, list(itertools.islice(itertools.cycle(pattern), 4000 // min(pattern))))
    served(queue, data.draw(st.integers(0, 20)))
    tokens = served(queue, data.draw(st.integers(1, 20)))
    assert max(tokens[f] for f in flows) - min(tokens[f] for f in flows) <= 2 * QUANTUM + LONGEST


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_a_small_request_is_in_the_next_packs_whatever_waits(large: int, sizes: list[int]) -> None:
    queue = Queue(QUANTUM)
    for _ in range(large):
        fill(queue, flow(), [30] * 1000)
    served(queue, 10)
    small = flow(small=True)
    fill(queue, small, sizes)
    taken: list[Pair] = []
    while small.waiting:
        taken += take(queue)
    # Not a token of the large ones but what filled its last pack.
    assert all(pair.flow is small for pair in taken[: len(sizes)])


def test_endless_small_requests_leave_large_ones_their_share() -> None:
    queue = Queue(QUANTUM)
    large = flow()
    fill(queue, large, [25] * 5000)
    tokens: Counter[bool] = Counter()
    for _ in range(400):
        while len(list(queue.flows())) < 6:
            fill(queue, flow(small=True), [20] * 5)
        for each, count in served(queue, 1).items():
            tokens[each is large] += count
    share = tokens[True] / tokens.total()
    assert 1 / LARGE_SHARE - 0.02 <= share <= 1 / LARGE_SHARE + 0.02


def test_a_request_that_is_larger_than_it_seemed_goes_on_as_a_large_one() -> None:
    queue = Queue(QUANTUM)
    liar, honest = flow(small=True), flow()
    fill(queue, honest, [20] * 1000)
    fill(queue, liar, [20] * 1000)
    tokens = served(queue, 100)
    assert tokens[liar] - tokens[honest] <= 2 * QUANTUM


def test_slices_of_a_small_request_share_one_quantum() -> None:
    queue = Queue(QUANTUM)
    fill(queue, flow(), [20] * 1000)
    small = flow(small=True)
    for expected in (80, 20):
        fill(queue, small, [20] * 4)
        assert served(queue, 1)[small] == expected


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 5), st.integers(1, 3))
def test_a_lower_priority_waits_but_not_for_ever(high: int, low: int) -> None:
    queue = Queue(QUANTUM)
    for _ in range(high):
        fill(queue, flow(0), [20] * 4000)
    lower = [flow(priority) for priority in range(1, 1 + low)]
    for each in lower:
        fill(queue, each, [20] * 4000)
    first = served(queue, LOWER_SHARE * QUANTUM // (2 * BUDGET))
    assert not any(first[each] for each in lower)  # strict, for a while
    tokens = served(queue, 1000)
    share = sum(tokens[each] for each in lower) / tokens.total()
    assert 1 / LOWER_SHARE - 0.01 <= share <= 1 / LOWER_SHARE + 0.01
    assert min(tokens[each] for each in lower) >= tokens.total() / LOWER_SHARE / low * 0.9


def test_alone_a_lower_priority_gets_everything() -> None:
    queue = Queue(QUANTUM)
    low = flow(999)
    fill(queue, low, [20] * 100)
    assert served(queue, 25)[low] == 2000


def test_a_pack_holds_one_group_and_fills_up_with_it() -> None:
    queue = Queue(QUANTUM)
    for group in "ABAB":
        fill(queue, flow(group=group), [20] * 50)
    tokens: Counter[str] = Counter()
    for _ in range(30):
        pack = take(queue)
        groups = {pair.flow.group for pair in pack if pair.flow}
        assert len(groups) == 1
        assert sum(pair.tokens for pair in pack) == BUDGET
        tokens[groups.pop()] += BUDGET
    assert abs(tokens["A"] - tokens["B"]) <= 4 * QUANTUM


def test_a_blocked_group_waits_and_loses_nothing() -> None:
    queue = Queue(QUANTUM)
    fill(queue, flow(group="A"), [20])
    other = fill(queue, flow(5, group="B"), [20])
    assert take(queue, blocked={"A"}) == other
    assert queue.next_group({"A"}) is None
    assert take(queue, blocked={"A"}) == []
    assert queue.pairs == 1


def test_the_last_pair_may_exceed_the_budget_but_not_the_most() -> None:
    queue = Queue(QUANTUM)
    fill(queue, flow(), [60, 60, 60])
    assert [p.tokens for p in take(queue, Room(80, 120))] == [60, 60]
    fill(queue, flow(), [60, 60])
    assert [p.tokens for p in take(queue, Room(80, 119))] == [60]
    fill(queue, flow(small=True), [500])
    assert sorted(p.tokens for _ in range(3) for p in take(queue, Room(80, 119))) == [60, 60, 500]


def test_the_longest_pairs_of_a_request_go_first_and_fill_the_lanes() -> None:
    queue = Queue(10_000)
    one = flow()
    fill(queue, one, [30, 10, 50])
    fill(queue, one, [40, 20, 60, 25])
    packs = [[pair.tokens for pair in take(queue, Room(100, 1000, 3))] for _ in range(3)]
    assert packs == [[60, 50, 40], [30, 25, 20, 10], []]


def test_a_pack_of_the_small_is_filled_with_the_large_up_to_what_is_enough() -> None:
    queue = Queue(QUANTUM)
    fill(queue, flow(), [50] * 6)
    fill(queue, flow(small=True), [30, 30])
    packs = [[pair.tokens for pair in take(queue, Room(100, 1000, enough=60))] for _ in range(2)]
    assert packs == [[30, 30], [50, 50]]
    fill(queue, flow(small=True), [30])
    assert [pair.tokens for pair in take(queue, Room(100, 1000, enough=60))] == [30, 50]


def test_a_pack_of_one_group_though_it_is_another_ones_turn() -> None:
    queue = Queue(QUANTUM)
    first = fill(queue, flow(group="A"), [20])
    second = fill(queue, flow(group="B"), [20])
    assert queue.next_group() == "A"
    assert queue.next_group({"A"}) == "B"
    assert queue.take("B", PACK) == second
    assert take(queue) == first
    assert queue.next_group() is None


def tokens_of_clients(queue: Queue, packs: int) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for each, count in served(queue, packs).items():
        tokens[each.client] += count
    return tokens


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(1, LONGEST))
def test_clients_get_the_same_however_many_requests_each_has(requests: list[int], size: int) -> None:
    queue = Queue(QUANTUM)
    for name, count in enumerate(requests):
        for _ in range(count):
            fill(queue, flow(client=str(name)), [size] * (4000 // size))
    tokens = tokens_of_clients(queue, 30)
    shares = [tokens[str(name)] for name in range(len(requests))]
    assert max(shares) - min(shares) <= 2 * QUANTUM + LONGEST


def test_requests_of_a_client_share_its_turns() -> None:
    queue = Queue(QUANTUM)
    mine = [flow(client="mine") for _ in range(4)]
    for each in mine:
        fill(queue, each, [20] * 1000)
    fill(queue, flow(client="other"), [20] * 1000)
    tokens = served(queue, 100)
    assert max(tokens[f] for f in mine) - min(tokens[f] for f in mine) <= 2 * QUANTUM
    assert abs(sum(tokens[f] for f in mine) - BUDGET * 50) <= 2 * QUANTUM


def test_many_small_requests_of_one_client_are_as_one_large() -> None:
    queue = Queue(QUANTUM)
    large = flow(client="large")
    fill(queue, large, [20] * 5000)
    tokens: Counter[bool] = Counter()
    for _ in range(200):
        while len(list(queue.flows())) < 50:
            fill(queue, flow(small=True, client="flood"), [20] * 3)
        for each, count in served(queue, 1).items():
            tokens[each is large] += count
    assert abs(tokens[True] - tokens[False]) <= 4 * QUANTUM


def test_a_clients_small_request_waits_for_a_turn_of_those_who_send_many() -> None:
    queue = Queue(QUANTUM)
    for _ in range(200):
        fill(queue, flow(small=True, client="flood"), [20] * 3)
    served(queue, 20)
    small = flow(small=True, client="other")
    fill(queue, small, [20] * 3)
    packs = 0
    while small.waiting:
        served(queue, 1)
        packs += 1
    assert packs <= QUANTUM // BUDGET + 2


def test_who_comes_back_within_a_round_has_no_new_turn() -> None:
    queue = Queue(QUANTUM)
    fill(queue, flow(client="large"), [20] * 5000)
    tokens: Counter[str] = Counter()
    for _ in range(300):  # nothing of it waits between its requests
        fill(queue, flow(small=True, client="again"), [20])
        tokens += tokens_of_clients(queue, 1)
    assert tokens["again"] <= tokens["large"] + 2 * QUANTUM


def test_a_pair_of_many_quanta_and_many_clients() -> None:
    queue = Queue(10)
    for name in range(60):
        fill(queue, flow(client=str(name)), [2000, 2000])
    taken = [take(queue, Room(1, 10_000)) for _ in range(120)]
    assert [len(pack) for pack in taken] == [1] * 120
    assert queue.next_group() is None


def test_clients_that_went_are_forgotten() -> None:
    queue = Queue(QUANTUM)
    fill(queue, flow(), [60] * 100)  # so that something waits all the time
    for name in range(5000):
        each = flow(small=True, client=str(name))
        fill(queue, each, [1])
        queue.remove(each)
    assert len(queue._bands[0].clients) < 1000


def calls_of_a_pair(clients: int, small: bool, large: int) -> float:
    """How many functions are called for a pair, where all of so many clients wait."""
    queue = Queue(QUANTUM)
    for name in range(clients):
        fill(queue, flow(small=small, client=str(name)), [20] * 4)
    for name in range(large):
        fill(queue, flow(client=f"large {name}"), [20] * 2 * clients)
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.endswith("fair.py")

    pairs = 0
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        while pack := take(queue):
            pairs += len(pack)
    finally:
        sys.setprofile(before)
    return calls / pairs


@pytest.mark.parametrize(("small", "large"), [(False, 0), (True, 0), (True, 1), (True, 2)])
def test_a_pair_costs_the_same_however_many_clients_wait(small: bool, large: int) -> None:
    assert calls_of_a_pair(2000, small, large) < 1.2 * calls_of_a_pair(20, small, large)
