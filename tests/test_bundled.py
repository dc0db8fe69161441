"""The model inside the package: its size, its card, and its order on texts it was not trained on."""

from pathlib import Path

import jsonl
import pytest

from crossrank import Reranker
from crossrank.cli.demo import EXAMPLES
from crossrank.models import BUNDLED, resolve

ROOT = Path(__file__).resolve().parents[1]
TRAPS = jsonl.read(ROOT / "training" / "held_out_traps.jsonl")


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(BUNDLED)


def test_it_is_at_most_60_mb_with_everything() -> None:
    assert sum(path.stat().st_size for path in resolve(BUNDLED).iterdir()) <= 60_000_000


@pytest.mark.parametrize("card", ["README.md", "README.zh-CN.md"])
def test_the_model_card_names_source_data_licences_and_limits(card: str) -> None:
    text = (resolve(BUNDLED) / card).read_text()
    for part in ("multilingual-e5-small", "MIT", "XQuAD", "CMRC", "DRCD", "JSQuAD", "MedQuAD"):
        assert part in text
    for part in ("CC BY-SA 4.0", "CC BY-SA 3.0", "Apache-2.0", "BAAI/bge-reranker-v2-m3"):
        assert part in text


def test_an_answer_beats_keyword_traps(reranker: Reranker) -> None:
    right = total = 0
    for trap in TRAPS:
        for answer in trap["answers"]:
            ranking = reranker.rank(trap["query"], [*trap["traps"], *trap["weak"], answer])
            right += ranking[0].text == answer
            total += 1
    assert total == 80
    assert right / total >= 0.9


def test_none_of_the_demos_or_the_held_out_texts_was_trained_on() -> None:
    trained = "".join(path.read_text() for path in sorted((ROOT / "training" / "traps").glob("*.jsonl")))
    trained += (ROOT / "training" / "capitals.tsv").read_text()
    texts = [text for e in EXAMPLES for text in (e.query, e.answer, *e.others)]
    texts += [text for trap in TRAPS for text in (trap["query"], *trap["answers"])]
    for text in texts:
        assert text.rstrip("。？?.") not in trained
    assert "北京" not in (ROOT / "training" / "capitals.tsv").read_text()


def test_scores_use_the_range(reranker: Reranker) -> None:
    """Calibrated: answers lie above 0.5 and traps below, on the whole."""
    answers = reranker.score([(t["query"], a) for t in TRAPS for a in t["answers"]])
    traps = reranker.score([(t["query"], a) for t in TRAPS for a in t["traps"]])
    assert (answers > 0.5).mean() > 0.7
    assert (traps < 0.5).mean() > 0.7
