"""Rankings that two models of a server make, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt
import pytest

from crossrank.engines.fake import FakeEngine
from crossrank.errors import (
    DeadlineError,
    InputError,
    NonFiniteLogitError,
    OverloadedError,
    TooLongError,
    UnavailableError,
)
from crossrank.inputs import Request
from crossrank.pairs import Cut
from crossrank.server.core.admission import Refusal
from crossrank.server.core.registry import Registry
from crossrank.server.core.work import Work
from tests.server.serving import Clock, encode, fake, registry, serve, tokens, until, value


def shortest(ids: npt.NDArray[np.int32]) -> float:
    return -float(len(ids))


def longest(ids: npt.NDArray[np.int32]) -> float:
    return float(len(ids))


def words(*counts: int) -> list[str]:
    return ["a " * count for count in counts]


def work(texts: list[str], **options: object) -> Work:
    return Work(["q"], texts, **{"model": "large", "ranking": True, **options})  # type: ignore[arg-type]


@asynccontextmanager
async def two(
    large: FakeEngine, small: FakeEngine, keep: float = 2, **options: object
) -> AsyncIterator[Registry]:
    """A server whose small model prefers short texts, and whose large one prefers long ones."""
    specs = serve(large, "large"), serve(small, "small")
    async with registry(*specs, first="small", keep=keep, **options) as served:  # type: ignore[arg-type]
        large.packs.clear()
        small.packs.clear()
        yield served


def pairs_in(engine: FakeEngine) -> int:
    return sum(len(pack) for pack in engine.packs)


def test_the_large_model_reads_what_the_small_one_puts_first() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        texts = [*words(5, 1, 4, 2, 3, 1), "---"]
        async with two(large, small) as served:
            answer = await served.score(work(texts))
            ranking = answer.rank(Request("q", texts))
            # Equal texts are read once, by either model.
            assert (pairs_in(small), pairs_in(large)) == (6, 2)
            assert ranking.indices == [3, 1, 5, 4, 2, 0, 6]
            assert [hit.model for hit in ranking[:4]] == ["large"] * 3 + ["small"]
            assert answer.model == "large"
            assert answer.tokens == tokens([("q", text) for text in texts])
            assert answer.read_twice == sum(answer.tokens[i] for i in (1, 3, 5))
            assert value(served, "crossrank_queue_tokens") == 0
            assert value(served, "te_request_success", method="batch") == 1
            assert answer.inference_s >= 0

    asyncio.run(main())


def test_only_rankings_of_other_models_are_thinned() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        async with two(large, small) as served:
            texts = words(5, 1, 4)
            for asked in (
                work(texts, ranking=False),
                work(texts, model=None, ranking=False),
                Work(["q", "r", "s"], texts, model="large", ranking=True),
            ):
                answer = await served.score(asked)
                assert (answer.model, list(answer.models)) == ("large", [])
            assert not small.packs
            large.packs.clear()
            alone = await served.score(work(texts, model="small"))
            assert (alone.model, list(alone.models), pairs_in(large)) == ("small", [], 0)
            by_default = await served.score(work(texts, model=None))
            assert list(by_default.models) == ["large", "small"]
            assert served.state.ready
            assert [model.name for model in served.models()] == ["large", "small"]

    asyncio.run(main())


def test_nothing_is_left_for_the_large_model() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        async with two(large, small) as served:
            texts = ["", "---"]
            answer = await served.score(work(texts))
            assert (answer.model, pairs_in(large)) == ("large", 0)
            assert answer.rank(Request("q", texts)).indices == [0, 1]
            assert len(await served.score(work([]))) == 0

    asyncio.run(main())


def test_errors_of_either_model_name_the_clients_pair() -> None:
    async def main() -> None:
        texts = words(7, 6, 4, 4, 5, 6)
        wrong = len(encode([("q", texts[2])])[0].token_ids)

        def bad(ids: npt.NDArray[np.int32]) -> float:
            return float("nan") if len(ids) == wrong else -float(len(ids))

        for large, small in ((fake(bad), fake(shortest)), (fake(longest), fake(bad))):
            async with two(large, small, warm_up=False) as served:
                with pytest.raises(NonFiniteLogitError, match="pair 2 has the logit nan"):
                    await served.score(work(texts))
        async with two(fake(longest), fake(lambda ids: float(len(ids) > 60))) as served:
            # The small model cuts it; only what the large one reads can be too long.
            with pytest.raises(TooLongError, match="pair 1 has"):
                await served.score(work(["a", "a " * 99, "a b"], cut=Cut(allowed=False)))

    asyncio.run(main())


def test_there_must_be_room_for_both_models() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        texts = [f"a b c d {i}" for i in range(100)]
        need = sum(tokens([("q", text) for text in texts]))
        async with two(large, small, keep=0.5, max_queue_tokens=need + need // 4) as served:
            for _ in range(20):  # so that the estimates are right
                await served.score(work(texts, ranking=False, model="small"))
                await served.score(work(texts, ranking=False))
            large.packs.clear()
            small.packs.clear()
            with pytest.raises(InputError, match="send fewer documents at once"):
                await served.score(work(texts))
            assert not small.packs
            await served.score(work(texts[:70]))
            assert (pairs_in(small), pairs_in(large)) == (70, 35)

    asyncio.run(main())


def test_what_was_accepted_is_not_refused_for_the_large_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        async with two(large, small) as served:
            small.gate.clear()
            accepted = asyncio.ensure_future(served.score(work(words(1, 2, 3))))
            await until(lambda: small.packs)
            full = Refusal("queue", OverloadedError("the queue is full", 1.0))
            monkeypatch.setattr(served._admission, "refusal", lambda *_: full)
            small.gate.set()
            assert len(await accepted) == 3
            with pytest.raises(OverloadedError):
                await served.score(work(words(1, 2, 3)))

    asyncio.run(main())


def test_the_deadline_is_for_both_models() -> None:
    async def main() -> None:
        clock = Clock()
        large, small = clock.engine(100), clock.engine(100_000)
        texts = [f"a b c d {i}" for i in range(50)]
        async with two(large, small, keep=25, clock=clock) as served:
            for _ in range(9):
                await served.score(work(texts, ranking=False, model="small"))
            count = sum(tokens([("q", text) for text in texts]))
            large.packs.clear()
            small.packs.clear()
            # The small model alone would be in time; the large one takes three times as long for half of the
            # texts.
            with pytest.raises(DeadlineError, match="until its deadline"):
                await served.score(work(texts, deadline=clock.now + count / 2 / 100 / 3))
            assert not small.packs
            await served.score(work(texts, deadline=clock.now + 2 * count / 2 / 100))
            assert pairs_in(large) == 25

    asyncio.run(main())


def test_a_client_that_goes_is_forgotten_in_either_stage() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        async with two(large, small, keep=9) as served:
            for engine in (small, large):
                engine.gate.clear()
                task = asyncio.ensure_future(served.score(work(words(*range(1, 30)))))
                await until(lambda: engine.packs)  # noqa: B023
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert value(served, "crossrank_queue_tokens") == 0
                engine.gate.set()
            assert await served.drain(5)

    asyncio.run(main())


def test_a_server_that_stops_finishes_both_stages() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        async with two(large, small) as served:
            small.gate.clear()
            task = asyncio.ensure_future(served.score(work(words(1, 2, 3))))
            await until(lambda: small.packs)
            drained = asyncio.ensure_future(served.drain(10))
            await until(lambda: not served.state.ready)
            with pytest.raises(UnavailableError):
                await served.score(work(words(1)))
            small.gate.set()
            assert len(await task) == 3
            assert await drained

    asyncio.run(main())


def test_both_models_have_entries_of_their_own_in_the_cache() -> None:
    async def main() -> None:
        large, small = fake(longest), fake(shortest)
        async with two(large, small, score_cache_bytes=1_000_000) as served:
            once = await served.score(work(words(5, 1, 4, 2)))
            large.packs.clear()
            small.packs.clear()
            again = await served.score(work(words(5, 1, 4, 2)))
            assert again.cached == 6
            assert again.logits.tolist() == once.logits.tolist()
            assert not large.packs
            assert not small.packs

    asyncio.run(main())


def test_a_first_model_must_be_served() -> None:
    with pytest.raises(InputError, match="the first model small is not one of the server's, large"):
        Registry([serve(fake(), "large")], first="small")
    with pytest.raises(InputError, match="keep is 0"):
        Registry([serve(fake(), "large"), serve(fake(), "small")], first="small", keep=0)
