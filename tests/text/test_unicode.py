from __future__ import annotations

from crossrank.text.unicode import clean


def test_lone_surrogates_are_replaced_and_nothing_else() -> None:
    assert clean("a\ud800b\udfffc") == "a\ufffdb\ufffdc"
    assert clean("\ud83d\ude00") == "\ufffd\ufffd"  # to Python these are two, not one character
    assert clean("北京 🙂 \ufffd") == "北京 🙂 \ufffd"
