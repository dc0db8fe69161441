"""Public question-answering data as collections: paragraphs, their sentences, questions on them.

Splits are by article title (XQuAD: the same articles in every language; MedQuAD: by focus), so
that an evaluation question's text was not seen in any language.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

XQUAD = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]
OTHERS = ["cmrc2018/dev", "cmrc2018/trial", "drcd/dev", "drcd/test", "jsquad/valid", "jsquad/test"]

# Up to a terminator; a full stop is one only before white space or the end.
_SENTENCE = re.compile(r"(?:[^。！？!?.।؟\n]|\.(?!\s|$))*(?:[。！？!?।؟\n]+|\.(?=\s|$)|$)")


@dataclass
class Question:
    text: str
    answers: list[str]
    paragraph: int
    start: int


@dataclass
class Collection:
    """One data set in one language: paragraphs, their sentences, and questions on them."""

    name: str
    paragraphs: list[str] = field(default_factory=list)
    sentences: list[list[str]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    """The article's title of each paragraph; empty where the data has none."""


@dataclass(frozen=True)
class Medical:
    """A row of MedQuAD: what is asked about, the question, the answer."""

    focus: str
    question: str
    answer: str


def held_out(title: str) -> bool:
    """Whether an article belongs to the evaluation: one in four, by the hash of its title."""
    return hashlib.sha256(title.encode()).digest()[0] % 4 == 0


def split_sentences(text: str) -> list[str]:
    """Sentences of a paragraph, in order; their concatenation is the paragraph.

    A full stop ends a sentence only before white space, and pieces shorter than 12 characters
    (initials, abbreviations) are joined to what follows.
    """
    sentences: list[str] = []
    pending = ""
    for piece in _SENTENCE.findall(text):
        pending += piece
        if len(pending.strip()) >= 12:
            sentences.append(pending)
            pending = ""
    if pending:
        sentences.append(pending)
    return sentences


def read_squad(path: Path, name: str) -> dict[bool, Collection]:
    """A SQuAD v1.1 file as {False: training part, True: held-out part}."""
    parts = {False: Collection(name), True: Collection(name)}
    for article in json.loads(path.read_text())["data"]:
        part = parts[held_out(article.get("title") or article["paragraphs"][0]["context"][:40])]
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            # JSQuAD puts "title [SEP]" before the text.
            skip = context.find(" [SEP] ") + 7 if " [SEP] " in context else 0
            part.paragraphs.append(context[skip:])
            part.sentences.append(split_sentences(context[skip:]))
            part.titles.append((article.get("title") or "").replace("_", " "))
            for qa in paragraph["qas"]:
                if qa.get("is_impossible") or not qa["answers"]:
                    continue
                first = next((a for a in qa["answers"] if a["answer_start"] >= skip), None)
                if first is None:
                    continue
                answers = sorted({a["text"] for a in qa["answers"]})
                start = first["answer_start"] - skip
                part.questions.append(Question(qa["question"], answers, len(part.paragraphs) - 1, start))
    return parts


def read_all(data: Path) -> dict[str, dict[bool, Collection]]:
    """Every SQuAD-shaped collection by name, such as ``xquad.en`` or ``drcd.test``."""
    files = [f"xquad/xquad.{language}" for language in XQUAD] + OTHERS
    names = [file.removeprefix("xquad/").replace("/", ".") for file in files]
    return {name: read_squad(data / f"{file}.json", name) for name, file in zip(names, files, strict=True)}


def answer_sentence(collection: Collection, question: Question) -> int:
    """Index (within its paragraph) of the sentence where the answer starts."""
    end = 0
    for i, sentence in enumerate(collection.sentences[question.paragraph]):
        end += len(sentence)
        if question.start < end:
            return i
    return len(collection.sentences[question.paragraph]) - 1


def answers_it(text: str, answers: Iterable[str]) -> bool:
    """Whether a text contains one of the accepted answers (in any case)."""
    folded = text.casefold()
    return any(answer.casefold().strip() in folded for answer in answers)


def read_medquad(path: Path, longest: int = 700) -> dict[bool, list[Medical]]:
    """MedQuAD as {False: training, True: held out}: one row for each distinct answer.

    Answers are cut to ``longest`` characters.
    """
    parts: dict[bool, list[Medical]] = {False: [], True: []}
    seen: set[str] = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            answer = " ".join(row["answer"].split())[:longest]
            if len(answer) < 40 or answer in seen:
                continue
            seen.add(answer)
            parts[held_out(row["focus"].casefold())].append(Medical(row["focus"], row["question"], answer))
    return parts
