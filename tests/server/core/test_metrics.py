from __future__ import annotations

import asyncio
import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from crossrank.errors import InputError
from crossrank.pairs import Cut
from tests.server.serving import asked, fake, pairs, registry, tokens, value


def test_every_name_that_is_promised_is_there() -> None:
    async def main() -> str:
        async with registry(fake(), score_cache_bytes=1000) as served:
            await served.score(asked(pairs(40)))
            with pytest.raises(InputError):
                await served.score(asked(pairs(1), cut=Cut(pair=1)))
            assert value(served, "te_request_count", method="batch") == 2
            assert value(served, "te_request_success", method="batch") == 1
            assert value(served, "te_request_failure", err="validation") == 1
            assert value(served, "te_request_input_length_sum") == sum(tokens(pairs(40)))
            assert value(served, "te_request_input_length_count") == 40
            assert value(served, "te_batch_next_size_sum") == 40
            assert value(served, "te_batch_next_tokens_sum") == sum(tokens(pairs(40)))
            assert value(served, "crossrank_tokens_total", model="model") == sum(tokens(pairs(40)))
            assert 0 < value(served, "crossrank_pack_fill_sum") <= value(served, "crossrank_pack_fill_count")
            assert value(served, "crossrank_requests_total", model="model", outcome="answered") == 1
            assert value(served, "crossrank_requests_total", model="model", outcome="failed") == 1
            assert value(served, "crossrank_queue_tokens_limit") == 1_000_000
            return generate_latest(served.metrics.registry).decode()

    text = asyncio.run(main())
    names = {family.name for family in text_string_to_metric_families(text)}
    tei = """te_request_count te_request_success te_request_failure te_request_duration
        te_request_tokenization_duration te_request_queue_duration te_request_inference_duration
        te_request_input_length te_batch_next_size te_batch_next_tokens te_queue_size"""
    own = """crossrank_queue_tokens crossrank_queue_requests crossrank_pack_fill crossrank_pack_duration
        crossrank_refused crossrank_cancelled crossrank_cancelled_pairs crossrank_deadline
        crossrank_engine_failures crossrank_engine_restarts crossrank_cache_hits crossrank_cache_misses
        crossrank_cache_bytes crossrank_ready crossrank_model_ready crossrank_tokens_per_second"""
    assert set(tei.split()) | set(own.split()) <= names
    # TEI's counters are without _total, and a dashboard asks for them by name.
    assert re.search(r'^te_request_count\{method="batch"\} 2\.0$', text, re.MULTILINE)


def test_counters_begin_at_nought_so_that_their_first_event_is_an_increase() -> None:
    async def main() -> str:
        async with registry(fake()) as served:
            return generate_latest(served.metrics.registry).decode()

    text = asyncio.run(main())
    for series in (
        'te_request_count{method="batch"}',
        'te_request_failure{err="overloaded"}',
        'crossrank_engine_failures_total{model="model"}',
        'crossrank_requests_total{model="model",outcome="deadline"}',
        'crossrank_refused_total{reason="queue"}',
        "crossrank_deadline_total",
    ):
        assert f"\n{series} 0.0\n" in text, series


def test_cut_pairs_are_counted() -> None:
    async def main() -> None:
        async with registry(fake()) as served:
            await served.score(asked([("q", "long " * 100), ("q", "short")]))
            assert value(served, "crossrank_truncated_pairs_total", model="model") == 1

    asyncio.run(main())


def test_servers_count_apart() -> None:
    async def main() -> None:
        async with registry(fake()) as one, registry(fake()) as two:
            await one.score(asked(pairs(1)))
            assert value(one, "te_request_count", method="batch") == 1
            assert value(two, "te_request_count", method="batch") == 0

    asyncio.run(main())
