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
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
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


class Flow(Generic[T, G]):
    """The waiting pairs of one request.

    Args:
        group: what must not share a pack with another group: the model.
        priority: lower goes first.
        small: it has about a quantum of tokens in all; where it has more, the rest goes as that of
            a large one.
        client: whose request it is.

    Attributes:
        group, priority, small, client: the same.
        waiting: its pairs, the next last.
        tokens: theirs.
        deficit: tokens that it may still send in this turn.
    """

    __slots__ = ("client", "deficit", "group", "priority", "small", "tokens", "waiting")

    def __init__(self, group: G, priority: int = 0, *, small: bool = False, client: str = "") -> None:
        self.group = group
        self.priority = priority
        self.client = client
        self.waiting: list[T] = []
        self.tokens = 0
        self.small = small
        self.deficit = 0


class _Client(Generic[T, G]):
    """The flows of one client and priority.

    Attributes:
        small, large: those that have pairs waiting, the next first.
        deficit: tokens that it may still send in this turn.
    """

    __slots__ = ("deficit", "large", "small")

    def __init__(self, deficit: int) -> None:
        self.small: OrderedDict[Flow[T, G], None] = OrderedDict()
        self.large: OrderedDict[Flow[T, G], None] = OrderedDict()
        self.deficit = deficit

    def flows(self, of: Flow[T, G]) -> OrderedDict[Flow[T, G], None]:
        return self.small if of.small else self.large


