"""An instruction in the library: what reaches the model, where it is refused, and what a request costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crossrank import InputError, Reranker
from crossrank.engines.fake import FakeEngine
from crossrank.inputs import Asked
from crossrank.loading import load_model
from crossrank.packing import build_pack, plan_sharing
from crossrank.pairs import PairEncoder
from tests.prompted import INSTRUCTION, prompted_encoder

DOCUMENTS = ["Beijing", "Paris is the capital of France, a city of many people"]
OWN = "Find what contradicts the query"


def checksum(ids: npt.NDArray[np.int32]) -> float:
    """A logit that tells sequences apart."""
    return float((ids.astype(np.int64) * np.arange(1, len(ids) + 1)).sum() % 9973)


@pytest.fixture(scope="module")
def encoder() -> PairEncoder:
    return prompted_encoder()


def prompted(encoder: PairEncoder, engine: FakeEngine | None = None, **options: Any) -> Reranker:
    return Reranker.from_parts(encoder, engine or FakeEngine(checksum), **options)


def expected(encoder: PairEncoder, query: str, documents: list[str], instruction: str | None) -> list[float]:
    pairs = encoder.encode(query, documents, instruction=instruction)
    return [checksum(pair.token_ids) for pair in pairs]


Scoring = Callable[..., list[float]]
WAYS: list[Scoring] = [
    lambda r, told: [hit.logit for hit in sorted(r.rank("q", DOCUMENTS, **told), key=lambda hit: hit.index)],
    lambda r, told: [
        hit.logit for x in r.rank_many([("q", DOCUMENTS)], **told) for hit in sorted(x, key=lambda y: y.index)
    ],
    lambda r, told: r.logits([("q", document) for document in DOCUMENTS], **told).tolist(),
    lambda r, told: [x.logit for x in r.score_pairs([("q", document) for document in DOCUMENTS], **told)],
    lambda r, told: [r.explain("q", document, **told).logit for document in DOCUMENTS],
]


@pytest.mark.parametrize("way", WAYS, ids=["rank", "rank_many", "logits", "score_pairs", "explain"])
def test_every_way_takes_it(way: Scoring, encoder: PairEncoder) -> None:
    reranker = prompted(encoder)
    default = way(reranker, {})
    assert default == expected(encoder, "q", DOCUMENTS, INSTRUCTION)
    assert way(reranker, {"instruction": None}) == default
    told = way(reranker, {"instruction": OWN})
    assert told == expected(encoder, "q", DOCUMENTS, OWN)
    assert told != default
    with pytest.raises(InputError, match="instruction is a int; it must be a string"):
        way(reranker, {"instruction": 3})


@pytest.mark.parametrize("way", WAYS, ids=["rank", "rank_many", "logits", "score_pairs", "explain"])
def test_a_model_without_one_refuses_it(way: Scoring) -> None:
    reranker = Reranker(device="cpu")
    with pytest.raises(InputError, match="takes no instruction"):
        way(reranker, {"instruction": OWN})


def test_score_is_the_sigmoid_of_the_logit(encoder: PairEncoder) -> None:
    reranker = prompted(encoder, FakeEngine(lambda ids: len(ids) / 100))
    pairs = [("q", document) for document in DOCUMENTS]
    logits = reranker.logits(pairs, instruction=OWN)
    assert reranker.score(pairs, instruction=OWN) == pytest.approx(1 / (1 + np.exp(-logits)))


def test_each_of_many_queries_may_have_its_own(encoder: PairEncoder) -> None:
    requests: list[Asked] = [
        ("q", DOCUMENTS),
        ("q", DOCUMENTS, OWN),
        ("q", DOCUMENTS, None),
        ("r", DOCUMENTS, ""),
    ]
    for default in (None, "Find the opposite"):
        found = [
            [hit.logit for hit in sorted(ranking, key=lambda hit: hit.index)]
            for ranking in prompted(encoder).rank_many(requests, instruction=default)
        ]
        asked = [("q", default), ("q", OWN), ("q", default), ("r", "")]
        assert found == [expected(encoder, query, DOCUMENTS, told) for query, told in asked]


def test_the_request_with_an_instruction_is_named_where_the_model_takes_none() -> None:
    rankings = Reranker(device="cpu").rank_many([("q", ["a"]), ("q", ["a"], OWN)])
    with pytest.raises(InputError, match="request 1: the model takes no instruction; leave it out"):
        list(rankings)


def test_a_default_for_a_model_without_one_is_refused_when_it_is_loaded() -> None:
    message = f"instruction is '{OWN}', but crossrank-mini takes none; leave it out"
    for load in (load_model, Reranker):
        with pytest.raises(InputError, match=message):
            load("crossrank-mini", instruction=OWN)


@pytest.mark.parametrize("shares", [False, True])
def test_packs_keep_the_budget_by_what_is_computed(encoder: PairEncoder, shares: bool) -> None:
    engine = FakeEngine(checksum, batch_tokens=200)
    engine.shares_prefixes = shares
    reranker = prompted(encoder, engine)
    documents = [f"{i} " + "a word " * (i % 7) for i in range(40)]
    found = reranker.rank("capital of China", documents)
    logits = [hit.logit for hit in sorted(found, key=lambda hit: hit.index)]
    assert logits == expected(encoder, "capital of China", documents, None)
    costs = []
    for pack in engine.packs:
        assert pack.prefix_ids is not None
        assert pack.prefix_offsets is not None
        assert len(pack.prefix_offsets) == 2  # one prefix for all
        costs.append(len(pack.token_ids) + len(pack.prefix_ids))
        if not shares:
            costs[-1] = len(pack.whole().token_ids)
    assert max(costs) <= 200
    prefix, whole = engine.packs[0].prefix_ids, sum(len(pack.whole().token_ids) for pack in engine.packs)
    assert prefix is not None
    # What is saved is nearly all of the prefixes.
    fewest = -(-whole // 200)
    assert len(engine.packs) < fewest / 2 if shares else len(engine.packs) >= fewest


def test_pairs_of_a_query_stay_together_where_the_engine_shares(encoder: PairEncoder) -> None:
    texts = ["a", "a longer document", "b", "c c c", "d", "e e"]
    pairs = [pair for query in ("one", "two", "three") for pair in encoder.encode(query, texts)]
    prefix = pairs[0].prefix
    # Room for one query's pairs and two of the next: longest first would mix all three in each pack.
    budget = sum(pair.tokens - pair.prefix for pair in pairs[:8]) + 2 * prefix + 1
    packs = plan_sharing(pairs, budget)
    assert sorted(index for pack in packs for index in pack) == list(range(len(pairs)))
    for pack in packs:
        built = build_pack([pairs[index] for index in pack])
        assert built.prefix_ids is not None
        assert len(built.token_ids) + len(built.prefix_ids) <= budget
        tails = built.lengths.tolist()
        assert tails == sorted(tails, reverse=True)
    assert [sorted({index // len(texts) for index in pack}) for pack in packs] == [[0, 1], [1, 2], [2]]


def test_a_pair_beyond_the_budget_has_a_pack_of_its_own(encoder: PairEncoder) -> None:
    pairs = encoder.encode("q", ["a", "long " * 30, "b"])
    assert plan_sharing(pairs, 1) == [[0], [1], [2]]
    assert plan_sharing([], 1) == []
