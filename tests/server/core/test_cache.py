from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrank.errors import TooLongError
from crossrank.pairs import Cut
from crossrank.server.core.cache import ENTRY_BYTES, CachedPair, ScoreCache, pair_keys
from tests.server.serving import ENCODER, asked, expected, fake, pairs, registry, serve, tokens, value


@settings(deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 8192), st.booleans())
def test_what_comes_back_is_exact(logit: float, count: int, truncated: bool) -> None:
    cache = ScoreCache(1000)
    cache.keep(b"key", logit, count, truncated)
    assert cache.find([b"key"]) == [CachedPair(logit, count, truncated)]
    cache.keep(b"key", logit, count, truncated, not truncated)
    assert cache.find([b"key"]) == [CachedPair(logit, count, truncated, not truncated)]


def test_the_least_lately_used_make_room() -> None:
    cache = ScoreCache(3 * ENTRY_BYTES + 5)
    for key in b"abc":
        cache.keep(bytes([key]), key, 1, False)
    assert cache.size == 3 * ENTRY_BYTES
    cache.find([b"a"])
    cache.keep(b"d", 1.0, 1, False)
    assert [found is not None for found in cache.find([b"a", b"b", b"c", b"d"])] == [True, False, True, True]
    assert (cache.hits, cache.misses, cache.evicted, len(cache)) == (4, 1, 1, 3)


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = ScoreCache(ENTRY_BYTES - 1)
    cache.keep(b"a", 1.0, 1, False)
    assert cache.size == 0
    assert cache.find([b"a"]) == [None]


def test_keys_differ_where_anything_differs() -> None:
    texts = ["", "a", "b", "ab", "a\x00", "\x00a", "\ud800", "�", "长", "q" * 10_000]
    queries, documents = [query for query in texts for _ in texts], texts * len(texts)
    keys = [key for settings in ("", "a", "ab") for key in pair_keys(settings, queries, documents)]
    assert len(set(keys)) == len(keys)
    one_by_one = [key for query in texts for key in pair_keys("a", [query], texts)]
    assert pair_keys("a", queries, documents) == one_by_one
    assert all(len(key) == 16 for key in keys)


def test_an_entry_takes_the_memory_that_it_is_charged_for() -> None:
    import tracemalloc

    rng = random.Random(0)
    cache = ScoreCache(1 << 40)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100_000):
        cache.keep(rng.randbytes(16), 1.0, 100, False)
    used = (tracemalloc.get_traced_memory()[0] - before) / len(cache)
    tracemalloc.stop()
    assert 0.6 * ENTRY_BYTES < used < 1.3 * ENTRY_BYTES


def test_a_request_that_was_seen_before_does_not_reach_the_engine() -> None:
    async def main() -> None:
        engine = fake()
        async with registry(engine, score_cache_bytes=1 << 20) as served:
            first = await served.score(asked(pairs(50)))
            assert first.cached == 0
            engine.packs.clear()
            mixed = [*pairs(60)[::-1], ("q", "long " * 200)]
            second = await served.score(asked(mixed))
            assert second.cached == 50
            assert second.logits.tolist() == expected(mixed)
            assert second.tokens == tokens(mixed)
            assert second.truncated == [False] * 60 + [True]
            assert sum(len(pack) for pack in engine.packs) == 11
            third = await served.score(asked(mixed))
            assert third.cached == 61
            assert np.array_equal(third.logits, second.logits)
            assert (third.tokens, third.truncated) == (second.tokens, second.truncated)
            assert value(served, "crossrank_cache_hits_total") == 111
            assert value(served, "crossrank_cache_misses_total") == 61
            assert value(served, "crossrank_cache_bytes") == 61 * ENTRY_BYTES
            of_query = [("long " * 200, "document"), ("short", "document")]
            for cached in (0, 2):
                answer = await served.score(asked(of_query))
                assert (answer.cached, answer.query_truncated) == (cached, [True, False])
                assert answer.truncated == [False, False]
            assert value(served, "crossrank_queue_tokens") == 0
            # Other settings are other scores, and what may not be cut is still too long.
            assert (await served.score(asked(mixed, cut=Cut(document=1)))).cached == 0
            assert (await served.score(asked(mixed, cut=Cut(side="left")))).cached == 0
            with pytest.raises(TooLongError, match="pair 60 "):
                await served.score(asked(mixed, cut=Cut(allowed=False)))
            await served.reload()  # parts of one's own: nobody knows whether they are the same
            assert (await served.score(asked(mixed))).cached == 0

    asyncio.run(main())


def test_models_do_not_share_scores() -> None:
    async def main() -> None:
        one, two = fake(lambda ids: 1.0), fake(lambda ids: 2.0)
        options: dict[str, Any] = {"score_cache_bytes": 1 << 20}
        async with registry(serve(one, "one"), serve(two, "two"), **options) as served:
            assert (await served.score(asked(pairs(1)))).logits.tolist() == [1.0]
            other = await served.score(asked(pairs(1), model="two"))
            assert (other.logits.tolist(), other.cached) == ([2.0], 0)

    asyncio.run(main())


def test_without_a_cache_nothing_is_kept_or_shown() -> None:
    async def main() -> None:
        async with registry(fake()) as served:
            await served.score(asked(pairs(3)))
            assert (await served.score(asked(pairs(3)))).cached == 0
            assert served.metrics.registry.get_sample_value("crossrank_cache_bytes") is None
            assert ENCODER.max_length == 64

    asyncio.run(main())
