"""How well documents of 1,500 to 4,000 tokens are ranked: cut to fit, read in windows, or read as a whole.

The answer of a question stands in one document of ten, at its start, in its middle or at its end. A document
is paragraphs of public question-answering data, one after another. One of them is the answer's, or, in the
other nine, one that BM25 finds for the question and that does not have the answer. The questions are on
articles that crossrank-mini was not trained on. Some are asked in another language than the documents', so
that they share no words.

    python -m benchmarks.long_documents
    python -m benchmarks.long_documents --model BAAI/bge-reranker-v2-m3 --whole 8192

The gains depend on the model and its precision alone, and so do the tokens. The seconds are this machine's.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from crossrank import Reranker
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import MAX_WINDOWS, Long, PairEncoder
from crossrank.text.keywords import KeywordIndex
from training.sources import Collection, Question, answers_it, read_squad

Position = Literal["start", "middle", "end"]

SETS = {
    "English": ("xquad/xquad.en", "xquad/xquad.en"),
    "Chinese": ("cmrc2018/dev", "cmrc2018/dev"),
    "Japanese": ("jsquad/valid", "jsquad/valid"),
    "Chinese, of English": ("xquad/xquad.zh", "xquad/xquad.en"),
}
"""Files of the questions, and of the documents."""

QUESTIONS = 25
"""Questions of each set."""

DOCUMENTS = 10
"""Candidates of a question: the document with the answer, and nine others."""

WINDOWS = (2, 4, 8, 100)
"""The most windows of a document."""

SHORTEST, LONGEST = 1500, 4000
"""Tokens of a document."""


@dataclass(frozen=True)
class Task:
    """A question and its candidates.

    Attributes:
        name: of its set.
        query: the question.
        right: the document with the answer, with the answer's paragraph at each position.
        wrong: the other documents.
    """

    name: str
    query: str
    right: dict[Position, str]
    wrong: list[str]


@dataclass(frozen=True)
class Reading:
    """A way to read long documents."""

    name: str
    long: Long = "cut"
    max_windows: int = MAX_WINDOWS
    max_length: int | None = None


def build(data: Path, questions: int = QUESTIONS) -> Iterator[Task]:
    """The tasks: the same for the same arguments."""
    encoder = PairEncoder(resolve(BUNDLED) / "tokenizer.json", max_length=LONGEST)
    for name, (asked, read) in SETS.items():
        parts = read_squad(data / f"{read}.json", name)
        queries = read_squad(data / f"{asked}.json", name)[True].questions
        yield from _of_set(name, queries, parts[True], parts[False].paragraphs, encoder, questions)


def _of_set(
    name: str,
    queries: Sequence[Question],
    texts: Collection,
    others: Sequence[str],
    encoder: PairEncoder,
    questions: int,
) -> Iterator[Task]:
    """The tasks of a set.

    Args:
        queries: the questions as they are asked.
        texts: the same questions, with the paragraphs that answer them.
        others: more paragraphs.
    """
    rng = random.Random(name)
    paragraphs = list(dict.fromkeys([*texts.paragraphs, *others]))
    index = KeywordIndex(paragraphs)
    length = {text: len(ids) for text, ids in zip(paragraphs, encoder.ids(paragraphs), strict=True)}
    both = list(zip(queries, texts.questions, strict=True))
    for query, question in rng.sample(both, min(questions, len(both))):
        answer = texts.paragraphs[question.paragraph]
        near = [paragraphs[i] for i in index.order(question.text)]
        without = [text for text in near if text != answer and not answers_it(text, question.answers)]
        hard, fillers = without[: DOCUMENTS - 1], without[len(without) // 4 :]
        if len(hard) < DOCUMENTS - 1:
            continue
        around = _around(answer, fillers, length, rng)
        right = {position: _document(answer, around, position) for position in get_args(Position)}
        wrong = [
            _document(text, _around(text, fillers, length, rng), rng.choice(get_args(Position)))
            for text in hard
        ]
        yield Task(name, query.text, right, wrong)


def _around(text: str, fillers: Sequence[str], length: dict[str, int], rng: random.Random) -> list[str]:
    """The other paragraphs of a document with this one."""
    wanted = rng.randint(SHORTEST, LONGEST) - length[text]
    chosen: list[str] = []
    for filler in rng.sample(fillers, len(fillers)):
        if filler != text and length[filler] <= wanted:
            chosen.append(filler)
            wanted -= length[filler]
        if wanted < 50:
            break
    return chosen


def _document(text: str, around: Sequence[str], position: Position) -> str:
    place = {"start": 0, "middle": len(around) // 2, "end": len(around)}[position]
    return "\n".join([*around[:place], text, *around[place:]])


def gain(right: float, wrong: Iterable[float]) -> float:
    """nDCG@10 of a question with one right document; of equal logits, the wrong one is first."""
    above = sum(logit >= right for logit in wrong)
    return float(1 / np.log2(2 + above)) if above < 10 else 0.0


@dataclass(frozen=True)
class Measured:
    """What a way to read the documents brings, and what it costs.

    Attributes:
        gains: nDCG@10 for each set and position.
        tokens: of all pairs that were scored.
        seconds: that it took.
    """

    gains: dict[tuple[str, Position], float]
    tokens: int
    seconds: float


def measure(reranker: Reranker, tasks: Sequence[Task]) -> Measured:
    """Rank the documents of each task."""
    gains: dict[tuple[str, Position], list[float]] = {}
    tokens, seconds = 0, 0.0
    for task in tasks:
        texts = [*task.right.values(), *task.wrong]
        encoder = reranker.encoder
        found = encoder.join_windows(encoder.query(task.query), texts)
        tokens += sum(pair.tokens for pairs in found for pair in pairs)
        begun = time.perf_counter()
        logits = reranker.logits([(task.query, text) for text in texts]).tolist()
        seconds += time.perf_counter() - begun
        for position, logit in zip(task.right, logits, strict=False):
            gains.setdefault((task.name, position), []).append(gain(logit, logits[len(task.right) :]))
    means = {key: float(np.mean(each)) for key, each in gains.items()}
    return Measured(means, tokens, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each set")
    parser.add_argument("--whole", type=int, help="tokens of a pair in which all documents fit")
    arguments = parser.parse_args()
    tasks = list(build(arguments.data, arguments.questions))
    readings = [Reading("cut"), *(Reading(f"windows, {most} at most", "windows", most) for most in WINDOWS)]
    if arguments.whole:
        readings.append(Reading("whole", max_length=arguments.whole))
    print(f"{arguments.model}: {len(tasks)} questions, each with {DOCUMENTS} documents")
    print(
        "| read | tokens of a document | its seconds | start | middle | end |",
        "|---|---:|---:|---:|---:|---:|",
        sep="\n",
    )
    rows: list[tuple[str, dict[tuple[str, Position], float]]] = []
    for reading in readings:
        options: dict[str, Any] = {"max_length": reading.max_length, "precision": arguments.precision}
        with Reranker(
            arguments.model, long=reading.long, max_windows=reading.max_windows, **options
        ) as reranker:
            found = measure(reranker, tasks)
        rows.append((reading.name, found.gains))
        documents = sum(len(task.right) + len(task.wrong) for task in tasks)
        means = [
            np.mean([value for (_, at), value in found.gains.items() if at == position])
            for position in get_args(Position)
        ]
        cells = [
            reading.name,
            f"{found.tokens / documents:,.0f}",
            f"{found.seconds / documents:.3f}",
            *(f"{mean:.3f}" for mean in means),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
    for position in get_args(Position):
        names = [name for name, at in rows[0][1] if at == position]
        print(f"\n| {position} | " + " | ".join(names) + " |\n|---" + "|---:" * len(names) + "|")
        for read, gains in rows:
            print(f"| {read} | " + " | ".join(f"{gains[name, position]:.3f}" for name in names) + " |")


if __name__ == "__main__":
    main()