class _Band(Generic[T, G]):
    """The clients of one priority.

    Attributes:
        clients: in the order of their turns. One without flows stays until its turn comes: had it left, it
            would come back with the tokens of a new turn.
        quick: those with small flows and tokens left; they wait for nobody's turn.
        ahead: tokens that small flows had beyond their share while large ones waited.
        larges: clients with large flows.
        count: of the flows.
    """

    __slots__ = ("ahead", "clients", "count", "larges", "quantum", "quick")

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.clients: OrderedDict[str, _Client[T, G]] = OrderedDict()
        self.quick: OrderedDict[str, _Client[T, G]] = OrderedDict()
        self.larges: set[str] = set()
        self.ahead = 0
        self.count = 0

    def flows(self) -> Iterator[Flow[T, G]]:
        for client in self.clients.values():
            yield from client.small
            yield from client.large

    def put(self, flow: Flow[T, G]) -> None:
        """A flow has pairs waiting."""
        self.count += 1
        client = self.clients.get(flow.client)
        if client is None:
            if len(self.clients) > 2 * self.count + _REMEMBERED:
                kept = {name: each for name, each in self.clients.items() if each.small or each.large}
                self.clients = OrderedDict(kept)
            client = self.clients[flow.client] = _Client(self.quantum)
        client.flows(flow)[flow] = None
        self._changed(flow.client, client)

    def drop(self, flow: Flow[T, G]) -> None:
        """A flow has no pairs waiting."""
        self.count -= 1
        client = self.clients[flow.client]
        del client.flows(flow)[flow]
        self._changed(flow.client, client)

    def end_turn(self, flow: Flow[T, G]) -> None:
        """A flow waits for its next turn, in which it has another quantum; it is a large one from now on."""
        client = self.clients[flow.client]
        del client.flows(flow)[flow]
        flow.small = False
        flow.deficit += self.quantum
        client.large[flow] = None
        self._changed(flow.client, client)

    def spend(self, flow: Flow[T, G], tokens: int) -> None:
        """A flow sends so many tokens."""
        client = self.clients[flow.client]
        client.deficit -= tokens
        if client.deficit <= 0:
            self.quick.pop(flow.client, None)
        if not flow.small:
            self.ahead = max(0, self.ahead - (LARGE_SHARE - 1) * tokens)
        elif self.larges:
            self.ahead += tokens
        else:
            self.ahead = 0

    def choose(self, allowed: Allowed[G]) -> Flow[T, G] | None:
        """The flow whose turn it is."""
        if self.larges and self.ahead >= (LARGE_SHARE - 1) * self.quantum:
            flow = self._by_turns(allowed, larges_only=True)
            if flow is not None:
                return flow
        for client in self.quick.values():
            flow = _first_of(client.small, allowed)
            if flow is not None:
                return flow
        return self._by_turns(allowed)

    def _by_turns(self, allowed: Allowed[G], *, larges_only: bool = False) -> Flow[T, G] | None:
        """The flow of the first client that may send; those that have sent their quantum go to the end."""
        while True:
            found = self._first(allowed, larges_only)
            if found is None:
                return None
            name, client, flow = found
            if client.deficit > 0:
                return flow
            client.deficit += self.quantum
            self.clients.move_to_end(name)
            self._changed(name, client)

    def _first(self, allowed: Allowed[G], larges_only: bool) -> tuple[str, _Client[T, G], Flow[T, G]] | None:
        gone: list[str] = []
        found = None
        for name, client in self.clients.items():
            if not client.small and not client.large:
                gone.append(name)
                continue
            flow = None if larges_only else _first_of(client.small, allowed)
            flow = flow or _first_of(client.large, allowed)
            if flow is not None:
                found = name, client, flow
                break
        for name in gone:
            del self.clients[name]
        return found

    def _changed(self, name: str, client: _Client[T, G]) -> None:
        if client.large:
            self.larges.add(name)
        else:
            self.larges.discard(name)
        if not client.small or client.deficit <= 0:
            self.quick.pop(name, None)
        elif name not in self.quick:
            self.quick[name] = client


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
        self._bands: dict[int, _Band[T, G]] = {}
        self._lower_turn: OrderedDict[int, None] = OrderedDict()  # priorities, least lately served first
        self._ahead = 0  # tokens that the first priority had beyond its share while others waited

    def add(self, flow: Flow[T, G], items: Iterable[T]) -> None:
        """Put pairs into a flow."""
        before, count = flow.tokens, len(flow.waiting)
        for item in items:
            flow.waiting.append(item)
            flow.tokens += item.tokens
        flow.waiting.sort(key=lambda item: item.tokens)  # what is sorted already costs little
        self.tokens += flow.tokens - before
        self.pairs += len(flow.waiting) - count
        if not count and flow.waiting:
            if not flow.deficit:
                flow.deficit = self.quantum
            band = self._bands.setdefault(flow.priority, _Band(self.quantum))
            band.put(flow)
            self._lower_turn.setdefault(flow.priority)

    def remove(self, flow: Flow[T, G]) -> int:
        """Take all pairs of a flow out; returns how many."""
        count = len(flow.waiting)
        if count:
            self.tokens -= flow.tokens
            self.pairs -= count
            flow.waiting.clear()
            flow.tokens = 0
            self._retire(flow)
        return count

    def next_group(self, blocked: Collection[G] = ()) -> G | None:
        """The group whose turn it is; None: nothing waits."""
        flow = self._turn(lambda group: group not in blocked)
        return None if flow is None else flow.group

    def flows(self) -> Iterator[Flow[T, G]]:
        """Flows with pairs waiting."""
        for band in self._bands.values():
            yield from band.flows()

    def take(self, group: G, room: Room) -> list[T]:
        """The next pairs of a group, for a pack."""

        def allowed(other: G) -> bool:
            return other is group

        taken: list[T] = []
        tokens, small = 0, False
        enough = room.budget if room.enough is None else room.enough
        while tokens < room.budget or len(taken) % room.lanes:
            flow = self._choose(allowed)
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
        while True:
            flow = self._turn(allowed)
            if flow is None or flow.deficit >= flow.waiting[-1].tokens:
                return flow
            self._bands[flow.priority].end_turn(flow)

    def _turn(self, allowed: Allowed[G]) -> Flow[T, G] | None:
        order = sorted(self._bands)
        if len(order) > 1 and self._ahead >= (LOWER_SHARE - 1) * self.quantum:
            for priority in self._lower_turn:
                if priority != order[0]:
                    flow = self._bands[priority].choose(allowed)
                    if flow is not None:
                        return flow
        for priority in order:
            flow = self._bands[priority].choose(allowed)
            if flow is not None:
                return flow
        return None

    def _serve(self, flow: Flow[T, G]) -> T:
        item = flow.waiting.pop()
        size = item.tokens
        flow.tokens -= size
        flow.deficit -= size
        self.tokens -= size
        self.pairs -= 1
        first = min(self._bands)
        if flow.priority != first:
            self._ahead = max(0, self._ahead - (LOWER_SHARE - 1) * size)
            self._lower_turn.move_to_end(flow.priority)
        elif len(self._bands) > 1:
            self._ahead += size
        else:
            self._ahead = 0
        self._bands[flow.priority].spend(flow, size)
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
            del self._lower_turn[flow.priority]


def _first_of(flows: Iterable[Flow[T, G]], allowed: Allowed[G]) -> Flow[T, G] | None:
    return next((flow for flow in flows if allowed(flow.group)), None)
