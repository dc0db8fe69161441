"""Read public question-answering data as collections of paragraphs, their sentences, and questions on them.

The data are split by article title (XQuAD has the same articles in all languages) or by focus (MedQuAD), so
that training sees no text of an evaluation question, in any language.
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

# A sentence ends with a terminator; a full stop is one only before white space or the end.
_SENTENCE = re.compile(r"(?:[^。！？!?.।؟\n]|\.(?!\s|$))*(?:[。！？!?।؟\n]+|\.(?=\s|$)|$)")


@dataclass
class Question:
    text: str
    answers: list[str]
    paragraph: int
    start: int


@dataclass
class Collection:
    """A data set in one language: paragraphs, their sentences, and questions on them."""

    name: str
    paragraphs: list[str] = field(default_factory=list)
    sentences: list[list[str]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    """The title of each paragraph's article; empty if the data has no titles."""


@dataclass(frozen=True)
class Medical:
    """A row of MedQuAD: the subject (focus), the question and the answer."""

    focus: str
    question: str
    answer: str


def held_out(title: str) -> bool:
    """Whether an article is held out for evaluation; one in four is, by the hash of its title."""
    return hashlib.sha256(title.encode()).digest()[0] % 4 == 0


def split_sentences(text: str) -> list[str]:
    """Split a paragraph into sentences; their concatenation is the paragraph.

    A full stop ends a sentence only before white space, and pieces shorter than 12 characters
    (initials, abbreviations) are joined to the next one.
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
    """Read a SQuAD v1.1 file as {False: training part, True: held-out part}."""
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
    """Read all collections in SQuAD's format, by name (such as ``xquad.en`` or ``drcd.test``)."""
    files = [f"xquad/xquad.{language}" for language in XQUAD] + OTHERS
    names = [file.removeprefix("xquad/").replace("/", ".") for file in files]
    return {name: read_squad(data / f"{file}.json", name) for name, file in zip(names, files, strict=True)}


def answer_sentence(collection: Collection, question: Question) -> int:
    """The index, within the paragraph, of the sentence in which the answer starts."""
    end = 0
    for i, sentence in enumerate(collection.sentences[question.paragraph]):
        end += len(sentence)
        if question.start < end:
            return i
    return len(collection.sentences[question.paragraph]) - 1


def answers_it(text: str, answers: Iterable[str]) -> bool:
    """Whether a text contains one of the accepted answers, ignoring case."""
    folded = text.casefold()
    return any(answer.casefold().strip() in folded for answer in answers)


def read_medquad(path: Path, max_characters: int = 700) -> dict[bool, list[Medical]]:
    """Read MedQuAD as {False: training part, True: held-out part}, with one row per distinct answer.

    Answers are truncated to ``max_characters``.
    """
    parts: dict[bool, list[Medical]] = {False: [], True: []}
    seen: set[str] = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            answer = " ".join(row["answer"].split())[:max_characters]
            if len(answer) < 40 or answer in seen:
                continue
            seen.add(answer)
            parts[held_out(row["focus"].casefold())].append(Medical(row["focus"], row["question"], answer))
    return parts
