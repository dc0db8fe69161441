from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest

from crossrank import Reranker
from crossrank.engines.fake import FakeEngine
from crossrank.errors import (
    EngineError,
    InputError,
    ModelNotFoundError,
    UnavailableError,
    UnknownModelError,
)
from crossrank.loading import LoadedModel, load_model
from crossrank.packing import Pack
from crossrank.server.core import model as loading
from crossrank.server.core import registry as module
from crossrank.server.core.model import ModelSpec
from crossrank.server.core.registry import Options, Registry
from tests.checkpoints import write_xlm_roberta
from tests.server.serving import (
    ENCODER,
    asked,
    begin,
    expected,
    fake,
    pairs,
    pairs_of,
    registry,
    serve,
    until,
    value,
)


@pytest.fixture(autouse=True)
def _time_is_what_a_test_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but a test itself calls ``Registry.watch``."""
    monkeypatch.setattr(module, "_WATCH_SECONDS", 1e6)


def loader(*engines: FakeEngine | Exception) -> tuple[Callable[[], LoadedModel], list[int]]:
    """Loads one after the other, and raises what is an error; and the number of loads so far."""
    loads: list[int] = []

    def load() -> LoadedModel:
        found = engines[min(len(loads), len(engines) - 1)]
        loads.append(1)
        if isinstance(found, Exception):
            raise found
        return LoadedModel(ENCODER, found)

    return load, loads


@pytest.mark.parametrize("names", [[], ["a", "b", "a"]])
def test_models_have_different_names(names: list[str]) -> None:
    with pytest.raises(InputError, match="models with different names"):
        Registry([serve(fake(), name) for name in names])


def test_models_are_listed_and_chosen_by_name() -> None:
    async def main() -> None:
        one, two = fake(lambda ids: 1.0), fake(lambda ids: 2.0, batch_tokens=300)
        async with registry(serve(one, "one"), ModelSpec("two", serve(two).load, "org/two")) as served:
            first, second = served.models()
            assert (first.name, first.source, second.source) == ("one", "one", "org/two")
            assert (first.engine, first.device, first.precision) == ("fake", "cpu", "fp32")
            assert (first.max_length, second.batch_tokens, first.state) == (64, 300, "ready")
            assert first.created > 1_600_000_000
            for name, logit in ((None, 1.0), ("one", 1.0), ("two", 2.0)):
                answer = await served.score(asked(pairs(3), model=name))
                assert (answer.model, answer.logits.tolist()) == (name or "one", [logit] * 3)
            with pytest.raises(
                UnknownModelError, match="no model 'three' is served here; there is: one, two"
            ):
                await served.score(asked(pairs(1), model="three"))
            with pytest.raises(UnknownModelError):
                await served.reload("three")
            assert value(served, "crossrank_pairs_total", model="two") == 3

    asyncio.run(main())


def test_two_models_at_once_share_the_thread_and_no_pack() -> None:
    async def main() -> None:
        one, two = fake(batch_tokens=200), fake(lambda ids: 2.0, batch_tokens=200)
        async with registry(serve(one, "one"), serve(two, "two"), warm_up=False) as served:
            work = [asked(pairs(30, f"r{i}"), model=("one", "two")[i % 2]) for i in range(10)]
            answers = await asyncio.gather(*(served.score(each) for each in work))
            for each, answer in zip(work, answers, strict=True):
                wanted = expected(pairs_of(each)) if each.model == "one" else [2.0] * 30
                assert answer.logits.tolist() == wanted
            assert sum(map(len, one.packs)) == sum(map(len, two.packs)) == 150

    asyncio.run(main())


def test_it_is_ready_once_everything_is_loaded_and_warm() -> None:
    async def main() -> None:
        engine, go = fake(), threading.Event()

        def load() -> LoadedModel:
            go.wait()
            return LoadedModel(ENCODER, engine)

        served = Registry([ModelSpec("model", load)])
        assert (served.state.ready, served.state.why) == (False, "model is loading")
        assert served.models()[0].state == "loading"
        starting = asyncio.ensure_future(served.start())
        with pytest.raises(UnavailableError, match="model is loading") as caught:
            await served.score(asked(pairs(1)))
        assert caught.value.retry_after >= 1
        assert value(served, "crossrank_ready") == 0
        go.set()
        await starting
        assert engine.packs  # it was warmed up
        assert value(served, "crossrank_tokens_per_second", model="model") > 0
        assert served.state.ready
        assert value(served, "crossrank_ready") == 1
        await served.close()
        assert not served.state.ready

    asyncio.run(main())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ModelNotFoundError("no such model"), "no such model"),
        (fake(lambda ids: np.nan), "weights are damaged"),
    ],
)
def test_a_model_that_cannot_serve_is_an_error_at_the_start(
    found: FakeEngine | Exception, message: str
) -> None:
    async def main() -> None:
        served = Registry([ModelSpec("model", loader(found)[0])])
        with pytest.raises((ModelNotFoundError, EngineError), match=message):
            await served.start()
        await served.close()

    asyncio.run(main())


def test_while_an_engine_restarts_it_says_so_and_the_other_model_goes_on() -> None:
    async def main() -> None:
        broken, whole, go = fake(), fake(), threading.Event()
        loads: list[int] = []

        def load() -> LoadedModel:
            loads.append(1)
            if len(loads) > 1:
                go.wait()
            return LoadedModel(ENCODER, broken)

        specs = ModelSpec("broken", load), serve(whole, "whole")
        async with registry(*specs) as served:
            broken.fail = EngineError("the device is gone")
            with pytest.raises(EngineError, match="the device is gone"):
                await served.score(asked(pairs(3)))
            assert not served.state.ready
            assert (
                "the engine of broken failed and is being restarted: the device is gone" in served.state.why
            )
            assert [model.state for model in served.models()] == ["failed", "ready"]
            assert value(served, "crossrank_model_ready", model="broken") == 0
            with pytest.raises(UnavailableError, match="being restarted"):
                await served.score(asked(pairs(3)))
            answer = await served.score(asked(pairs(3), model="whole"))
            assert answer.logits.tolist() == expected(pairs(3))
            go.set()
            await until(lambda: served.state.ready)
            assert (await served.score(asked(pairs(3)))).logits.tolist() == expected(pairs(3))

    asyncio.run(main())


def test_a_restart_that_finds_other_files_is_another_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_xlm_roberta(tmp_path / "tiny")
    clock = SimpleNamespace(time=count(1).__next__, monotonic=time.monotonic)
    monkeypatch.setattr(loading, "time", clock)
    loaded: list[LoadedModel] = []

    def load() -> LoadedModel:
        loaded.append(load_model(folder, device="cpu"))
        return loaded[-1]

    def fail(pack: Pack) -> NoReturn:
        os.utime(folder / "tokenizer.json", (0, 0))  # as if another were put there
        raise EngineError("the device is gone")

    async def main() -> None:
        async with registry(ModelSpec("model", load)) as served:
            before = served.models()[0]
            monkeypatch.setattr(loaded[0].engine, "logits", fail)
            with pytest.raises(EngineError, match="the device is gone"):
                await served.score(asked(pairs(3)))
            await until(lambda: served.state.ready)
            assert served.models()[0].created > before.created
            assert len((await served.score(asked(pairs(3)))).logits) == 3

    asyncio.run(main())


def test_what_waits_for_an_engine_waits_for_one_try_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    first, second = fake(), fake()
    load, loads = loader(first, RuntimeError("no device"), RuntimeError("no device"), second)

    async def main() -> None:
        async with registry(ModelSpec("model", load)) as served:
            first.gate.clear()
            first.packs.clear()
            touched = begin(served, pairs(2, "touched"))
            await until(lambda: first.packs)
            waits = begin(served, pairs(2, "waits"))
            await until(lambda: value(served, "te_queue_size") == 2)
            first.fail = RuntimeError("the device is gone")
            first.gate.set()
            with pytest.raises(EngineError, match="the device is gone"):
                await touched
            with pytest.raises(UnavailableError, match="again on its restart: no device") as caught:
                await waits
            assert caught.value.retry_after >= 1
            assert not served.state.ready
            await until(lambda: served.state.ready)
            assert len(loads) == 4
            assert len((await served.score(asked(pairs(2)))).logits) == 2
            assert second.packs
            assert value(served, "crossrank_engine_restarts_total", model="model") == 1

    asyncio.run(main())


def test_a_reload_drops_nothing() -> None:
    old, new = fake(lambda ids: 1.0), fake(lambda ids: 2.0)

    async def main() -> None:
        async with registry(ModelSpec("model", loader(old, new)[0])) as served:
            old.gate.clear()
            old.packs.clear()
            before = [begin(served, pairs(20, f"r{i}")) for i in range(3)]
            await until(lambda: value(served, "te_queue_size") > 40)
            await served.reload("model")
            after = begin(served, pairs(5))
            await until(lambda: value(served, "crossrank_queue_requests") == 4)
            old.gate.set()
            for task in before:
                assert (await task).logits.tolist() == [1.0] * 20
            assert (await after).logits.tolist() == [2.0] * 5
            assert sum(map(len, old.packs)) == 60

    asyncio.run(main())


def test_a_reload_under_load_answers_everybody_from_one_engine_each() -> None:
    old, new = fake(lambda ids: 1.0, seconds=0.001), fake(lambda ids: 2.0, seconds=0.001)

    async def main() -> None:
        async with registry(ModelSpec("model", loader(old, new)[0])) as served:
            answers: list[list[float]] = []

            async def client(name: str) -> None:
                for i in range(10):
                    answer = await served.score(asked(pairs(10, f"{name}{i}")))
                    answers.append(answer.logits.tolist())

            clients = [asyncio.ensure_future(client(name)) for name in "abcdef"]
            await until(lambda: len(answers) > 5)
            await served.reload()
            await asyncio.gather(*clients)
            assert len(answers) == 60
            assert {tuple(answer) for answer in answers} == {(1.0,) * 10, (2.0,) * 10}
            assert answers[-1] == [2.0] * 10

    asyncio.run(main())


def test_where_the_new_one_cannot_be_loaded_the_old_one_stays() -> None:
    load, _ = loader(fake(), ModelNotFoundError("it is gone"))

    async def main() -> None:
        async with registry(ModelSpec("model", load)) as served:
            with pytest.raises(ModelNotFoundError, match="it is gone"):
                await served.reload()
            assert served.state.ready
            assert (await served.score(asked(pairs(3)))).logits.tolist() == expected(pairs(3))

    asyncio.run(main())


def test_whoever_wants_to_know_is_told_of_models_that_were_loaded() -> None:
    load, loads = loader(fake(), fake(), ModelNotFoundError("it is gone"))
    told: list[int] = []

    async def main() -> None:
        served = Registry([ModelSpec("model", load)])
        served.on_loaded = lambda: told.append(len(loads))
        try:
            await served.start()
            await served.reload("model")
            with pytest.raises(ModelNotFoundError):
                await served.reload()
        finally:
            await served.close()

    asyncio.run(main())
    assert told == [1, 2]


def test_an_old_engine_that_fails_fails_its_requests_and_nothing_else() -> None:
    old, new = fake(), fake()
    load, loads = loader(old, new)

    async def main() -> None:
        async with registry(ModelSpec("model", load)) as served:
            old.gate.clear()
            old.packs.clear()
            touched = begin(served, pairs(2, "touched"))
            await until(lambda: old.packs)
            waits = begin(served, pairs(2, "waits"))
            await until(lambda: value(served, "te_queue_size") == 2)
            await served.reload()
            old.fail = RuntimeError("too old")
            old.gate.set()
            with pytest.raises(EngineError, match="too old"):
                await touched
            with pytest.raises(UnavailableError, match="send the request again"):
                await waits
            assert served.state.ready
            assert len(loads) == 2
            assert (await served.score(asked(pairs(3)))).logits.tolist() == expected(pairs(3))

    asyncio.run(main())


def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine) as served:
            engine.gate.clear()
            running = [begin(served, pairs(30, f"r{i}")) for i in range(3)]
            await until(lambda: engine.packs)
            draining = asyncio.ensure_future(served.drain(30))
            await asyncio.sleep(0.01)
            assert (served.state.ready, served.state.why) == (False, "the server is stopping")
            with pytest.raises(UnavailableError, match="the server is stopping"):
                await served.score(asked(pairs(1)))
            engine.gate.set()
            assert await draining
            for i, task in enumerate(running):
                assert (await task).logits.tolist() == expected(pairs(30, f"r{i}"))

    asyncio.run(main())


def test_draining_ends_with_its_time() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine) as served:
            engine.gate.clear()
            running = begin(served, pairs(30))
            await until(lambda: engine.packs)
            assert not await served.drain(0.05)
            closing = asyncio.ensure_future(served.close())
            with pytest.raises(UnavailableError, match="the server is stopping"):
                await running
            engine.gate.set()
            await closing

    asyncio.run(main())


def test_an_engine_that_does_not_answer_fails_its_requests_and_says_so() -> None:
    async def main() -> None:
        engine, told = fake(), list[str]()
        async with registry(engine, stuck_seconds=30.0) as served:
            served.on_stuck = told.append
            engine.gate.clear()
            engine.packs.clear()
            running, waits = begin(served, pairs(2, "runs")), begin(served, pairs(2, "waits"))
            await until(lambda: engine.packs)
            served.watch(29.0)
            assert served.state.ready
            assert not running.done()
            served.watch(2.0)
            assert (served.state.ready, served.state.why) == (False, "the engine has not answered for 31 s")
            for task in (running, waits):
                with pytest.raises(UnavailableError, match="the engine has not answered for 31 s") as caught:
                    await task
                assert caught.value.retry_after >= 1
            with pytest.raises(UnavailableError, match="the engine has not answered"):
                await served.score(asked(pairs(1)))
            served.watch(1.0)
            assert told == ["the engine has not answered for 31 s"]  # once
            assert value(served, "crossrank_queue_requests") == 0
            engine.gate.set()  # it answers after all
            await until(lambda: not served._scheduler._running)
            served.watch(1.0)
            assert served.state.ready
            assert (await served.score(asked(pairs(2)))).logits.tolist() == expected(pairs(2))

    asyncio.run(main())


def test_a_pack_that_takes_as_long_as_expected_is_not_stuck() -> None:
    async def main() -> None:
        engine = fake(seconds_per_token=0.001)
        async with registry(engine, stuck_seconds=0.001, quantum=10) as served:
            engine.gate.clear()
            engine.packs.clear()
            running = begin(served, pairs(2))
            await until(lambda: engine.packs)
            served.watch(10 * 0.001 * len(engine.packs[0].token_ids))
            assert served.state.why == ""
            served.watch(60.0)
            assert "has not answered" in served.state.why
            engine.gate.set()
            with pytest.raises(UnavailableError):
                await running

    asyncio.run(main())


def test_where_no_text_is_read_any_more_requests_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun = threading.Event(), list[object]()

    def hang(*_: object) -> None:
        begun.append(1)
        gate.wait()
        raise InputError("it was asked to end")

    async def main() -> None:
        async with registry(fake(), stuck_seconds=30.0, tokenizer_threads=2) as served:
            monkeypatch.setattr("crossrank.pairs.PairEncoder.join", hang)
            tasks = [begin(served, pairs(2), client="one")]
            await until(lambda: len(begun) == 1)
            served.watch(100.0)
            assert served.state.ready  # another thread is free
            tasks.append(begin(served, pairs(2), client="another"))
            await until(lambda: len(begun) == 2)
            served.watch(31.0)
            assert served.state.why == "texts have not been read for 31 s"
            for task in tasks:
                with pytest.raises(UnavailableError, match="texts have not been read"):
                    await task
            assert not await served.close(0.0)
            gate.set()
            assert await served.close()

    asyncio.run(main())


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_as_many_packs_run_at_a_time_as_the_engine_takes(calls: int) -> None:
    async def main() -> None:
        engine = fake(calls=calls)
        async with registry(engine) as served:
            engine.gate.clear()
            engine.packs.clear()
            task = begin(served, pairs(200))
            await until(lambda: len(engine.packs) == calls)
            await until(lambda: value(served, "te_queue_size") > 0)
            assert len(engine.packs) == calls
            engine.gate.set()
            assert (await task).logits.tolist() == expected(pairs(200))

    asyncio.run(main())


def test_the_real_model_gives_the_same_bits_alone_and_among_others() -> None:
    texts = ["Beijing is the capital of China.", "Paris " * 60, "", "大熊猫是中国特有的动物。"] * 2
    work = [asked([(f"query {i} 首都", text) for text in texts[: 1 + 2 * i]]) for i in range(4)]

    async def main() -> None:
        spec = ModelSpec("mini", load_model, "crossrank-mini")
        served = Registry([spec], Options(score_cache_bytes=1 << 20))
        await served.start()
        info = served.models()[0]
        assert (info.engine, info.max_length, info.id2label) == ("native", 512, {"0": "LABEL_0"})
        alone = [[await served.score(asked([pair])) for pair in pairs_of(each)] for each in work]
        await served.close()
        served = Registry([spec])
        await served.start()
        together = await asyncio.gather(*(served.score(each) for each in work))
        library = Reranker()
        for each, singles, answer in zip(work, alone, together, strict=True):
            assert answer.logits.tobytes() == b"".join(single.logits.tobytes() for single in singles)
            assert answer.logits.tobytes() == library.logits(pairs_of(each)).tobytes()
        await served.close()

    asyncio.run(main())


def test_the_cache_outlives_a_reload_of_the_same_files() -> None:
    async def main() -> None:
        async with registry(ModelSpec("mini", load_model), score_cache_bytes=1 << 20) as served:
            first = await served.score(asked(pairs(3)))
            await served.reload()
            second = await served.score(asked(pairs(3)))
            assert second.cached == 3
            assert second.logits.tobytes() == first.logits.tobytes()

    asyncio.run(main())
