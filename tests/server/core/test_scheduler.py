"""Requests through the scheduler: all of them end, each with its own answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrank.errors import (
    CrossRankError,
    DeadlineError,
    EngineError,
    InputError,
    NonFiniteLogitError,
    OutOfMemoryError,
    OverloadedError,
    TooLongError,
    UnavailableError,
)
from crossrank.loading import LoadedModel
from crossrank.packing import Pack
from crossrank.pairs import Cut
from crossrank.server.core.model import ModelSpec
from crossrank.server.core.work import Answer, Work
from crossrank.text.words import TokenIds, WordTokenizer
from tests.server.serving import (
    ENCODER,
    Clock,
    asked,
    begin,
    checksum,
    encode,
    expected,
    fake,
    pairs,
    pairs_of,
    registry,
    serve,
    tokens,
    until,
    value,
)


def test_an_answer_has_everything_in_the_clients_order() -> None:
    async def main() -> None:
        engine = fake(seconds=0.001)
        work = asked([*pairs(100), ("query", "long " * 100), ("", "")], request_id="r")
        async with registry(engine) as served:
            answer = await served.score(work)
            assert answer.model == "model"
            assert answer.logits.tolist() == expected(pairs_of(work))
            assert answer.logits.dtype == np.float32
            assert answer.tokens == tokens(pairs_of(work))
            assert answer.truncated == [False] * 100 + [True, False]
            assert answer.cached == 0
            assert answer.tokenization_s > 0
            assert answer.inference_s >= 0.001 * len(engine.packs)
            assert answer.queue_s >= 0
            assert all(len(pack.token_ids) <= 100 for pack in engine.packs)
            assert sum(len(pack) for pack in engine.packs) == 102

    asyncio.run(main())


def test_equal_pairs_are_scored_once() -> None:
    async def main() -> None:
        engine = fake()
        work = asked([("q", "one"), ("q", "long " * 100), ("q", "one"), ("q", "two"), ("q", "long " * 100)])
        async with registry(engine) as served:
            answer = await served.score(work)
            assert answer.logits.tolist() == expected(pairs_of(work))
            assert answer.tokens == tokens(pairs_of(work))
            assert answer.truncated == [False, True, False, False, True]
            assert sum(len(pack) for pack in engine.packs) == 3
            assert value(served, "crossrank_queue_tokens") == 0

    asyncio.run(main())


def test_equal_pairs_count_once_for_the_queue() -> None:
    async def main() -> None:
        async with registry(fake(), max_queue_tokens=200) as served:
            answer = await served.score(asked([("q", "a b c d")] * 200))
            assert sum(answer.tokens) > 1000
            with pytest.raises(InputError, match="send fewer documents at once"):
                await served.score(asked([("q", f"a b c {i}") for i in range(200)]))

    asyncio.run(main())


def test_an_error_names_the_first_of_equal_pairs() -> None:
    async def main() -> None:
        damaged = {tuple(encode([("q", "bad")])[0].token_ids.tolist())}
        engine = fake(lambda ids: float("nan") if tuple(ids.tolist()) in damaged else 1.0)
        async with registry(engine) as served:
            with pytest.raises(NonFiniteLogitError, match="pair 2 has the logit nan"):
                await served.score(asked([("q", text) for text in ("a", "a", "bad", "bad")]))
            work = asked([("q", text) for text in ("a", "a", "word " * 70)], cut=Cut(allowed=False))
            with pytest.raises(TooLongError, match="pair 2 has"):
                await served.score(work)

    asyncio.run(main())


def test_no_pairs_are_an_empty_answer() -> None:
    async def main() -> None:
        async with registry(fake()) as served:
            answer = await served.score(Work(["query"], []))
            assert (answer.logits.tolist(), answer.tokens, answer.truncated) == ([], [], [])

    asyncio.run(main())


def test_requests_that_wait_share_packs() -> None:
    async def main() -> None:
        engine = fake(batch_tokens=1000)
        async with registry(engine) as served:
            engine.gate.clear()
            tasks = [begin(served, pairs(1, "first"))]
            await until(lambda: engine.packs)
            tasks += [begin(served, pairs(1, f"r{i}")) for i in range(19)]
            await until(lambda: value(served, "te_queue_size") == 19)
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert [len(pack) for pack in engine.packs] == [1, 19]

    asyncio.run(main())


def test_a_small_request_waits_for_one_pack_of_a_large_one() -> None:
    async def main() -> None:
        engine = fake(batch_tokens=100)
        async with registry(engine, quantum=200) as served:
            engine.gate.clear()
            large = begin(served, pairs(1000, "large"))
            await until(lambda: value(served, "te_queue_size") > 800)
            small = begin(served, pairs(3, "small"))
            # All is tokenised, and waits, but for the pack that runs.
            await until(lambda: value(served, "te_queue_size") == 1003 - len(engine.packs[0]))
            answered: list[str] = []
            large.add_done_callback(lambda _: answered.append("large"))
            small.add_done_callback(lambda _: answered.append("small"))
            engine.gate.set()
            await large
            assert answered == ["small", "large"]
            # The pack that ran, and then the one with the small request.
            own = {row.tobytes() for row in engine_rows(engine.packs, "small")}
            places = [i for i, pack in enumerate(engine.packs) if own & rows(pack)]
            assert places == [1]

    asyncio.run(main())


def rows(pack: Pack) -> set[bytes]:
    return {ids.tobytes() for ids in np.split(pack.token_ids, pack.offsets[1:-1])}


def engine_rows(packs: list[Pack], name: str) -> list[npt.NDArray[np.int32]]:
    return [pair.token_ids for pair in encode(pairs(3, name))]


def test_packs_are_longer_where_nobody_small_is_there() -> None:
    async def main() -> None:
        clock = Clock()
        engine = clock.engine(10_000, batch_tokens=10_000, fill_tokens=1)
        async with registry(engine, clock=clock, quantum=50, pack_seconds=0.01) as served:

            async def largest() -> int:
                """Tokens of the largest pack of a large request; about a hundred take 0.01 s."""
                engine.packs.clear()
                await served.score(asked(pairs(60)))
                return max(len(pack.token_ids) for pack in engine.packs)

            before = await largest()
            await served.score(asked(pairs(1)))
            beside = await largest()
            clock.now += 60
            after = await largest()
            assert min(before, after) > 1.5 * beside

    asyncio.run(main())


def test_a_lower_number_goes_first() -> None:
    async def main() -> None:
        engine = fake(batch_tokens=40)
        async with registry(engine) as served:
            engine.gate.clear()
            first = begin(served, pairs(1, "first"))
            await until(lambda: engine.packs)
            order: list[int] = []
            tasks = []
            for priority in (7, 0, 999, 3):
                tasks.append(begin(served, pairs(5, f"p{priority}"), priority=priority))
                tasks[-1].add_done_callback(lambda _, p=priority: order.append(p))  # type: ignore[misc]
                await until(lambda: value(served, "te_queue_size") == 5 * len(tasks))
            engine.gate.set()
            await asyncio.gather(first, *tasks)
            assert order == [0, 3, 7, 999]

    asyncio.run(main())


def test_a_request_is_admitted_whole_or_refused_whole() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine, max_queue_tokens=2000) as served:
            engine.gate.clear()
            tasks = [begin(served, pairs(10, f"r{i}")) for i in range(40)]
            await until(lambda: sum(task.done() for task in tasks) > 5)
            refused = [task for task in tasks if task.done()]
            for task in refused:
                error = task.exception()
                assert isinstance(error, OverloadedError)
                assert "would exceed 1750 of 2000 (max_queue_tokens)" in str(error)
                assert 1 <= error.retry_after <= 300
            assert value(served, "crossrank_refused_total", reason="queue") == len(refused)
            assert value(served, "te_request_failure", err="overloaded") == len(refused)
            accepted = [task for task in tasks if task not in refused]
            await until(lambda: value(served, "te_queue_size") >= 10 * len(accepted) - 10)
            engine.gate.set()
            for answer in await asyncio.gather(*accepted):
                assert len(answer.logits) == 10
            assert sum(len(pack) for pack in engine.packs) == 10 * len(accepted)
            assert value(served, "crossrank_queue_tokens") == 0
            assert (await served.score(asked(pairs(10)))).logits.tolist() == expected(pairs(10))

    asyncio.run(main())


def test_one_client_does_not_fill_the_queue_for_the_others() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine, max_queue_tokens=2000) as served:
            engine.gate.clear()
            many = [begin(served, pairs(10, f"r{i}"), client="many") for i in range(40)]
            await until(
                lambda: sum(map(asyncio.Task.done, many)) + value(served, "crossrank_queue_requests") == 40
            )
            accepted = [task for task in many if not task.done()]
            refused = await asyncio.gather(*(task for task in many if task.done()), return_exceptions=True)
            assert refused
            assert all(isinstance(error, OverloadedError) for error in refused)
            other = begin(served, pairs(5, "other"), client="other")
            accepted.append(other)
            await until(lambda: value(served, "crossrank_queue_requests") == len(accepted))
            again = begin(served, pairs(20, "again"), client="other")  # more than is kept
            with pytest.raises(OverloadedError, match="would exceed 1750 of 2000"):
                await again
            engine.gate.set()
            await asyncio.gather(*accepted)
            # Where nobody else is there, a request may have all of it.
            assert len((await served.score(asked(pairs(110), client="many"))).logits) == 110

    asyncio.run(main())


def test_clients_take_turns_in_the_engine() -> None:
    async def main() -> None:
        engine = fake(batch_tokens=100)
        async with registry(engine, quantum=100) as served:
            engine.gate.clear()
            engine.packs.clear()
            first = begin(served, pairs(1, "first"))
            await until(lambda: engine.packs)
            ended: list[str] = []
            tasks = [first]
            for number in range(20):
                tasks.append(begin(served, pairs(20, f"many{number}"), client="many"))
                tasks[-1].add_done_callback(lambda _: ended.append("many"))
            await until(lambda: value(served, "te_queue_size") == 400)
            tasks.append(begin(served, pairs(20, "other"), client="other"))
            tasks[-1].add_done_callback(lambda _: ended.append("other"))
            await until(lambda: value(served, "te_queue_size") == 420)
            engine.gate.set()
            await asyncio.gather(*tasks)
            assert ended.index("other") <= 1

    asyncio.run(main())


def test_texts_that_cannot_be_read_in_time_are_refused_before_they_are() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine, tokenizer_threads=1) as served:
            model = served._model(None)
            await served.score(asked(pairs(3)))
            engine.packs.clear()
            engine.gate.clear()
            model.has_read(1_000_000, 1e9)  # a thousandth of a character in a second
            with pytest.raises(DeadlineError, match="s of work here"):
                await served.score(asked(pairs(100), deadline=time.monotonic() + 60))
            assert engine.packs == []
            assert value(served, "crossrank_refused_total", reason="deadline") == 1
            engine.gate.set()

    asyncio.run(main())


def test_a_query_is_tokenised_once_for_all_slices_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    ids = WordTokenizer.ids

    def noted(self: WordTokenizer, texts: Sequence[str]) -> list[TokenIds]:
        read.extend(texts)
        return ids(self, texts)

    async def main() -> None:
        async with registry(fake(), score_cache_bytes=1 << 20) as served:
            monkeypatch.setattr(WordTokenizer, "ids", noted)
            query = "a query that is long " * 1000
            work = asked([(query, f"document {i}") for i in range(100)])
            answer = await served.score(work)
            assert answer.logits.tolist() == expected(pairs_of(work))

    asyncio.run(main())
    # Of the start of the query: once by the server, and once by ``expected``.
    assert sum(text.startswith("a query that is long") for text in read) == 2


def test_what_is_larger_than_the_queue_is_no_overload() -> None:
    async def main() -> None:
        async with registry(fake(), max_queue_tokens=500) as served:
            with pytest.raises(
                InputError, match=r"queues at most 500 at a time \(max_queue_tokens\); send fewer"
            ):
                await served.score(asked(pairs(1000)))
            assert value(served, "crossrank_refused_total", reason="too_large") == 1
            await served.score(asked(pairs(3)))

    asyncio.run(main())


def test_estimates_become_counts() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine) as served:
            engine.gate.clear()
            task = begin(served, pairs(50))
            await until(lambda: value(served, "crossrank_queue_tokens") == sum(tokens(pairs(50))))
            engine.gate.set()
            await task
            assert value(served, "crossrank_queue_tokens") == 0

    asyncio.run(main())


def test_a_deadline_takes_the_pairs_out_of_the_queue() -> None:
    async def main() -> None:
        clock, engine = Clock(), fake()
        async with registry(engine, clock=clock, warm_up=False) as served:
            engine.gate.clear()
            with pytest.raises(DeadlineError, match="100 of its 100 pairs were left"):
                await served.score(asked(pairs(100), deadline=clock() + 0.1))
            assert value(served, "te_queue_size") == 0
            assert value(served, "crossrank_queue_tokens") == 0
            assert value(served, "crossrank_deadline_total") == 1
            with pytest.raises(DeadlineError, match="before it began"):
                await served.score(asked(pairs(1), deadline=clock() - 1))
            engine.gate.set()
            later = clock() + 60
            assert (await served.score(asked(pairs(9), deadline=later))).logits.tolist() == expected(pairs(9))
            assert sum(len(pack) for pack in engine.packs) < 30

    asyncio.run(main())


def test_what_cannot_be_in_time_is_refused_at_once() -> None:
    async def main() -> None:
        clock = Clock()
        engine = clock.engine(1000)
        async with registry(engine, clock=clock, quantum=200) as served:
            with pytest.raises(DeadlineError, match="s of work here"):
                await served.score(asked(pairs(300), deadline=clock() + 0.5))
            assert engine.packs == []
            engine.gate.clear()
            hogs = [begin(served, pairs(40, f"hog{i}")) for i in range(10)]
            await until(lambda: value(served, "te_queue_size") > 300)
            with pytest.raises(OverloadedError, match="s of work are queued before the request") as caught:
                await served.score(asked(pairs(40), deadline=clock() + 1.5))
            assert caught.value.retry_after >= 1
            # What goes before the others is not refused for their sake.
            small = begin(served, pairs(2), deadline=clock() + 60)
            await until(lambda: value(served, "crossrank_queue_requests") == 11)
            engine.gate.set()
            assert len((await small).logits) == 2
            assert value(served, "crossrank_refused_total", reason="deadline") == 2
            for hog in hogs:
                hog.cancel()
            await asyncio.gather(*hogs, return_exceptions=True)

    asyncio.run(main())


def test_a_request_is_not_refused_for_what_other_texts_were() -> None:
    async def main() -> None:
        async with registry(fake(seconds_per_token=0.00001), max_queue_tokens=4500) as served:
            for _ in range(60):  # nearly a token in each byte
                await served.score(asked([("0 1 2 3 ( )", f"! ? ! ? 7 8 9 {i}") for i in range(40)]))
            # 3,400 tokens; by the measure of those before they would be the 64 a pair that are the most.
            text = "the capital of france is paris and many other words follow here " * 2
            answer = await served.score(asked([("capital", f"{text}{i}") for i in range(100)]))
            assert 3000 < sum(answer.tokens) < 4000

    asyncio.run(main())


def test_short_texts_hardly_change_what_is_expected_of_long_ones() -> None:
    async def main() -> None:
        async with registry(fake()) as served:
            model = served._model(None)
            await served.score(asked(pairs(100)))
            before = model.tokens_per_byte
            for _ in range(20):
                await served.score(asked([("a", "b")]))
            assert model.tokens_per_byte == pytest.approx(before, rel=0.1)

    asyncio.run(main())


def test_a_request_that_finds_nobody_before_it_may_take_longer_than_expected() -> None:
    """The estimate may be wrong, and to try again would not help."""

    async def main() -> None:
        clock = Clock()
        engine = clock.engine(10_000)
        async with registry(engine, clock=clock, quantum=20) as served:
            engine.gate.clear()
            # About 500 tokens, which would take 0.05 s.
            with pytest.raises(DeadlineError, match="pairs were left"):
                await served.score(asked(pairs(40), deadline=clock() + 0.04))

    asyncio.run(main())


def test_where_large_requests_were_late_fewer_are_accepted() -> None:
    async def main() -> None:
        clock = Clock()
        engine = clock.engine(1)  # a token a second: no deadline comes while this test runs
        async with registry(engine, clock=clock, quantum=20) as served:
            engine.gate.clear()
            hog = begin(served, pairs(400))  # of the texts below, or their tokens would be estimated anew
            await until(lambda: value(served, "te_queue_size") > 380)

            async def accepts(count: int, seconds: float) -> bool:
                task = begin(served, pairs(count), deadline=clock() + seconds)
                await until(lambda: task.done() or value(served, "crossrank_queue_requests") == 2)
                refused = task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return not refused

            async def least(count: int) -> float:
                """The least time, in steps of a fifth, with which so many pairs are accepted."""
                seconds = 5.0
                while not await accepts(count, seconds):
                    seconds *= 1.2
                return seconds

            large, small = await least(50), await least(1)
            for _ in range(16):
                late = begin(served, pairs(5), deadline=clock() + large)
                await until(lambda: value(served, "crossrank_queue_requests") == 2)
                (job,) = (job for job in served._scheduler._jobs if len(job.work.texts) == 5)
                served._scheduler.expire(job)  # its deadline has come
                with pytest.raises(DeadlineError, match="pairs were left"):
                    await late
            assert 1.6 * large < await least(50) < 5 * large
            assert await least(1) <= 1.5 * small  # it goes before the large ones
            hog.cancel()
            engine.gate.set()
            await asyncio.gather(hog, return_exceptions=True)

    asyncio.run(main())


def test_who_goes_away_takes_the_pairs_along() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine) as served:
            engine.gate.clear()
            gone, stays = begin(served, pairs(200, "gone")), begin(served, pairs(10, "stays"))
            await until(lambda: value(served, "te_queue_size") > 150)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert value(served, "te_queue_size") <= 10
            assert value(served, "crossrank_cancelled_total") == 1
            assert value(served, "crossrank_cancelled_pairs_total") == 200
            assert value(served, "crossrank_requests_total", model="model", outcome="cancelled") == 1
            engine.gate.set()
            assert (await stays).logits.tolist() == expected(pairs(10, "stays"))
            assert sum(len(pack) for pack in engine.packs) < 40

    asyncio.run(main())


def test_a_failure_touches_the_requests_of_its_pack_and_the_engine_comes_back() -> None:
    async def main() -> None:
        engine = fake(batch_tokens=100)
        async with registry(engine) as served:
            engine.gate.clear()
            touched = begin(served, pairs(3, "touched"))
            await until(lambda: engine.packs)
            others = [begin(served, pairs(5, f"other{i}")) for i in range(5)]
            await until(lambda: value(served, "te_queue_size") >= 25)
            engine.fail = RuntimeError("the device is gone")
            engine.gate.set()
            with pytest.raises(EngineError, match="RuntimeError: the device is gone"):
                await touched
            for i, other in enumerate(others):
                assert (await other).logits.tolist() == expected(pairs(5, f"other{i}"))
            await until(lambda: served.state.ready)
            assert value(served, "crossrank_engine_failures_total", model="model") == 1
            assert value(served, "crossrank_engine_restarts_total", model="model") == 1
            assert value(served, "te_request_failure", err="inference") == 1

    asyncio.run(main())


def test_what_the_engine_refuses_fails_the_request_it_is_of_and_no_other() -> None:
    bad = "unknown " * 20
    size = tokens([("query", bad)])[0]

    def logit(ids: npt.NDArray[np.int32]) -> float:
        if len(ids) == size:
            raise InputError("pair 0 has the token id 7; the model has embeddings for 0 to 6")
        return checksum(ids)

    async def main() -> None:
        engine = fake(logit, batch_tokens=1000)
        async with registry(engine, warm_up=False) as served:
            engine.gate.clear()
            first = begin(served, pairs(1))
            await until(lambda: engine.packs)
            good = [begin(served, pairs(5, f"good{i}")) for i in range(3)]
            wrong = begin(served, [("query", "short"), ("query", bad), ("query", "brief")])
            await until(lambda: value(served, "te_queue_size") == 18)
            engine.gate.set()
            with pytest.raises(InputError, match="pair 1 has the token id 7"):
                await wrong
            await first
            for i, task in enumerate(good):
                assert (await task).logits.tolist() == expected(pairs(5, f"good{i}"))
            assert served.state.ready
            assert value(served, "crossrank_engine_failures_total", model="model") == 0
            assert value(served, "te_request_failure", err="validation") == 1

    asyncio.run(main())


def test_wrong_shapes_are_an_engine_failure() -> None:
    class Short(type(fake())):  # type: ignore[misc]
        def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
            found: npt.NDArray[np.float32] = super().logits(pack)
            return found[1:] if len(self.packs) == 1 else found

    async def main() -> None:
        engine = Short()
        async with registry(engine, warm_up=False) as served:
            with pytest.raises(EngineError, match=r"logits of shape \(1,\) for 2 pairs"):
                await served.score(asked(pairs(2)))
            await until(lambda: served.state.ready)
            assert len((await served.score(asked(pairs(2)))).logits) == 2

    asyncio.run(main())


def test_a_nan_fails_only_the_request_whose_pair_it_is() -> None:
    bad = tokens([("query", "bad " * 30)])[0]

    def logit(ids: npt.NDArray[np.int32]) -> float:
        return float("nan") if len(ids) == bad else 1.0

    async def main() -> None:
        engine = fake(logit, batch_tokens=1000)
        async with registry(engine) as served:
            engine.gate.clear()
            first = begin(served, pairs(1))
            await until(lambda: engine.packs)
            good = begin(served, pairs(5))
            wrong = begin(served, [("query", "short"), ("query", "bad " * 30), ("query", "brief")])
            await until(lambda: value(served, "te_queue_size") == 8)
            engine.gate.set()
            with pytest.raises(NonFiniteLogitError, match="pair 1 has the logit nan"):
                await wrong
            assert (await good).logits.tolist() == [1.0] * 5
            await first
            assert len(engine.packs) == 2
            assert served.state.ready
            assert value(served, "crossrank_engine_failures_total", model="model") == 0

    asyncio.run(main())


@pytest.mark.parametrize("kind", [MemoryError, OutOfMemoryError])
def test_what_does_not_fit_into_memory_is_halved(kind: type[Exception]) -> None:
    class Small(type(fake())):  # type: ignore[misc]
        def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
            if len(pack.token_ids) > 50:
                raise kind("too much")
            found: npt.NDArray[np.float32] = super().logits(pack)
            return found

    async def main() -> None:
        engine = Small(batch_tokens=400, logit=lambda ids: 2.0)
        async with registry(engine, warm_up=False) as served:
            work = asked([("q", f"a {i}") for i in range(60)])
            assert (await served.score(work)).logits.tolist() == [2.0] * 60
            assert value(served, "crossrank_out_of_memory_total", model="model") > 0
            halved = served.models()[0].batch_tokens
            assert halved < 400
            before = value(served, "crossrank_out_of_memory_total", model="model")
            await served.score(work)
            await served.score(work)
            assert value(served, "crossrank_out_of_memory_total", model="model") <= before + 2
            # A pair that does not fit alone fails alone, and the engine stays.
            with pytest.raises(OutOfMemoryError, match="a pair of 64 tokens does not fit into memory"):
                await served.score(asked([("q", "a"), ("q", "long " * 100)]))
            assert served.state.ready

    asyncio.run(main())


def test_cutting_is_what_the_request_says() -> None:
    async def main() -> None:
        long = " ".join(f"w{i}" for i in range(200))
        async with registry(fake()) as served:
            right = await served.score(asked([("q", long)]))
            left = await served.score(asked([("q", long)], cut=Cut(side="left")))
            assert right.tokens == left.tokens == [64]
            assert right.logits.tolist() != left.logits.tolist()
            few = await served.score(asked([("q", long)], cut=Cut(document=9, pair=20)))
            assert few.tokens == [tokens([("q", "")])[0] + 9]
            narrow = await served.score(asked([("q " * 50, long)], cut=Cut(pair=20)))
            assert narrow.tokens == [20]
            query = await served.score(asked([("q " * 50, "")], cut=Cut(query=3)))
            assert query.tokens == [tokens([("", "")])[0] + 3]
            with pytest.raises(InputError, match="1 tokens for a pair are too few"):
                await served.score(asked([("q", long)], cut=Cut(pair=1)))
            # In the second slice: the place is the request's.
            with pytest.raises(
                TooLongError, match="pair 70 has more than 69 tokens, and at most 64 fit"
            ) as caught:
                await served.score(asked([*pairs(70), ("q", long)], cut=Cut(allowed=False)))
            assert caught.value.pair == 70
            assert value(served, "te_queue_size") == 0

    asyncio.run(main())


def test_a_tokenizer_that_fails_is_an_error_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """As pyo3's: it is no Exception."""

    def join(*_: object) -> None:
        raise Panic("called `Option::unwrap()` on a `None` value")

    async def main() -> None:
        async with registry(fake()) as served:
            with monkeypatch.context() as patch:
                patch.setattr("crossrank.pairs.PairEncoder.join", join)
                with pytest.raises(EngineError, match="the tokenizer failed: Panic"):
                    await served.score(asked(pairs(2)))
            assert len((await served.score(asked(pairs(2)))).logits) == 2

    asyncio.run(main())


