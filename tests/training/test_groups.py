import random
from collections.abc import Iterable

import numpy as np
import pytest

from training import groups
from training.sources import Collection, Medical, Question
from training.teacher import Library, Vectors


class Letters(Library):
    """Vectors that count letters: a teacher that needs no weights."""

    def __init__(self) -> None:
        pass

    def add(self, texts: Iterable[str]) -> None:
        pass

    def vectors(self, prefix: str, texts: list[str]) -> Vectors:
        counts = np.array(
            [[text.lower().count(c) + 0.01 for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        )
        unit: Vectors = (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)
        return unit


def collection(language: str = "") -> Collection:
    facts = [("Rome", "Tiber"), ("Paris", "Seine"), ("London", "Thames"), ("Vienna", "Danube")]
    facts += [("Cairo", "Nile"), ("Prague", "Moldau"), ("Cologne", "Rhine"), ("Dresden", "Elbe")]
    made = Collection("facts")
    for i, (city, river) in enumerate(facts):
        sentences = [f"{language}{city} is an old city. ", f"{language}The {river} flows through its middle."]
        made.paragraphs.append("".join(sentences))
        made.sentences.append(sentences)
        made.titles.append(city)
        start = made.paragraphs[-1].index(river)
        made.questions.append(Question(f"{language}Which river flows through {city}?", [river], i, start))
    return made


@pytest.mark.parametrize("kind", ["sentence", "paragraph"])
def test_the_answer_comes_first_and_has_most_of_the_target(kind: str) -> None:
    source = collection()
    pool = (groups.sentence_pool if kind == "sentence" else groups.paragraph_pool)(source, Letters())
    made = list(groups.question_groups(source, source, kind, pool, random.Random(1), 8))
    assert len(made) == 8
    for group in made:
        question = next(q for q in source.questions if q.text == group["query"])
        answer = question.answers[0]
        assert answer in group["texts"][0]
        assert not any(answer in text for text in group["texts"][1:])
        assert len(set(group["texts"])) == len(group["texts"]) == len(group["targets"])
        assert sum(group["targets"]) == pytest.approx(1, abs=0.001)
        assert group["targets"][0] >= 0.75
        assert group["positive"]


def test_the_texts_of_a_question_in_another_language_are_in_that_language() -> None:
    source, target = collection(), collection("X")
    pool = groups.sentence_pool(target, Letters())
    for group in groups.question_groups(source, target, "sentence", pool, random.Random(1), 5):
        assert not group["query"].startswith("X")
        assert all(text.startswith("X") for text in group["texts"])


def test_a_statement_has_no_positive_and_the_teachers_order() -> None:
    source = collection()
    library = Letters()
    pool = groups.paragraph_pool(source, library)
    statement = "The Thames flows through the middle of London and past its oldest towers."
    texts = [(statement, source.paragraphs[2])]
    (group,) = groups.statement_groups(texts, pool, random.Random(1), 1)
    assert not group["positive"]
    assert source.paragraphs[2] not in group["texts"]
    cosines = library.vectors("passage", group["texts"]) @ library.vectors("query", [statement])[0]
    assert group["targets"][int(cosines.argmax())] == max(group["targets"])


def test_another_paragraph_of_the_article_is_no_negative_for_its_title() -> None:
    source = collection()
    source.titles[1] = source.titles[0]
    pool = groups.paragraph_pool(source, Letters())
    for group in groups.title_groups(source, pool, random.Random(1), 8):
        own = [p for p, t in zip(source.paragraphs, source.titles, strict=True) if t == group["query"]]
        assert [text for text in group["texts"] if text in own] == group["texts"][:1]


def test_no_answer_to_the_same_medical_question_is_a_negative() -> None:
    rows = [
        Medical(f"focus {i // 2}", f"what about {i // 2}?", f"answer {i} is {chr(97 + i) * 9}")
        for i in range(12)
    ]
    pool = groups.Pool.of([row.answer for row in rows], Letters())
    made = list(groups.medical_groups(rows, pool, random.Random(1), 12))
    assert {group["query"].split()[0] for group in made} == {"what", "focus"}
    for group in made:
        own = {row.answer for row in rows if group["query"] in (row.question, row.focus)}
        assert group["texts"][0] in own
        assert not own & set(group["texts"][1:])
