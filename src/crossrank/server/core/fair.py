"""The order in which waiting pairs go to the engine: deficit round robin over tokens.

Clients take turns, and the requests of a client take turns within them. In its turn a client, or a request,
may send a *quantum* of tokens; what it does not use of it stays its own until the next turn (M. Shreedhar,
G. Varghese, "Efficient fair queuing using deficit round robin", 1995). Every request is a ``Flow``.

A small flow, of a quantum in all, goes before the large ones and waits for nobody's turn, much as the
new flows of RFC 8290, for as long as its client has something left of its turn's tokens: who sends
many small requests waits for the others as who sends a large one. So that the small ones of many clients
do not shut out the large, the large get at least a quarter of the tokens while they wait.

Priorities are strict but for one thing: lower ones that wait get at least a sixteenth of the tokens
between them, in turn. Without it a busy server would hold them for ever.

Fairness is counted in tokens over all models; a pack holds pairs of one.

Between requests the order is fair; within a request it is free, as its answer needs all its pairs. So a
flow sends its longest first: the pairs of a pack are of like length, and engines whose threads take
pairs side by side, or which pad, waste little.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

__all__ = ["FairQueue", "Flow", "Item", "Room"]

LARGE_SHARE = 4
"""Large flows get at least 1/4 of the tokens of their priority: beside endless small requests a large one
takes four times as long, which a deadline of a minute bears."""

LOWER_SHARE = 16
"""Lower priorities together get at least 1/16 of all tokens: they slow the first down by 7 % at most."""

_REMEMBERED = 256
"""Clients without waiting requests that are remembered, more or less; see ``_Band.clients``. They take some
tens of kilobytes."""


class Item(Protocol):
    """What waits: a pair."""

    @property
    def tokens(self) -> int: ...


class Room(NamedTuple):
    """How large a pack is.

    Attributes:
        budget: pairs are taken until they have so many tokens,
        lanes: and until their number is a multiple of this, so that no lane of the engine idles;
        most: but never more tokens than this, unless a single pair has more;
        enough: a pack that begins with pairs of small flows is filled with those of large ones up to so
            many tokens, as the small ones wait for all of it; None: up to the budget.
    """

    budget: int
    most: int
    lanes: int = 1
    enough: int | None = None


T = TypeVar("T", bound=Item)
G = TypeVar("G", bound=Hashable)
Allowed = Callable[[G], bool]


@dataclass(eq=False, slots=True)
class Flow(Generic[T, G]):
    """The waiting pairs of one request.

    Attributes:
        group: what must not share a pack with another group: the model.
        priority: lower goes first.
        small: it has about a quantum of tokens in all; where it has more, the rest goes as that of
            a large one.
        client: whose request it is.
        waiting: its pairs, the next last.
        deficit: tokens that it may still send in this turn.
    """

    group: G
    priority: int = 0
    small: bool = field(default=False, kw_only=True)
    client: str = field(default="", kw_only=True)
    waiting: list[T] = field(default_factory=list, init=False)
    deficit: int = field(default=0, init=False)


class _Share:
    """Some go first, but leave the others one in ``parts`` tokens while these wait."""

    def __init__(self, parts: int, quantum: int) -> None:
        self._times = parts - 1
        self._most = self._times * quantum
        self._ahead = 0  # tokens that the first had beyond their share while the others waited

    @property
    def is_due(self) -> bool:
        """Whether the others go next, where they wait."""
        return self._ahead >= self._most

    def spend(self, tokens: int, *, first: bool, others_wait: bool) -> None:
        """So many tokens were sent, by the first or by the others."""
        if first:
            self._ahead = self._ahead + tokens if others_wait else 0
        else:
            self._ahead = max(0, self._ahead - self._times * tokens)


class _Client(Generic[T, G]):
    """The flows of one client and priority.

    Attributes:
        flows: the small (True) and the large (False) that have pairs waiting, the next first.
        deficit: tokens that it may still send in this turn.
    """

    __slots__ = ("deficit", "flows")

    def __init__(self, deficit: int) -> None:
        self.flows: dict[bool, OrderedDict[Flow[T, G], None]] = {True: OrderedDict(), False: OrderedDict()}
        self.deficit = deficit

    def first(self, kinds: Sequence[bool], allowed: Allowed[G]) -> Flow[T, G] | None:
        for small in kinds:
            for flow in self.flows[small]:
                if allowed(flow.group):
                    return flow
        return None


_Line = OrderedDict[str, _Client[T, G]]


class _Band(Generic[T, G]):
    """The clients of one priority.

    Attributes:
        clients: in the order of their turns. One without flows stays until its turn comes: had it left, it
            would come back with the tokens of a new turn.
        large: those with large flows, in the order of their turns.
        quick: those with small flows and tokens left; they wait for nobody's turn.
        count: of all flows.
    """

    def __init__(self, quantum: int) -> None:
        self.clients: _Line[T, G] = OrderedDict()
        self.large: _Line[T, G] = OrderedDict()
        self.quick: _Line[T, G] = OrderedDict()
        self.count = 0
        self._quantum = quantum
        self._share = _Share(LARGE_SHARE, quantum)

    def put(self, flow: Flow[T, G]) -> None:
        """A flow has pairs waiting."""
        self.count += 1
        if flow.client not in self.clients:
            if len(self.clients) > 2 * self.count + _REMEMBERED:
                kept = {name: client for name, client in self.clients.items() if any(client.flows.values())}
                self.clients = OrderedDict(kept)
            self.clients[flow.client] = _Client(self._quantum)
        self.clients[flow.client].flows[flow.small][flow] = None
        self._stand_in_line(flow.client)

    def drop(self, flow: Flow[T, G]) -> None:
        """A flow has no pairs waiting."""
        self.count -= 1
        del self.clients[flow.client].flows[flow.small][flow]
        self._stand_in_line(flow.client)

    def end_turn(self, flow: Flow[T, G]) -> None:
        """A flow waits for its next turn, in which it has another quantum; it is a large one from now on."""
        flows = self.clients[flow.client].flows
        del flows[flow.small][flow]
        flows[False][flow] = None
        flow.small = False
        flow.deficit += self._quantum
        self._stand_in_line(flow.client)

    def spend(self, flow: Flow[T, G], tokens: int) -> None:
        """A flow sends so many tokens."""
        client = self.clients[flow.client]
        client.deficit -= tokens
        if client.deficit <= 0:
            self.quick.pop(flow.client, None)
        self._share.spend(tokens, first=flow.small, others_wait=bool(self.large))

    def choose(self, allowed: Allowed[G]) -> Flow[T, G] | None:
        """The flow whose turn it is."""
        if self.large and self._share.is_due and (flow := self._by_turns(self.large, (False,), allowed)):
            return flow
        for client in self.quick.values():
            if flow := client.first((True,), allowed):
                return flow
        while self.clients and not any(next(iter(self.clients.values())).flows.values()):
            self.clients.popitem(last=False)
        return self._by_turns(self.clients, (True, False), allowed)

    def _by_turns(self, line: _Line[T, G], kinds: Sequence[bool], allowed: Allowed[G]) -> Flow[T, G] | None:
        """The flow of the first client that may send; those that have sent their quantum go to the end."""
        while True:
            for name, client in line.items():
                if flow := client.first(kinds, allowed):
                    if client.deficit > 0:
                        return flow
                    client.deficit += self._quantum
                    self.clients.move_to_end(name)
                    if name in self.large:
                        self.large.move_to_end(name)
                    self._stand_in_line(name)
                    break
            else:
                return None

    def _stand_in_line(self, name: str) -> None:
        """Note whether a client is in ``large``, and in ``quick``."""
        client = self.clients[name]
        quick = client.deficit > 0 and client.flows[True]
        for line, is_in in ((self.large, client.flows[False]), (self.quick, quick)):
            if is_in:
                line.setdefault(name, client)
            else:
                line.pop(name, None)


class FairQueue(Generic[T, G]):
    """Waiting pairs of all requests. Not safe between threads: its owner holds a lock.

    Args:
        quantum: tokens of a turn.

    Attributes:
        tokens, pairs: that wait.
    """

    def __init__(self, quantum: int = 2048) -> None:
        self.quantum = quantum
        self.tokens = 0
        self.pairs = 0
        self._bands: OrderedDict[int, _Band[T, G]] = OrderedDict()  # by priority, least lately served first
        self._share = _Share(LOWER_SHARE, quantum)

    def add(self, flow: Flow[T, G], items: Iterable[T]) -> None:
        """Put pairs into a flow."""
        before = len(flow.waiting)
        flow.waiting += items
        self.tokens += sum(item.tokens for item in flow.waiting[before:])
        self.pairs += len(flow.waiting) - before
        flow.waiting.sort(key=lambda item: item.tokens)  # what is sorted already costs little
        if not before and flow.waiting:
            flow.deficit = flow.deficit or self.quantum
            self._bands.setdefault(flow.priority, _Band(self.quantum)).put(flow)

    def remove(self, flow: Flow[T, G]) -> int:
        """Take all pairs of a flow out; returns how many."""
        count = len(flow.waiting)
        if count:
            self.tokens -= sum(item.tokens for item in flow.waiting)
            self.pairs -= count
            flow.waiting.clear()
            self._retire(flow)
        return count

    def next_group(self, blocked: Collection[G] = ()) -> G | None:
        """The group whose turn it is; None: nothing waits."""
        flow = self._turn(lambda group: group not in blocked)
        return None if flow is None else flow.group

    def flows(self) -> Iterator[Flow[T, G]]:
        """Flows with pairs waiting."""
        for band in self._bands.values():
            for client in band.clients.values():
                yield from [*client.flows[True], *client.flows[False]]

    def take(self, group: G, room: Room) -> list[T]:
        """The next pairs of a group, for a pack."""
        taken: list[T] = []
        tokens, small = 0, False
        enough = room.budget if room.enough is None else room.enough
        while tokens < room.budget or len(taken) % room.lanes:
            flow = self._choose(lambda other: other is group)
            if flow is None:
                break
            size = flow.waiting[-1].tokens
            if not taken:
                small = flow.small
            elif tokens + size > room.most or (small and not flow.small and tokens >= enough):
                break
            taken.append(self._serve(flow))
            tokens += size
        return taken

    def _choose(self, allowed: Allowed[G]) -> Flow[T, G] | None:
        """The flow whose turn it is, with a deficit that covers its first pair."""
        while (flow := self._turn(allowed)) and flow.deficit < flow.waiting[-1].tokens:
            self._bands[flow.priority].end_turn(flow)
        return flow

    def _turn(self, allowed: Allowed[G]) -> Flow[T, G] | None:
        order = sorted(self._bands)
        if len(order) > 1 and self._share.is_due:
            order = [priority for priority in self._bands if priority != order[0]] + order[:1]
        for priority in order:
            if flow := self._bands[priority].choose(allowed):
                return flow
        return None

    def _serve(self, flow: Flow[T, G]) -> T:
        item = flow.waiting.pop()
        self.tokens -= item.tokens
        self.pairs -= 1
        flow.deficit -= item.tokens
        is_first = flow.priority == min(self._bands)
        self._share.spend(item.tokens, first=is_first, others_wait=len(self._bands) > 1)
        if not is_first:
            self._bands.move_to_end(flow.priority)
        self._bands[flow.priority].spend(flow, item.tokens)
        if not flow.waiting:
            self._retire(flow)
        return item

    def _retire(self, flow: Flow[T, G]) -> None:
        """A flow has nothing waiting: a small one keeps what is left of its quantum, others lose it."""
        band = self._bands[flow.priority]
        band.drop(flow)
        if not flow.small:
            flow.deficit = 0
        elif not flow.deficit:
            flow.small = False
        if not band.count:
            del self._bands[flow.priority]
