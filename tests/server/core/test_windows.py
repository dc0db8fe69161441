"""Documents that do not fit, read in windows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from crossrank.errors import DeadlineError, InputError, NonFiniteLogitError, OverloadedError, TooLongError
from crossrank.loading import LoadedModel
from crossrank.pairs import Cut, EncodedPair
from crossrank.server.core.model import Model
from crossrank.server.core.work import Work
from tests.prompted import prompted_encoder
from tests.server.core.test_instruction import sharing
from tests.server.serving import (
    ENCODER,
    Clock,
    asked,
    begin,
    checksum,
    expected,
    fake,
    registry,
    until,
    value,
)

WINDOWS = Cut(long="windows", max_windows=100)


def long(name: str, sentences: int = 60) -> str:
    return " ".join(f"Sentence {i} of {name} has the number {i * i}." for i in range(sentences))


def windows_of(query: str, text: str, cut: Cut = WINDOWS) -> list[EncodedPair]:
    return ENCODER.join_windows(ENCODER.query(query), [text], cut)[0]


def best_of(pairs: Sequence[EncodedPair]) -> tuple[float, tuple[int, int] | None]:
    best = max(pairs, key=lambda pair: checksum(pair.token_ids))
    return checksum(best.token_ids), best.window


def test_a_document_has_the_logit_of_its_best_window_and_the_tokens_of_all() -> None:
    async def main() -> None:
        engine = fake(batch_tokens=150)
        texts = [long("one"), "short", long("two", 30)]
        async with registry(engine) as served:
            answer = await served.score(Work(["which?"], texts, WINDOWS))
            found = [windows_of("which?", text) for text in texts]
            assert [len(pairs) > 1 for pairs in found] == [True, False, True]
            assert list(zip(answer.logits.tolist(), answer.windows, strict=True)) == list(map(best_of, found))
            assert answer.tokens == [sum(pair.tokens for pair in pairs) for pairs in found]
            assert answer.truncated == [False] * 3
            assert sum(map(len, engine.packs)) == sum(map(len, found))
            assert value(served, "crossrank_queue_tokens") == 0
            few = await served.score(Work(["which?"], texts, Cut(long="windows", max_windows=2)))
            assert few.truncated == [True, False, True]
            assert (await served.score(Work(["which?"], texts))).windows == [None] * 3

    asyncio.run(main())


def test_each_query_has_its_own_windows_and_equal_documents_are_read_once() -> None:
    async def main() -> None:
        engine = fake()
        text = long("one")
        async with registry(engine) as served:
            work = Work(["which?", "what of the number 49?", "which?"], [text] * 3, WINDOWS)
            answer = await served.score(work)
            first, second = (windows_of(query, text) for query in work.queries[:2])
            assert answer.logits.tolist() == [best_of(pairs)[0] for pairs in (first, second, first)]
            assert sum(map(len, engine.packs)) == len(first) + len(second)

    asyncio.run(main())


def test_the_cache_knows_a_document_with_its_windows_and_only_with_the_same() -> None:
    async def main() -> None:
        engine = fake()
        texts = [long("one"), "short"]
        async with registry(engine, score_cache_bytes=1 << 20) as served:
            first = await served.score(Work(["q"], texts, WINDOWS))
            engine.packs.clear()
            again = await served.score(Work(["q"], texts, WINDOWS))
            assert (again.cached, engine.packs) == (2, [])
            assert again.logits.tolist() == first.logits.tolist()
            assert (again.windows, again.tokens, again.truncated) == (
                first.windows,
                first.tokens,
                first.truncated,
            )
            for cut in (Cut(), Cut(long="windows"), Cut(long="windows", max_windows=3)):
                assert (await served.score(Work(["q"], texts, cut))).cached == 0
            with pytest.raises(TooLongError, match="pair 0 "):
                await served.score(Work(["q"], texts, Cut(allowed=False, long="windows", max_windows=100)))

    asyncio.run(main())


def test_one_bad_window_fails_its_request_and_no_other() -> None:
    async def main() -> None:
        bad = windows_of("q", long("one"))[3].token_ids.tolist()
        engine = fake(lambda ids: float("nan") if ids.tolist() == bad else checksum(ids))
        async with registry(engine) as served:
            with pytest.raises(NonFiniteLogitError) as raised:
                await served.score(Work(["q"], ["short", long("one")], WINDOWS))
            assert raised.value.pair == 1
            answer = await served.score(Work(["q"], [long("two")], WINDOWS))
            assert answer.logits.tolist() == [best_of(windows_of("q", long("two")))[0]]
            assert value(served, "crossrank_queue_tokens") == 0

    asyncio.run(main())


def test_long_documents_are_admitted_by_the_tokens_of_their_windows() -> None:
    """Fifty documents of several thousand characters, as a client sends them who does not cut."""

    async def main() -> None:
        engine = fake()
        texts = [long(f"text {i}", 100) for i in range(50)]
        work = Work(["q"], texts, Cut(long="windows", max_windows=8), client="large")
        cost = sum(pair.tokens for text in texts for pair in windows_of("q", text, work.cut))
        cut = sum(len(pair.token_ids) for pair in ENCODER.encode("q", texts))
        assert cost > 6 * cut
        async with registry(engine, max_queue_tokens=2 * cut) as served:
            assert len(await served.score(Work(["q"], texts))) == 50
            with pytest.raises(InputError, match="send fewer documents at once"):
                await served.score(work)
        async with registry(engine, max_queue_tokens=round(1.5 * cost), quantum=200) as served:
            engine.gate.clear()
            engine.packs.clear()
            large = begin(served, work)
            await until(lambda: value(served, "crossrank_queue_tokens") == cost)
            with pytest.raises(OverloadedError, match="would exceed"):
                await served.score(Work(["q"], texts, work.cut, client="other"))
            # A small request takes its turn before the windows that wait.
            queued, before = value(served, "te_queue_size"), len(engine.packs)
            small = begin(served, asked([("small", "document")], client="small"))
            await until(lambda: value(served, "te_queue_size") == queued + 1)
            engine.gate.set()
            await small
            assert len(await large) == 50
            ids = ENCODER.encode("small", ["document"])[0].token_ids
            turn = [ids.tobytes() in pack.token_ids.tobytes() for pack in engine.packs].index(True)
            assert turn <= before
            assert sum(len(pack.token_ids) for pack in engine.packs) == cost + len(ids)
            assert value(served, "crossrank_queue_tokens") == 0

    asyncio.run(main())


def test_the_deadline_is_over_all_windows() -> None:
    async def main() -> None:
        clock = Clock()
        engine = clock.engine(1000.0)
        texts = [long(f"text {i}", 100) for i in range(10)]
        async with registry(engine, clock=clock) as served:
            deadline = 1.5 * sum(len(pair.token_ids) for pair in ENCODER.encode("q", texts)) / 1000
            answer = await served.score(Work(["q"], texts, deadline=clock() + deadline))
            assert len(answer) == 10
            with pytest.raises(DeadlineError):
                await served.score(Work(["q"], texts, WINDOWS, deadline=clock() + deadline))

    asyncio.run(main())


@pytest.mark.parametrize("sentences", [5, 12, 40, 150])
@pytest.mark.parametrize("most", [3, 8, 100])
def test_estimates_are_near_what_windows_have(sentences: int, most: int) -> None:
    model, cut = Model("model", LoadedModel(ENCODER, fake())), Cut(long="windows", max_windows=most)
    text = long("one", sentences)
    model.read(["q"], ["of one has the number"] * 9, ENCODER.encode("q", ["of one has the number"] * 9))
    (estimate,) = model.estimate(Work(["q"], [text], cut), model.sample(Work(["q"], [text], cut)))
    tokens = sum(pair.tokens for pair in windows_of("q", text, cut))
    # A last window may be short, where others are left out before it.
    assert 0.75 * tokens <= estimate <= (1.25 if most > 3 else 1.5) * tokens


def test_estimates_of_windows_count_a_shared_prefix_once() -> None:
    encoder = prompted_encoder()
    model = Model("model", LoadedModel(encoder, sharing()))
    texts = [long("one", 100), long("two", 100)]
    pairs = encoder.join_windows(encoder.query("49"), texts, WINDOWS)
    (ids,) = encoder.ids([texts[0][:400]])
    first, second = model.estimate(Work(["49"], texts, WINDOWS), len(ids) / 400)
    behind = [sum(pair.tokens - pair.prefix for pair in each) for each in pairs]
    assert first == pytest.approx(behind[0] + pairs[0][0].prefix, rel=0.25)
    assert second == pytest.approx(behind[1], rel=0.25)


def test_only_a_part_of_a_very_long_document_counts_as_text_to_read() -> None:
    model = Model("model", LoadedModel(ENCODER, fake()))
    text = "word " * 200_000
    assert model.characters([], [text]) == ENCODER.first_characters
    most = model.characters([], [text], Cut(long="windows", max_windows=8))
    assert ENCODER.first_characters < most < len(text) / 100
    assert model.characters([], ["short"], WINDOWS) == 5


def test_the_number_of_windows_is_checked() -> None:
    with pytest.raises(InputError, match="max_windows is 0; it must be at least 1"):
        Work(["q"], ["d"], Cut(max_windows=0))


def test_pairs_without_windows_are_as_before() -> None:
    async def main() -> None:
        async with registry(fake()) as served:
            answer = await served.score(Work(["q"], ["short", "other"], WINDOWS))
            assert answer.logits.tolist() == expected([("q", "short"), ("q", "other")])
            assert answer.windows == [None, None]

    asyncio.run(main())
