"""What a request to a model with a prompt costs, where the engine shares prefixes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from crossrank.engines.fake import FakeEngine
from crossrank.errors import InputError
from crossrank.loading import LoadedModel
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.server.core.model import Model, ModelSpec
from crossrank.server.core.work import Work
from tests.prompted import PROMPT, prompted_encoder
from tests.server.serving import checksum, fake, registry, value

ENCODER = prompted_encoder()
TEXTS = [f"document number {i} of many" for i in range(20)]
OWN = "Find what contradicts the query"


def sharing() -> FakeEngine:
    engine = fake(batch_tokens=400)
    engine.shares_prefixes = True
    return engine


def loaded(engine: FakeEngine) -> LoadedModel:
    return LoadedModel(ENCODER, engine)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("queries", [["capital of China"], [f"query {i % 4}" for i in range(20)]])
def test_what_is_counted_is_what_is_computed(shares: bool, queries: list[str]) -> None:
    engine = sharing() if shares else fake(batch_tokens=400)
    asked = queries * (20 // len(queries))
    pairs = ENCODER.encode(asked, TEXTS)

    async def main() -> None:
        async with registry(ModelSpec("model", lambda: loaded(engine)), warm_up=False) as served:
            answer = await served.score(Work(queries, TEXTS))
            assert answer.logits.tolist() == [checksum(pair.token_ids) for pair in pairs]
            assert list(answer.tokens) == [pair.tokens for pair in pairs]
            assert value(served, "crossrank_queue_tokens") == 0
            once = sum({query: pair.prefix for query, pair in zip(asked, pairs, strict=True)}.values())
            tails = sum(pair.tokens - pair.prefix for pair in pairs)
            computed = once + tails if shares else sum(pair.tokens for pair in pairs)
            assert value(served, "crossrank_tokens_total", model="model") == computed

    asyncio.run(main())


@pytest.mark.parametrize("instruction", [None, OWN])
def test_estimates_are_of_what_is_computed(instruction: str | None) -> None:
    model = Model("model", loaded(sharing()))
    query = "capital of China"
    pairs = ENCODER.encode(query, TEXTS, instruction=instruction)
    model.read([query], TEXTS, pairs, instruction)
    first, *rest = model.estimate(Work([query], TEXTS, instruction=instruction))
    assert first == pytest.approx(pairs[0].tokens, rel=0.3)
    for estimate, pair in zip(rest, pairs[1:], strict=True):
        assert estimate == pytest.approx(pair.tokens - pair.prefix, rel=0.5)
    # Several queries have a prefix each.
    several = model.estimate(Work(["one", "two", "one"], TEXTS[:3]))
    assert several[2] < several[0] / 2
    assert several[1] > several[0] / 2


def test_logits_with_another_default_are_not_the_same() -> None:
    checkpoint, engine = Checkpoint(resolve(BUNDLED)), fake()
    identities = {
        Model(
            "model", LoadedModel(prompted_encoder(replace(PROMPT, instruction=told)), engine, checkpoint)
        ).identity
        for told in ("one", "two", "two")
    }
    assert len(identities) == 2


def test_an_instruction_is_a_string() -> None:
    with pytest.raises(InputError, match="instruction is a int; it must be a string"):
        Work(["q"], ["d"], instruction=3)  # type: ignore[arg-type]
