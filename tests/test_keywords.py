import numpy as np

from crossrank.keywords import KeywordIndex, keywords


def test_words_are_lower_cased_and_unspaced_scripts_become_pairs() -> None:
    assert keywords("Hello, WORLD-wide 42!") == ["hello", "world", "wide", "42"]
    assert keywords("中国首都") == ["中国", "国首", "首都"]
    assert keywords("中 iPhone手机") == ["中", "iphone", "手机"]
    assert keywords("Привет, мир") == ["привет", "мир"]
    assert keywords("。，!") == []


def test_the_document_with_the_rarer_word_comes_first() -> None:
    index = KeywordIndex(["the cat sat", "the dog ran", "the the the"])
    assert index.order("the dog")[0] == 1
    scores = index.scores("the dog")
    assert scores.dtype == np.float32
    assert scores[1] > scores[0] > 0


def test_no_keyword_meets() -> None:
    index = KeywordIndex(["one", "two"])
    assert index.scores("three").tolist() == [0, 0]
    assert index.scores("。").tolist() == [0, 0]
    assert index.order("three") == [0, 1]
    assert KeywordIndex(["。", ""]).order("x") == [0, 1]
    assert KeywordIndex([]).order("x") == []
