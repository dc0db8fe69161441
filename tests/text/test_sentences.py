from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossrank.text.sentences import sentence_spans


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("  One.   Two.  ", ["One.", "Two."]),
        ("Pi is 3.14. The file is a.txt.", ["Pi is 3.14.", "The file is a.txt."]),
        ("Dr. Smith met J. R. R. Tolkien. They ate.", ["Dr. Smith met J. R. R. Tolkien.", "They ate."]),
        ("See Fig. 3 and No. 5. Then e.g. this one.", ["See Fig. 3 and No. 5.", "Then e.g. this one."]),
        ("He said no. Then he sat. It was art. End", ["He said no.", "Then he sat.", "It was art.", "End"]),
        ("1. Boil water. 2. Add tea.", ["1. Boil water.", "2. Add tea."]),
        ('"Really?" she said. (It was.) Yes.', ['"Really?" she said.', "(It was.)", "Yes."]),
        ("Well... maybe. So… what? End…", ["Well... maybe.", "So… what?", "End…"]),
        ("What?! No!!! Oh.", ["What?!", "No!!!", "Oh."]),
        ("Wrapped in\nthe middle. Title\n\nText\nLine", ["Wrapped in\nthe middle.", "Title", "Text", "Line"]),
        ("- one\r\n- two", ["- one", "- two"]),
        ("北京是首都。上海很大！真的吗？是", ["北京是首都。", "上海很大！", "真的吗？", "是"]),
        ("“你好。”他说。（完。）好", ["“你好。”", "他说。", "（完。）", "好"]),
        ("圆周率是3.14。版本2.0发布了!很好", ["圆周率是3.14。", "版本2.0发布了!", "很好"]),
        ("他走了……然后呢？", ["他走了……然后呢？"]),
        ("これは文です。「はい。」次の文", ["これは文です。", "「はい。」", "次の文"]),
        ("한국어 문장입니다. 다음 문장입니다.", ["한국어 문장입니다.", "다음 문장입니다."]),
        ("यह एक वाक्य है। दूसरा वाक्य।", ["यह एक वाक्य है।", "दूसरा वाक्य।"]),
        ("ما هي العاصمة؟ العاصمة بكين.", ["ما هي العاصمة؟", "العاصمة بكين."]),
        ("Das kostet z.B. 3 Mio. Euro. Ende.", ["Das kostet z.B. 3 Mio. Euro.", "Ende."]),
        ("В 2020 г. Москва росла. А. С. Пушкин жил.", ["В 2020 г. Москва росла.", "А. С. Пушкин жил."]),
        (
            "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย มีประชากร 10 ล้านคน",
            ["กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "มีประชากร 10 ล้านคน"],
        ),
        ("... !!! — Hello. ***", ["... !!! — Hello. ***"]),
        ("", []),
        (" \n\t ", []),
        ("。。。", ["。。。"]),
    ],
)  # fmt: skip
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


@given(st.text(st.sampled_from("aB1.!?…。！” \"'()\n\t北กख।") | st.characters(), max_size=60))
def test_every_character_but_white_space_is_in_one_sentence(text: str) -> None:
    spans = list(sentence_spans(text))
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start
        assert not text[end:start].strip()
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)


HOSTILE: list[Callable[[int], str]] = [
    lambda n: "." * n + "a",
    lambda n: "a" + "!" * n + "b",
    lambda n: "a" + " " * n + "b",
    lambda n: "\u0e01" + " " * n + "x",
    lambda n: "a" + ".)" * n + "b",
    lambda n: "." + ")" * n + "b",
    lambda n: "。" * n + "a",
    lambda n: "a. " * n,
    lambda n: "a\n " * n + "b",
    lambda n: "\n" * n + "a",
    lambda n: "\u3000 \t" * n + "a",
    lambda n: "…" * n,
    lambda n: "1." * n + " a",
    lambda n: "A. " * n + "b",
]


@pytest.mark.parametrize("make", HOSTILE)
def test_the_cost_grows_with_the_text_and_not_with_its_square(make: Callable[[int], str]) -> None:
    """A text of 200,000 hostile characters; the quadratic search took minutes for it."""
    text = make(200_000)
    assert sum(len("".join(text[start:end].split())) for start, end in sentence_spans(text)) == len(
        "".join(text.split())
    )