def test_closing_ends_what_waits() -> None:
    async def main() -> None:
        engine = fake(seconds=0.05)
        async with registry(engine) as served:
            tasks = [begin(served, pairs(50, f"r{i}")) for i in range(5)]
            await until(lambda: engine.packs)
            await served.close()
            for task in tasks:
                with pytest.raises(UnavailableError, match="the server is stopping"):
                    await task

    asyncio.run(main())


steps = st.lists(
    st.tuples(
        st.sampled_from(["score", "score", "score", "cancel", "deadline", "fail", "pause"]),
        st.integers(1, 60),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=25, deadline=None)
@given(steps)
def test_every_request_ends_and_no_answer_is_anothers(plan: list[tuple[str, int, int]]) -> None:
    outcomes: Counter[str] = Counter()

    async def main() -> None:
        engine = fake(batch_tokens=150, seconds=0.0005)
        async with registry(engine, max_queue_tokens=3000, quantum=200) as served:
            sent = []
            for i, (action, count, priority) in enumerate(plan):
                if action == "fail":
                    engine.fail = RuntimeError("gone")
                elif action == "pause":
                    await asyncio.sleep(0.002 * priority)
                else:
                    deadline = time.monotonic() + 0.002 if action == "deadline" else None
                    work = asked(pairs(count, f"r{i}"), priority=priority, deadline=deadline)
                    sent.append((work, begin(served, work)))
                    if action == "cancel":
                        await asyncio.sleep(0.001 * priority)
                        sent[-1][1].cancel()
            ended = await asyncio.wait_for(
                asyncio.gather(*(task for _, task in sent), return_exceptions=True), 30
            )
            for (work, _), end in zip(sent, ended, strict=True):
                outcomes[type(end).__name__] += 1
                if isinstance(end, Answer):
                    assert end.logits.tolist() == expected(pairs_of(work))
                    assert end.tokens == tokens(pairs_of(work))
                else:
                    assert isinstance(end, (CrossRankError, asyncio.CancelledError))
            assert value(served, "te_queue_size") == 0
            assert value(served, "crossrank_queue_tokens") == 0
            assert value(served, "crossrank_queue_requests") == 0
            engine.fail = None
            await until(lambda: served.state.ready)
            assert (await served.score(asked(pairs(3)))).logits.tolist() == expected(pairs(3))

    asyncio.run(main())


def test_the_next_pack_is_there_before_the_one_at_hand_is_done() -> None:
    async def main() -> None:
        engine = fake(calls=2)
        async with registry(engine) as served:
            engine.gate.clear()
            task = begin(served, pairs(100))
            await until(lambda: len(engine.packs) == 2)
            await until(lambda: value(served, "te_queue_size") == 100 - sum(map(len, engine.packs)))
            assert len(engine.packs) == 2  # all else waits: no more than it takes
            engine.gate.set()
            answer = await task
            assert answer.logits.tolist() == expected(pairs(100))
            # The first had nobody beside it; the others share the engine.
            sizes = [len(pack.token_ids) for pack in engine.packs]
            assert sizes[0] > 90
            assert all(size < 70 for size in sizes[1:])

    asyncio.run(main())


def test_packs_that_overlap_are_not_counted_twice() -> None:
    async def main() -> None:
        engine = fake(calls=2, seconds=0.02)
        async with registry(engine) as served:
            begun = time.monotonic()
            answer = await served.score(asked(pairs(100)))
            assert len(engine.packs) > 10
            assert answer.inference_s <= time.monotonic() - begun

    asyncio.run(main())


def test_packs_beside_one_that_fails_fail_with_it_and_the_engine_restarts_once() -> None:
    def broken(ids: npt.NDArray[np.int32]) -> float:
        if failing.is_set():
            raise EngineError("the device is gone")
        return checksum(ids)

    async def main() -> None:
        first = fake(broken, calls=2)
        engines = [fake(calls=2), first]
        spec = ModelSpec("model", lambda: LoadedModel(ENCODER, engines.pop()))
        async with registry(spec) as served:
            first.packs.clear()
            first.gate.clear()
            tasks = []
            for name in ("one", "other"):
                tasks.append(begin(served, pairs(3, name)))
                await until(lambda: len(first.packs) == len(tasks))
            failing.set()
            first.gate.set()
            for task in tasks:
                with pytest.raises(EngineError, match="the device is gone"):
                    await task
            await until(lambda: served.state.ready)
            assert not engines
            assert value(served, "crossrank_engine_failures_total", model="model") == 1
            assert value(served, "crossrank_engine_restarts_total", model="model") == 1
            assert (await served.score(asked(pairs(8)))).logits.tolist() == expected(pairs(8))

    failing = threading.Event()
    asyncio.run(main())


def test_two_models_never_run_at_the_same_time() -> None:
    async def main() -> None:
        running: list[str] = []
        seen: set[frozenset[str]] = set()

        def logit(name: str) -> Callable[[npt.NDArray[np.int32]], float]:
            def run(ids: npt.NDArray[np.int32]) -> float:
                running.append(name)
                seen.add(frozenset(running))
                time.sleep(0.0005)
                running.remove(name)
                return checksum(ids)

            return run

        models = [serve(fake(logit(name), calls=2), name) for name in ("A", "B")]
        async with registry(*models) as served:
            tasks = [begin(served, pairs(60, f"r{i}"), model="AB"[i % 2]) for i in range(6)]
            for i, task in enumerate(tasks):
                assert (await task).logits.tolist() == expected(pairs(60, f"r{i}"))
        assert seen == {frozenset("A"), frozenset("B")}

    asyncio.run(main())
