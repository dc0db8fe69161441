from collections import Counter
from typing import Any

import pytest

from training import mixture
from training.mixture import Mixture, Pile


def group(name: str, i: int, wrong: int = 5) -> dict[str, Any]:
    texts = [f"{name} right {i}", *(f"{name} wrong {i}.{k}" for k in range(wrong))]
    return {
        "query": f"{name} query {i}",
        "texts": texts,
        "targets": [1.0] + [0.0] * wrong,
        "positive": True,
    }


@pytest.fixture
def piles() -> dict[str, Pile]:
    return {name: Pile([group(name, i) for i in range(40)], seed=1) for name in mixture.SHARES}


def test_a_step_has_each_piles_share_and_is_the_same_again(piles: dict[str, Pile]) -> None:
    drawn = Mixture(piles, 20, seed=1).step(3)
    assert Counter(one.query.split()[0] for one in drawn) == {"reading": 2, "public": 7, "written": 11}
    assert Mixture(piles, 20, seed=1).step(3) == drawn
    assert Mixture(piles, 20, seed=1).step(4) != drawn


def test_an_epoch_has_every_group_once() -> None:
    pile = Pile([group("a", i) for i in range(7)], seed=1)
    first = [pile.at(i)["query"] for i in range(7)]
    assert sorted(first) == [f"a query {i}" for i in range(7)]
    assert [pile.at(i)["query"] for i in range(7, 14)] != first


def test_right_texts_of_other_groups_are_wrong_here(piles: dict[str, Pile]) -> None:
    """A right text is more often a wrong one, so that a text alone does not tell."""
    as_right: Counter[str] = Counter()
    as_wrong: Counter[str] = Counter()
    for number in range(60):
        for one in Mixture(piles, 20, seed=1).step(number):
            assert len(one.texts) == len(set(one.texts)) == len(one.targets) == len(one.sure)
            assert sum(one.targets) == pytest.approx(1.0)
            for text, target, right in zip(one.texts, one.targets, one.right, strict=True):
                assert right == (target > 0)
                (as_right if right else as_wrong)[text] += 1
    assert sum(as_wrong[text] for text in as_right) > 1.5 * sum(as_right.values())
    assert sum(as_wrong[text] > 0 for text in as_right) > 0.95 * len(as_right)
    assert any(text in as_wrong for text in mixture.JUNK_TEXTS)


def test_rivals_stand_beside_random_strangers(piles: dict[str, Pile]) -> None:
    rivals = {f"written query {i}": [f"rival {i}.{k}" for k in range(6)] for i in range(40)}
    for one in Mixture(piles, 20, seed=1, rivals=rivals).step(0):
        own = [text for text in one.texts if text.startswith("rival")]
        assert len(own) == (mixture.RIVALS if one.query.startswith("written") else 0)
        assert all(text.startswith(f"rival {one.query.split()[-1]}.") for text in own)
        wrong = [text for text, right in zip(one.texts, one.right, strict=True) if not right]
        assert len(wrong) > len(own) + mixture.OWN - 1  # its own wrong texts and other strangers, too


def test_a_doubtful_text_is_neither_right_nor_wrong() -> None:
    near = group("a", 0) | {"sure": [True, False, True, True, True, True]}
    drawn = Mixture({name: Pile([near, group("a", 1)], 1) for name in mixture.SHARES}, 20, 1).step(0)
    seen = [one for one in drawn if "a wrong 0.0" in one.texts and one.query == "a query 0"]
    assert seen
    for one in seen:
        place = one.texts.index("a wrong 0.0")
        assert not one.sure[place]
        assert not one.right[place]


def test_both_right_texts_share_the_target() -> None:
    two = group("a", 0) | {"rights": 2, "targets": [0.5, 0.5, 0, 0, 0, 0]}
    drawn = Mixture({name: Pile([two, group("b", 1)], 1) for name in mixture.SHARES}, 20, 1).step(0)
    seen = [one for one in drawn if one.query == "a query 0"]
    assert seen
    for one in seen:
        assert one.right[:2] == [True, True]
        assert one.targets[:2] == [0.5, 0.5]
