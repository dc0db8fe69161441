"""Make training groups: a query, texts, and a target for each text.

The known positive, if there is one, is the first text. The targets are a distribution over the texts: a
share goes to the known positive, and the teacher distributes the rest (a softmax over the bi-encoder's
cosines and some of BM25). Without a known positive, the teacher distributes everything. This keeps the
cross-encoder from forgetting what its starting model knew about long passages, statements, keywords and
texts in other languages.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossrank.text.keywords import KeywordIndex
from training.public import Example
from training.sources import Collection, Medical, Question, answer_sentence, answers_it
from training.teacher import Library, Vectors

TEMPERATURE = 0.02
"""Temperature of the teacher's cosines, which differ by less than 0.1 for most candidates."""

KEYWORD_SHARE = 0.5
"""Weight of the standardised BM25 score relative to ``cosine / TEMPERATURE``."""

HARD = 14
"""Hard negatives come from this many first texts of each ranking."""


@dataclass(frozen=True)
class Pool:
    """The texts that candidates are taken from, ranked by the bi-encoder and by BM25."""

    texts: list[str]
    place: dict[str, int]
    """The index of each text in ``texts``."""
    vectors: Vectors
    library: Library
    index: KeywordIndex

    @classmethod
    def of(cls, texts: Sequence[str], library: Library) -> Pool:
        unique = list(dict.fromkeys(texts))
        library.add(f"passage: {text}" for text in unique)
        place = {text: i for i, text in enumerate(unique)}
        return cls(unique, place, library.vectors("passage", unique), library, KeywordIndex(unique))

    def scores(self, query: str, keywords: str | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The cosines and BM25 scores of all texts; ``keywords`` replaces the query for BM25."""
        cosines = self.vectors @ self.library.vectors("query", [query])[0]
        return cosines, self.index.scores(query if keywords is None else keywords)

    def group(
        self,
        query: str,
        positive: str | None,
        trust: float,
        wrong: Any,
        rng: random.Random,
        *,
        size: int = 8,
        near: Sequence[str] = (),
        keywords: str | None = None,
    ) -> dict[str, Any] | None:
        """Make a group, or return None if there are too few texts.

        ``positive`` gets the share ``trust`` of the target, and the teacher distributes the rest.
        ``wrong(text)`` tells whether a text may be a negative. Up to two negatives come from ``near``.
        ``keywords`` is the query in the language of the texts, for BM25.
        """
        cosines, matches = self.scores(query, keywords)
        by_keyword, by_meaning = np.argsort(-matches)[:HARD].tolist(), np.argsort(-cosines)[:HARD].tolist()
        rng.shuffle(by_keyword)
        rng.shuffle(by_meaning)
        alternating = [i for both in zip(by_meaning, by_keyword, strict=False) for i in both]
        order = [self.place[text] for text in near[:2] if text in self.place] + alternating
        stranger = rng.randrange(len(self.texts))
        first = [self.place[positive]] if positive is not None else []
        chosen = list(dict.fromkeys([*first, *(i for i in order if wrong(self.texts[i]))]))[: size - 1]
        if wrong(self.texts[stranger]) and stranger not in chosen:
            chosen.append(stranger)
        if len(chosen) < 4:
            return None
        score = cosines[chosen] / TEMPERATURE
        spread = matches[chosen].std()
        if keywords is None and spread > 0:
            score = score + KEYWORD_SHARE * (matches[chosen] - matches[chosen].mean()) / spread
        target = np.exp(score - score.max())
        target = target / target.sum() * (1 - trust if positive is not None else 1)
        if positive is not None:
            target[0] += trust
        texts = [self.texts[i] for i in chosen]
        targets = [round(float(t), 4) for t in target]
        return {"query": query, "texts": texts, "targets": targets, "positive": positive is not None}


def sentence_pool(collection: Collection, library: Library) -> Pool:
    return Pool.of([s.strip() for ss in collection.sentences for s in ss], library)


def paragraph_pool(collection: Collection, library: Library) -> Pool:
    return Pool.of(collection.paragraphs, library)


def question_groups(
    source: Collection,
    target: Collection,
    kind: str,
    pool: Pool,
    rng: random.Random,
    n: int,
) -> Iterator[dict[str, Any]]:
    """Yield groups of ``n`` questions of ``source`` with the answering sentence or paragraph of ``target``.

    The two are the same collection, or two languages of XQuAD, whose questions are parallel.
    """
    cross = source is not target
    numbers = rng.sample(range(len(source.questions)), min(n, len(source.questions)))
    pool.library.add(f"query: {source.questions[i].text}" for i in numbers)
    for i in numbers:
        asked, mirror = source.questions[i], target.questions[i]
        sentences = [s.strip() for s in target.sentences[mirror.paragraph]]
        if kind == "sentence":
            positive, trust = sentences[answer_sentence(target, mirror)], 0.85
        else:
            positive, trust = target.paragraphs[mirror.paragraph], 0.75
        near = [s for s in sentences if s != positive] if kind == "sentence" else []
        rng.shuffle(near)

        def wrong(text: str, positive: str = positive, mirror: Question = mirror) -> bool:
            return text != positive and not answers_it(text, mirror.answers)

        group = pool.group(
            asked.text,
            positive,
            0.75 if cross else trust,
            wrong,
            rng,
            near=near,
            size=8 if kind == "sentence" else 6,
            keywords=mirror.text if cross else None,
        )
        if group:
            yield group


def title_groups(collection: Collection, pool: Pool, rng: random.Random, n: int) -> Iterator[dict[str, Any]]:
    """Yield groups with an article's title as a keyword query and one of its paragraphs as the positive."""
    titled = [i for i, title in enumerate(collection.titles) if title and not title.startswith("TRAIN")]
    numbers = rng.sample(titled, min(n, len(titled)))
    pool.library.add(f"query: {collection.titles[i]}" for i in numbers)
    for i in numbers:
        title = collection.titles[i]
        own = {p for p, t in zip(collection.paragraphs, collection.titles, strict=True) if t == title}

        def wrong(text: str, own: set[str] = own) -> bool:
            return text not in own

        group = pool.group(title, collection.paragraphs[i], 0.5, wrong, rng, size=6)
        if group:
            yield group


def statement_groups(
    texts: list[tuple[str, str]], pool: Pool, rng: random.Random, n: int
) -> Iterator[dict[str, Any]]:
    """Yield groups with a sentence as the query and passages other than its own; targets are the teacher's.

    ``texts`` are (sentence, its passage) tuples.
    """
    long_enough = [pair for pair in texts if 60 <= len(pair[0].encode()) <= 400]
    chosen = rng.sample(long_enough, min(n, len(long_enough)))
    pool.library.add(f"query: {sentence}" for sentence, _ in chosen)
    for sentence, own in chosen:

        def wrong(text: str, own: str = own) -> bool:
            return text != own

        group = pool.group(sentence, None, 0, wrong, rng, size=6)
        if group:
            yield group


def medical_groups(rows: list[Medical], pool: Pool, rng: random.Random, n: int) -> Iterator[dict[str, Any]]:
    """Yield questions with answers; one query in four is only the focus, and any answer on it is right."""
    numbers = rng.sample(range(len(rows)), n)
    pool.library.add(f"query: {text}" for i in numbers for text in (rows[i].question, rows[i].focus))
    question_of: dict[str, set[str]] = {}
    focus_of: dict[str, set[str]] = {}
    for row in rows:
        question_of.setdefault(row.answer, set()).add(row.question)
        focus_of.setdefault(row.answer, set()).add(row.focus.casefold())
    for place, i in enumerate(numbers):
        row = rows[i]

        def other_question(text: str, row: Medical = row) -> bool:
            return row.question not in question_of[text]

        def other_focus(text: str, row: Medical = row) -> bool:
            return row.focus.casefold() not in focus_of[text]

        if place % 4:
            group = pool.group(row.question, row.answer, 0.75, other_question, rng, size=6)
        else:
            group = pool.group(row.focus, row.answer, 0.5, other_focus, rng, size=6)
        if group:
            yield group


NEAR_FOLDERS = ("docs-zh", "docs-en", "docs-multi", "support-docs", "faq", "laws")
"""Folders in which another text of the same page or law is a candidate; it is similar, and may be right."""


def public_groups(examples: list[Example], library: Library, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield each example's query and text with candidates from its folder.

    ``sure`` tells for each text whether its label is certain. Another section of the same page may answer
    too, so only the teacher sets its target.
    """
    pool = Pool.of([example.text for example in examples], library)
    group_of: dict[str, set[str]] = {}
    siblings: dict[tuple[str, str], list[str]] = {}
    for example in examples:
        group_of.setdefault(example.text, set()).add(example.group)
        siblings.setdefault((example.group, example.lang), []).append(example.text)
    for example in examples:
        near = [text for text in siblings[example.group, example.lang] if text != example.text]
        near = rng.sample(near, min(1, len(near))) if example.folder in NEAR_FOLDERS else []

        def wrong(text: str, example: Example = example, near: Sequence[str] = near) -> bool:
            return text in near or example.group not in group_of[text]

        group = pool.group(example.query, example.text, 0.85, wrong, rng, near=near)
        if group:
            yield group | {"sure": [text not in near for text in group["texts"]]}
