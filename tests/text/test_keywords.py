import numpy as np

from crossrank.text.keywords import KeywordIndex, keywords, order_of, shared_spans


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


def test_the_keywords_of_a_query_do_for_many_texts() -> None:
    query, texts = "the dog, the 手机电池", ["the cat sat", "the dog ran", "手机"]
    index, wanted = KeywordIndex(texts), keywords(query)
    assert index.scores(wanted).tolist() == index.scores(query).tolist()
    assert order_of(index.scores(wanted)) == index.order(query)
    assert [shared_spans(set(wanted), text) for text in texts] == [
        shared_spans(query, text) for text in texts
    ]


def test_where_a_text_repeats_keywords_of_a_query() -> None:
    def shared(query: str, text: str) -> list[str]:
        return [text[start:end] for start, end in shared_spans(query, text)]

    assert shared("Why is the sky blue?", "Blue Sky, the hotel") == ["Blue", "Sky", "the"]
    assert shared("手机电池怎么保养", "这款手机的电池容量") == ["手机", "电池"]
    assert shared("中国的首都", "中国的古都，首都机场") == ["中国的", "首都"]
    assert shared("İstanbul straße", "the STRASSE of İstanbul 😀 straße") == ["İstanbul", "straße"]
    assert shared("", "text") == shared("text", "") == shared("a", "b") == []


def test_an_index_of_the_wanted_keywords_gives_the_same_scores() -> None:
    texts = ["the sky is blue", "北京的天空", "", "blue blue hotel in the sky", "nothing of it", "!"]
    for query in ("the blue sky", "北京", "none such", "", "blue blue"):
        wanted = keywords(query)
        assert (
            KeywordIndex(texts, set(wanted)).scores(query).tolist()
            == KeywordIndex(texts).scores(query).tolist()
        )
