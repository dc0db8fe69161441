from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import Explanation, InputError, NonFiniteLogitError, Reranker
from crossrank.engines.fake import FakeEngine
from crossrank.explain import plan_explanation
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import PairEncoder
from crossrank.ranking import sigmoid

QUERY = "query"
DOCUMENT = "One alpha here.  Two beta there!\n\nThree alpha alpha? 第四句。Five."
TEXTS = ["One alpha here.", "Two beta there!", "Three alpha alpha?", "第四句。", "Five."]


def reranker(**options: Any) -> tuple[Reranker, FakeEngine]:
    """One whose logit is the number of alphas."""
    encoder = PairEncoder(resolve(BUNDLED) / "tokenizer.json", **options)
    (alpha,) = encoder.encode(QUERY, ["alpha"])[0].token_ids[-2:-1]
    engine = FakeEngine(lambda ids: float((ids == alpha).sum()))
    return Reranker.from_parts(encoder, engine), engine


def explain(document: Any = DOCUMENT, *, max_sentences: int = 100, **options: Any) -> Explanation:
    return reranker(**options)[0].explain(QUERY, document, max_sentences=max_sentences)


def test_each_sentence_alone_and_taken_out() -> None:
    found = explain()
    assert (found.query, found.document, found.logit, found.truncated) == (QUERY, DOCUMENT, 3.0, False)
    assert [sentence.text for sentence in found.sentences] == TEXTS
    assert [DOCUMENT[sentence.start : sentence.end] for sentence in found.sentences] == TEXTS
    assert [sentence.logit for sentence in found.sentences] == [1, 0, 2, 0, 0]
    assert [sentence.logit_fall for sentence in found.sentences] == [1, 0, 2, 0, 0]
    whole, two, one, none = (float(x) for x in sigmoid(np.asarray([3, 2, 1, 0], np.float32)))
    assert found.score == whole
    assert [sentence.score for sentence in found.sentences] == [one, none, two, none, none]
    falls = [sentence.score_fall for sentence in found.sentences]
    assert falls == pytest.approx([whole - two, 0, whole - one, 0, 0])
    assert [sentence.read for sentence in found.sentences] == [len(text) for text in TEXTS]
    assert (found.read, found.sentences_left_out) == (len(DOCUMENT), 0)


def test_a_mapping_is_a_document_too() -> None:
    assert explain({"text": DOCUMENT, "id": 7}) == explain()


def test_the_score_is_that_of_rank() -> None:
    real = Reranker(BUNDLED, threads=1)
    document = "中国位于亚洲东部。北京是中国的政治中心。上海是中国最大的城市。"
    found = real.explain("中国的首都是哪里？", document)
    hit = real.rank("中国的首都是哪里？", [document])[0]
    assert [found.logit, found.score] == pytest.approx([hit.logit, hit.score], abs=1e-3)
    without = ["北京是中国的政治中心。上海是中国最大的城市。", "中国位于亚洲东部。上海是中国最大的城市。"]
    rest = real.logits([("中国的首都是哪里？", text) for text in without])
    falls = [sentence.logit_fall for sentence in found.sentences[:2]]
    assert falls == pytest.approx([found.logit - float(logit) for logit in rest], abs=1e-3)
    alone = real.logits([("中国的首都是哪里？", sentence.text) for sentence in found.sentences])
    assert [sentence.logit for sentence in found.sentences] == pytest.approx(alone.tolist(), abs=1e-3)


def test_beyond_the_window_nothing_moves_in_and_nothing_counts() -> None:
    text = "Gamma. " * 10 + "Alpha alpha here alpha. " + "Delta. " * 5 + "alpha alpha. " * 2
    base, engine = reranker(max_length=40)
    found = base.explain(QUERY, text)
    assert found.truncated
    assert 0 < found.read < len(text)
    read = [sentence.read for sentence in found.sentences]
    assert read == sorted(read, key=lambda count: count == 0)  # those that were read come first
    assert 0 in read
    for sentence in found.sentences:
        assert sentence.read == max(0, min(sentence.end, found.read) - sentence.start)
        assert (sentence.logit_fall is None) == (sentence.score_fall is None) == (sentence.read == 0)
    # What is beyond says something alone, but the document has none of it, whatever is taken out.
    assert found.logit < sum(sentence.logit for sentence in found.sentences)
    inside = [sentence for sentence in found.sentences if sentence.read == len(sentence.text)]
    assert [sentence.logit_fall for sentence in inside] == [sentence.logit for sentence in inside]
    assert (
        max(len(pair) for pack in engine.packs for pair in np.split(pack.token_ids, pack.offsets[1:-1])) <= 40
    )


def test_a_sentence_that_alone_is_too_long_says_so() -> None:
    found = explain("Short. " + "Word " * 60 + "alpha.", max_length=32)
    assert [sentence.truncated for sentence in found.sentences] == [False, True]
    assert [sentence.read == len(sentence.text) for sentence in found.sentences] == [True, False]


