from hypothesis import given
from hypothesis import strategies as st

from training.sources import answers_it, held_out, split_sentences


@given(st.text(alphabet="ab。.！? \n।", max_size=80))
def test_sentences_joined_are_the_paragraph(text: str) -> None:
    assert "".join(split_sentences(text)) == text


def test_abbreviations_and_initials_do_not_end_a_sentence() -> None:
    text = "It rose by 3.5 percent. The U.S. won... 他们赢了这一场重要的比赛。大家都非常高兴地庆祝胜利。"
    assert [s.strip() for s in split_sentences(text)] == [
        "It rose by 3.5 percent.",
        "The U.S. won...",
        "他们赢了这一场重要的比赛。",
        "大家都非常高兴地庆祝胜利。",
    ]


def test_a_text_with_the_answer_is_recognised() -> None:
    assert answers_it("It was built in PARIS.", ["Paris", "Lyon"])
    assert not answers_it("It was built there.", ["Paris"])


def test_a_quarter_of_the_titles_is_held_out() -> None:
    share = sum(held_out(f"title {i}") for i in range(4000)) / 4000
    assert 0.22 < share < 0.28
