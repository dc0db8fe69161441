from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrank.errors import DeadlineError, EngineError, UnavailableError
from crossrank.server.core.turns import TextThreads, Turns


def work(turns: Turns[str], seconds: dict[str, float], takes: int) -> Counter[str]:
    """How often each client's item is taken by one thread; each always has another."""
    taken: Counter[str] = Counter()
    for _ in range(takes):
        found = turns.take()
        assert found is not None
        client = found[0]
        taken[client] += 1
        turns.add(client, "another")
        turns.done(client, seconds[client])
    return taken


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.integers(1, 30))
def test_clients_get_the_same_time_however_much_each_wants(costs: list[int], waiting: int) -> None:
    turns: Turns[str] = Turns(2)
    seconds = {str(name): float(cost) for name, cost in enumerate(costs)}
    for name in seconds:
        for _ in range(waiting if name == "0" else 1):
            turns.add(name, "item")
    taken = work(turns, seconds, 500)
    used = [taken[name] * cost for name, cost in seconds.items()]
    assert max(used) - min(used) <= 2 * max(costs)


def test_a_client_that_comes_gets_its_share_and_no_more() -> None:
    turns: Turns[str] = Turns(2)
    for _ in range(100):
        turns.add("many", "item")
    work(turns, {"many": 1.0}, 1000)
    turns.add("comes", "item")
    taken = work(turns, {"many": 1.0, "comes": 1.0}, 100)
    assert abs(taken["many"] - taken["comes"]) <= 2


def test_a_clients_items_keep_their_order() -> None:
    turns: Turns[int] = Turns(5)
    for number in range(5):
        turns.add("client", number)
    assert [turns.take() for _ in range(6)] == [*[("client", number) for number in range(5)], None]


def test_one_client_does_not_hold_every_thread() -> None:
    turns: Turns[str] = Turns(2)
    turns.add("many", "first")
    assert turns.take() == ("many", "first")  # and it runs
    turns.add("many", "second")
    turns.add("other", "only")
    assert turns.take() == ("other", "only")
    assert turns.take() == ("many", "second")
    for client in ("many", "other", "many"):
        turns.done(client, 1.0)
    assert turns.take() is None


def test_one_client_has_at_most_so_many_threads_although_others_are_free() -> None:
    turns: Turns[str] = Turns(2)
    for item in ("first", "second", "third"):
        turns.add("many", item)
    assert [turns.take() for _ in range(3)] == [("many", "first"), ("many", "second"), None]
    turns.done("many", 1.0)
    assert turns.take() == ("many", "third")


def test_another_clients_function_need_not_wait_for_a_long_one() -> None:
    threads, gate = TextThreads(3), threading.Event()
    long = [threads.submit("many", gate.wait) for _ in range(5)]
    assert threads.submit("other", partial(divmod, 7, 2)).result() == (3, 1)
    assert not any(future.done() for future in long)
    gate.set()
    assert all(future.result() for future in long)
    assert threads.close()


def test_what_a_function_returns_or_raises_comes_back() -> None:
    class Panic(BaseException):
        """As pyo3's: it is no Exception."""

    def fail(error: BaseException) -> None:
        raise error

    async def main() -> None:
        threads = TextThreads(2)
        name = await threads.run("client", None, lambda: threading.current_thread().name)
        assert name.startswith("crossrank-texts-")
        assert await threads.run("client", time.monotonic() + 60, divmod, 7, 2) == (3, 1)
        with pytest.raises(KeyError, match="no"):
            await threads.run("client", None, fail, KeyError("no"))
        with pytest.raises(EngineError, match="a text could not be read: at 7"):
            await threads.run("client", None, fail, Panic("at 7"))
        assert threads.close()
        with pytest.raises(UnavailableError, match="the server is stopping"):
            await threads.run("client", None, divmod, 7, 2)

    asyncio.run(main())


def test_what_has_not_begun_by_its_deadline_never_does() -> None:
    async def main() -> None:
        threads, gate, begun = TextThreads(1), threading.Event(), list[str]()
        first = asyncio.ensure_future(threads.run("a", None, gate.wait))
        with pytest.raises(DeadlineError, match="while its texts were being read"):
            await threads.run("b", time.monotonic() - 1, begun.append, "late")
        gone = asyncio.ensure_future(threads.run("b", None, begun.append, "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        last = asyncio.ensure_future(threads.run("b", None, begun.append, "in time"))
        await asyncio.sleep(0)
        gate.set()
        assert await first
        await last
        assert begun == ["in time"]
        threads.close()

    asyncio.run(main())


def test_a_thread_looks_at_the_deadline_before_it_begins() -> None:
    threads, begun = TextThreads(1, clock=lambda: 10.0), list[str]()
    with pytest.raises(DeadlineError, match="while its texts were being read"):
        threads.submit("a", partial(begun.append, "late"), 10.0).result()
    threads.submit("a", partial(begun.append, "in time"), 11.0).result()
    assert begun == ["in time"]
    assert threads.close()


def test_a_thread_that_hangs_does_not_hold_up_the_end() -> None:
    async def main() -> None:
        threads, gate = TextThreads(1), threading.Event()
        begun = threading.Event()

        def hang() -> bool:
            begun.set()
            return gate.wait()

        hangs = asyncio.ensure_future(threads.run("a", None, hang))
        waits = asyncio.ensure_future(threads.run("a", None, gate.wait))
        await asyncio.sleep(0)
        begun.wait()
        assert not threads.close(0.0)
        with pytest.raises(UnavailableError, match="the server is stopping"):
            await waits
        gate.set()
        assert await hangs
        assert threads.close()

    asyncio.run(main())


def test_threads_that_were_never_needed_are_closed_at_once() -> None:
    assert TextThreads(3).close(0.0)
