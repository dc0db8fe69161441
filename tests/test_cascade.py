"""Two models, one after the other."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrank import EngineError, InputError, NonFiniteLogitError, Reranker
from crossrank.cascade import choose, joined
from crossrank.engines.fake import FakeEngine
from crossrank.pairs import PairEncoder
from crossrank.ranking import Scored
from tests.checkpoints import write_xlm_roberta
from tests.prompted import prompted_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


def longest(ids: npt.NDArray[np.int32]) -> float:
    return float(len(ids))


def shortest(ids: npt.NDArray[np.int32]) -> float:
    return -float(len(ids))


Logit = Callable[[npt.NDArray[np.int32]], float]


def two(
    folder: Path, keep: float = 2, *, first: Logit = shortest, second: Logit = longest
) -> tuple[Reranker, FakeEngine, FakeEngine]:
    """A cascade: the first model prefers short texts, the second one long texts."""
    encoder = PairEncoder(folder / "tokenizer.json")
    engines = FakeEngine(first, batch_tokens=200), FakeEngine(second, batch_tokens=200)
    small = Reranker.from_parts(encoder, engines[0])
    return Reranker.from_parts(encoder, engines[1], first=small, keep=keep), *engines


def pairs_in(engine: FakeEngine) -> int:
    return sum(len(pack) for pack in engine.packs)


def words(*counts: int) -> list[str]:
    return ["a " * count for count in counts]


def test_the_second_model_orders_what_the_first_one_keeps(folder: Path) -> None:
    reranker, first, second = two(folder)
    documents = words(5, 1, 4, 2, 3)
    ranking = reranker.rank("q", documents)
    # The first one keeps the two shortest, which the second one turns round; the others stay as they were.
    assert ranking.indices == [3, 1, 4, 2, 0]
    assert [hit.model for hit in ranking] == ["fake"] * 5
    assert [hit.logit > 0 for hit in ranking] == [True, True, False, False, False]
    assert (pairs_in(first), pairs_in(second)) == (5, 2)
    assert list(reranker.rank_many([("q", documents)])) == [ranking]


def test_a_hit_says_which_model_scored_it(folder: Path) -> None:
    large = Reranker(folder, first="crossrank-mini", keep=1)
    documents = ["Paris is the capital of France.", "Lyon is a city.", "---"]
    ranking = large.rank("What is the capital of France?", documents)
    assert [(hit.index, hit.model) for hit in ranking[:2]] == [(0, "tiny"), (1, "crossrank-mini")]
    assert ranking.to_dict()["results"][0]["model"] == "tiny"
    alone = Reranker(folder).rank("What is the capital of France?", documents[:1])
    assert alone[0].logit == pytest.approx(ranking[0].logit, abs=1e-4)
    assert alone[0].model is None
    assert repr(large).endswith("512 tokens, 1 of crossrank-mini>")


@pytest.mark.parametrize(("keep", "read"), [(1, 1), (3, 3), (99, 5), (0.2, 1), (0.21, 2), (0.99, 5)])
def test_keep_is_a_number_or_a_share_of_the_texts(folder: Path, keep: float, read: int) -> None:
    reranker, _, second = two(folder, keep)
    ranking = reranker.rank("q", [*words(1, 2, 3, 4, 5, 5, 1), "", "---"])
    assert len(ranking) == 9
    # Equal texts count once, and blank ones not at all: they come last in any case.
    assert pairs_in(second) == read
    assert [hit.index for hit in ranking[-2:]] == [7, 8]


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.0, 1.5, float("nan"), True, "auto", None])
def test_what_keep_may_not_be(folder: Path, keep: Any) -> None:
    message = f"keep is {keep!r}; it must be an integer of 1 or more, or a share above 0 and below 1"
    with pytest.raises(InputError, match=re.escape(message)):
        two(folder, keep)
    with pytest.raises(InputError, match="--tune"):
        Reranker(folder, first="crossrank-mini", keep=keep)


def test_what_first_may_not_be(folder: Path) -> None:
    cascade, _, _ = two(folder)
    with pytest.raises(InputError, match="two models can follow each other, not three"):
        Reranker(folder, first=cascade)
    with pytest.raises(InputError, match="model is 5; it must be a name or a folder"):
        Reranker(folder, first=5)  # type: ignore[arg-type]


def test_equal_texts_stay_together(folder: Path) -> None:
    # All have the same logit, so the first model alone would keep the first of the equal texts only.
    reranker, first, second = two(folder, 1, first=lambda ids: 0.0)
    ranking = reranker.rank("q", ["a", "b", "a"])
    assert ranking.indices == [0, 2, 1]
    assert (pairs_in(first), pairs_in(second)) == (2, 1)


def test_with_a_threshold_only_what_the_second_model_scored_is_left(folder: Path) -> None:
    reranker, _, _ = two(folder, first=lambda ids: 5.0)
    documents = words(5, 1, 4)
    assert reranker.rank("q", documents, threshold=0.0).indices == [0, 1]
    assert reranker.rank("q", documents, threshold=0.5, top_n=1).indices == [0]
    assert reranker.rank("q", documents, top_n=2).indices == [0, 1]


def test_scores_of_pairs_are_the_second_models(folder: Path) -> None:
    reranker, first, _ = two(folder)
    pairs = [("q", text) for text in words(5, 1, 4)]
    assert (reranker.logits(pairs) > 0).all()
    assert [pair.logit for pair in reranker.score_pairs(pairs)] == reranker.logits(pairs).tolist()
    assert reranker.explain("q", "a. b. c.").logit > 0
    assert not first.packs


def test_nothing_to_rank(folder: Path) -> None:
    reranker, _, second = two(folder)
    assert len(reranker.rank("q", [])) == 0
    assert [hit.blank for hit in reranker.rank("q", ["", "---"])] == [True, True]
    assert list(reranker.rank_many([])) == []
    assert not pairs_in(second)


def test_many_requests_share_packs_of_both_models(folder: Path) -> None:
    reranker, first, second = two(folder, 3)
    requests = [(f"q{n}", words(*range(1, n % 9 + 1))) for n in range(200)]
    rankings = list(reranker.rank_many(requests, top_n=4))
    assert len(first.packs) < 150
    assert len(second.packs) < 100
    alone, _, _ = two(folder, 3)
    assert rankings == [alone.rank(query, documents, top_n=4) for query, documents in requests]


def test_a_nan_of_either_model_names_the_pair_of_the_callers_list(folder: Path) -> None:
    encoder = PairEncoder(folder / "tokenizer.json")
    wrong = len(encoder.encode("q", words(4))[0].token_ids)
    documents = words(7, 6, 4, 5, 6)

    def bad(ids: npt.NDArray[np.int32]) -> float:
        return float("nan") if len(ids) == wrong else 1.0

    for reranker, *_ in (two(folder, first=bad), two(folder, second=bad)):
        with pytest.raises(NonFiniteLogitError, match="pair 2 "):
            reranker.rank("q", documents)
        drawn = reranker.rank_many([("q", ["b"]), ("q", documents)])
        assert next(drawn).indices == [0]
        with pytest.raises(NonFiniteLogitError, match="pair 2 "):
            next(drawn)


def test_an_instruction_is_for_those_that_take_one(folder: Path) -> None:
    read: list[int] = []  # tokens of pairs, which the instruction is a part of
    told = Reranker.from_parts(prompted_encoder(), FakeEngine(lambda ids: read.append(len(ids)) or 0.0))  # type: ignore[func-returns-value]
    plain = Reranker.from_parts(PairEncoder(folder / "tokenizer.json"), FakeEngine())
    large = Reranker.from_parts(told.encoder, told.engine, first=plain, keep=1)
    ranking = large.rank("q", ["one", "two three"], instruction="Find code " * 9)
    assert ranking.indices == [0, 1]
    assert list(large.rank_many([("q", ["one", "two three"], "Find code " * 9)])) == [ranking]
    large.rank("q", ["one"])
    assert read[0] == read[1] > read[2]
    small = Reranker.from_parts(plain.encoder, plain.engine, first=told)
    with pytest.raises(InputError, match="the model takes no instruction: leave it out"):
        small.rank("q", ["one"], instruction="Find code")
    with pytest.raises(InputError, match="request 0: the model takes no instruction"):
        list(small.rank_many([("q", ["one"], "Find code")]))


def test_a_pickle_has_both_models_and_closing_ends_both(folder: Path) -> None:
    reranker = Reranker(folder, first=Reranker("crossrank-mini", threads=1), keep=0.5)
    again = pickle.loads(pickle.dumps(reranker))
    documents = ["one", "two", "three", "four"]
    assert again.rank("q", documents) == reranker.rank("q", documents)
    reranker.close()
    with pytest.raises(EngineError, match="closed"):
        reranker.rank("q", documents)
    with pytest.raises(EngineError, match="closed"):
        next(reranker.rank_many([("q", documents)]))


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", ""]), st.integers(-3, 3)), max_size=12),
    st.one_of(st.integers(1, 9), st.floats(0.01, 0.99)),
)
def test_choosing_and_joining_lose_nothing(rows: list[tuple[str, int]], keep: float) -> None:
    texts = [text for text, _ in rows]
    first = Scored([logit for _, logit in rows])
    chosen = choose(first, texts, keep)
    left = {texts[i] for i in range(len(texts)) if i not in chosen}
    assert chosen == sorted(chosen)
    assert not left & {texts[i] for i in chosen}
    distinct = {text for text in texts if text}
    count = min(len(distinct), keep if keep >= 1 else int(np.ceil(keep * len(distinct))))
    assert len({texts[i] for i in chosen}) == count
    scored = joined(first, chosen, Scored([9.0] * len(chosen)), ("small", "large"))
    order = scored.order([not text for text in texts])
    assert sorted(order) == list(range(len(texts)))
    assert order[: len(chosen)] == chosen
