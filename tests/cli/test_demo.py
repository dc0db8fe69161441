import json

import pytest

from crossrank import Reranker
from crossrank.cli.demo import EXAMPLES, Comparison, compare
from tests.cli.conftest import Run

SEED = ("北京是中国的政治中心。", "上海是中国最大的城市。", "首都机场位于北京市区东部。")


@pytest.fixture(scope="module")
def comparisons() -> list[Comparison]:
    reranker = Reranker()
    return [compare(reranker, example) for example in EXAMPLES]


def test_the_bundled_model_puts_every_answer_first(comparisons: list[Comparison]) -> None:
    for comparison in comparisons:
        assert comparison.ranking[0].text == comparison.example.answer, comparison.example.query


def test_the_seed_example_is_there() -> None:
    example = next(e for e in EXAMPLES if e.query == "中国的首都是哪里？")
    assert {example.answer, *example.others} == set(SEED)


def test_keywords_get_most_examples_wrong_and_traps_are_seen(comparisons: list[Comparison]) -> None:
    wrong = [c for c in comparisons if c.documents[c.keyword_order[0]] != c.example.answer]
    assert len(wrong) > len(comparisons) / 2
    for comparison in comparisons:
        assert any(comparison.is_trap(i) for i in range(len(comparison.documents)))
        assert not comparison.is_trap(comparison.documents.index(comparison.example.answer))


def test_the_output_shows_both_orders_scores_bars_and_traps(crossrank: Run) -> None:
    done = crossrank("demo")
    assert done.code == 0
    assert done.err == ""
    for part in ("keywords (BM25)", "CrossRank", "中国的首都是哪里？", *SEED, "✓", "✗", "█"):
        assert part in done.out
    assert f"in {len(EXAMPLES)} by CrossRank" in done.out


def test_json(crossrank: Run) -> None:
    answer = json.loads(crossrank("demo", "--json").out)
    assert len(answer["examples"]) == len(EXAMPLES)
    for example in answer["examples"]:
        assert example["order"][0] == example["answer"]
        assert sorted(example["keyword_order"]) == list(range(len(example["documents"])))
        assert sorted(example["scores"], reverse=True) == example["scores"]