def test_a_long_document_is_explained_up_to_a_sentence() -> None:
    found = explain(max_sentences=2)
    assert [sentence.text for sentence in found.sentences] == TEXTS[:2]
    assert found.sentences_left_out == 3
    assert found.logit == 3.0


@pytest.mark.parametrize("document", ["", " \n "])
def test_a_document_without_sentences(document: str) -> None:
    found = explain(document)
    assert (found.sentences, found.logit, found.read) == ((), 0.0, len(document))


def test_one_sentence_is_not_compared_with_the_empty_document() -> None:
    (sentence,) = explain("alpha").sentences
    assert (sentence.logit, sentence.read) == (1.0, 5)
    assert sentence.score_fall is sentence.logit_fall is None
    # Where there are others that are left out, it is compared with them.
    (sentence,) = explain("Alpha alpha. Beta.", max_sentences=1).sentences
    assert sentence.logit_fall == 1.0


def test_the_texts_of_a_plan_are_made_when_they_are_asked_for() -> None:
    encoder = PairEncoder(resolve(BUNDLED) / "tokenizer.json", max_length=40)
    text = "Gamma. " * 10 + "Alpha alpha here alpha. " + "Delta. " * 5 + "alpha alpha. " * 2
    plan = plan_explanation(encoder, QUERY, text)
    assert (plan.texts[0], plan.texts[1]) == (text, "Gamma.")
    read = text[: plan.read]
    without = [span for span in plan.spans if span.start < plan.read]
    assert 0 < len(without) < len(plan.spans)
    assert len(plan.texts) == len(list(plan.texts)) == 1 + len(plan.spans) + len(without)
    assert plan.texts[-1] == read[: without[-1].start].rstrip()
    assert plan.texts[1:4] == ["Gamma."] * 3
    assert plan.texts[:: len(plan.texts) - 1] == [plan.texts[0], plan.texts[-1]]
    with pytest.raises(IndexError):
        plan.texts[len(plan.texts)]


def test_a_plan_holds_its_document_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossrank.explain.MAX_CHARACTERS", 1 << 20)
    # White space has no tokens, so the model "reads" all of it, once for each sentence.
    text = ("Cat sat." + " " * 400 + "\n") * 60
    encoder = PairEncoder(resolve(BUNDLED) / "tokenizer.json")
    encoder.kept(QUERY, text)  # what the first call leaves behind
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"an explanation of 60 sentences takes \d{7} characters"):
            plan_explanation(encoder, QUERY, text)
        plan = plan_explanation(encoder, QUERY, text, max_sentences=30)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    finally:
        tracemalloc.stop()
    assert sum(len(text) for text in plan.texts) <= 1 << 20


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_sentences is 0"):
        explain(max_sentences=0)
    with pytest.raises(InputError, match="document 0 is a int"):
        explain(7)
    encoder = PairEncoder(resolve(BUNDLED) / "tokenizer.json")
    broken = Reranker.from_parts(encoder, FakeEngine(lambda ids: float("nan")))
    with pytest.raises(NonFiniteLogitError):
        broken.explain(QUERY, DOCUMENT)


LONG = " ".join(
    [*(f"Sentence {i} has nothing." for i in range(40)), "Here alpha. And alpha alpha!", "The end."]
)


def test_of_a_document_in_windows_the_best_one_is_explained() -> None:
    found = explain(LONG, max_length=64, long="windows", max_windows=100)
    assert found.window is not None
    start, end = found.window
    assert (found.logit, found.truncated, found.read) == (3.0, False, end - start)
    assert LONG[start:end].endswith("And alpha alpha!")
    assert found.sentences[0].start == start > 500
    assert [s.logit_fall for s in found.sentences if s.logit] == [1.0, 2.0]
    assert [s.read for s in found.sentences] == [*(len(s.text) for s in found.sentences[:-1]), 0]
    assert found.sentences_left_out + len(found.sentences) == 43
    given = reranker(max_length=64)[0].explain(QUERY, LONG, window=found.window)
    assert given == found
    # What lies behind the window is scored alone.
    first = reranker(max_length=64)[0].explain(QUERY, LONG, window=(0, 60))
    assert (first.logit, first.read, len(first.sentences)) == (0.0, 60, 43)
    assert [s.logit_fall for s in first.sentences[-3:]] == [None] * 3
    assert [s.logit for s in first.sentences[-3:]] == [1.0, 2.0, 0.0]


def test_a_document_that_fits_is_explained_without_a_window() -> None:
    assert explain(DOCUMENT, long="windows") == explain(DOCUMENT)


def test_the_only_sentence_of_a_window_is_not_compared_with_nothing() -> None:
    found = reranker()[0].explain(QUERY, DOCUMENT, window=(0, 15))
    assert found.sentences[0].logit_fall is None
    assert found.logit == 1.0


@pytest.mark.parametrize("window", [(5, 5), (-1, 3), (0, len(DOCUMENT) + 1)])
def test_a_window_is_in_the_document(window: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="give the window of a hit of this document"):
        reranker()[0].explain(QUERY, DOCUMENT, window=window)
