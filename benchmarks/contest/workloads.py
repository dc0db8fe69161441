"""The pairs of the contest: texts of real data, and their token ids.

An encoder's ids are those of CrossRank's encoder; a decoder's are made from the published prompt.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contest.base import Pair
from benchmarks.contest.models import Model
from benchmarks.contest.tokenizers import Prompts

QUERY, DOCUMENTS = 12, 16
"""Of a decoder's pairs of one length: tokens of each query, and its documents."""
QUESTIONS, CANDIDATES = 2, 6
"""Of the mixed lengths: questions of each collection, and passages of each question."""
WINDOW = 512


@dataclass(frozen=True)
class Workload:
    """Pairs that are scored together.

    Attributes:
        name: "32", "128", "512" or "mixed".
        window: tokens of a pair at most.
    """

    name: str
    window: int
    pairs: list[Pair]


@dataclass(frozen=True)
class Workloads:
    """All workloads, and pairs to calibrate with, which no workload has."""

    timed: list[Workload]
    calibration: list[Pair]

    def write(self, path: Path) -> None:
        def plain(pairs: list[Pair]) -> list[list[Any]]:
            return [
                [p.query, p.document, p.token_ids.tolist(), p.segment_ids.tolist(), p.prefix] for p in pairs
            ]

        timed = [{"name": w.name, "window": w.window, "pairs": plain(w.pairs)} for w in self.timed]
        content = {"timed": timed, "calibration": plain(self.calibration)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workloads:
        def pairs(rows: list[list[Any]]) -> list[Pair]:
            return [
                Pair(q, d, np.array(ids, np.int64), np.array(kinds, np.int64), prefix)
                for q, d, ids, kinds, prefix in rows
            ]

        content = json.loads(path.read_text(encoding="utf-8"))
        timed = [Workload(w["name"], w["window"], pairs(w["pairs"])) for w in content["timed"]]
        return cls(timed, pairs(content["calibration"]))


def squad(path: Path) -> Iterator[tuple[str, str]]:
    """Questions of a SQuAD file with their passages."""
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield question["question"], paragraph["context"]


def medquad(path: Path) -> Iterator[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["answer"]:
                yield row["question"], row["answer"]


def make(data: Path, tokenizer: Path, model: Model) -> Workloads:
    """Workloads of a model with this tokenizer."""
    collections = [
        list(squad(data / "xquad" / "xquad.en.json")),
        list(squad(data / "xquad" / "xquad.zh.json")),
        list(squad(data / "cmrc2018" / "dev.json")),
        list(medquad(data / "medquad" / "medquad.jsonl.gz")),
    ]
    dice = random.Random(0)
    timed = []
    encode = _encode_prompts if model.decoder else _encode
    equal = _equal_documents if model.decoder else _equal
    for length, count in model.equal.items():
        timed.append(equal(collections, tokenizer, length, count, dice))
    timed.append(Workload("mixed", WINDOW, encode(_candidates(collections, dice), tokenizer, WINDOW)))
    others = [pair for name in ("es", "ru", "de") for pair in squad(data / "xquad" / f"xquad.{name}.json")]
    others += squad(data / "drcd" / "dev.json")
    return Workloads(timed, encode(dice.sample(others, model.calibrate), tokenizer, WINDOW))


def _encode(texts: list[tuple[str, str]], tokenizer: Path, window: int) -> list[Pair]:
    from crossrank.pairs import PairEncoder

    encoded = PairEncoder(tokenizer, max_length=window).encode(
        [query for query, _ in texts], [text for _, text in texts]
    )
    pairs = []
    for (query, document), pair in zip(texts, encoded, strict=True):
        ids = pair.token_ids.astype(np.int64)
        kinds = np.zeros_like(ids) if pair.segment_ids is None else pair.segment_ids.astype(np.int64)
        pairs.append(Pair(query, document, ids, kinds))
    return pairs


def _encode_prompts(texts: list[tuple[str, str]], tokenizer: Path, window: int) -> list[Pair]:
    """Whole prompts; ``window`` is of the document alone."""
    prompts = Prompts(tokenizer)
    pairs = []
    for query, document in texts:
        ids, prefix = prompts.pair(query, document, window)
        pairs.append(Pair(query, document, np.array(ids), np.zeros(len(ids), np.int64), prefix))
    return pairs


def _equal_documents(
    collections: list[list[tuple[str, str]]], tokenizer: Path, length: int, count: int, dice: random.Random
) -> Workload:
    """Queries of 12 tokens, each with documents of one length."""
    prompts = Prompts(tokenizer)
    texts = [pair for collection in collections for pair in collection]
    dice.shuffle(texts)
    # MedQuAD's questions begin alike, and an engine that shares beginnings would gain by it.
    questions = [query for collection in collections[:3] for query, _ in collection]
    dice.shuffle(questions)
    queries = [query for query in questions if len(prompts.ids(" " + query)) == QUERY]
    documents: list[str] = []
    passages = iter(texts)
    while len(documents) < DOCUMENTS * count:
        # As many passages as it takes; a text that has no end at this length is passed over.
        text, found = "", None
        while found is None and len(text) < 16 * length:
            text = f"{text} {next(passages)[1]}".strip()
            found = prompts.cut(text, length)
        documents += [found] if found else []
    pairs = [
        (query, document)
        for number, query in enumerate(dict.fromkeys(queries))
        for document in documents[DOCUMENTS * number : DOCUMENTS * (number + 1)]
    ]
    if len(pairs) < DOCUMENTS * count:
        raise SystemExit(f"only {len(pairs)} pairs with documents of {length} tokens were found in the data")
    return Workload(str(length), length, _encode_prompts(pairs, tokenizer, length))


def _equal(
    collections: list[list[tuple[str, str]]], tokenizer: Path, length: int, count: int, dice: random.Random
) -> Workload:
    """Pairs cut to one length; the question is so short that every way of cutting cuts the document."""
    from crossrank.pairs import PairEncoder

    texts = [dice.choice(collection) for _ in range(max(count, 16)) for collection in collections]
    # Passages are made long enough by those of other pairs.
    others = 3 * max(1, length // WINDOW)
    texts = [
        (query, " ".join([document, *(other for _, other in dice.sample(texts, others))]))
        for query, document in texts
    ]
    # A window of 4 more than twice the question, and one token: what the document must leave it.
    whole = PairEncoder(tokenizer, max_length=max(WINDOW, length), query_share=0.9)
    short = [
        text
        for text, pair in zip(
            texts, whole.encode([query for query, _ in texts], [""] * len(texts)), strict=True
        )
        if 2 * len(pair.token_ids) <= length
    ]
    pairs = [pair for pair in _encode(short, tokenizer, length) if len(pair) == length]
    if len(pairs) < count:
        raise SystemExit(f"only {len(pairs)} pairs of {length} tokens were found in the data")
    return Workload(str(length), length, pairs[:count])


def _candidates(collections: list[list[tuple[str, str]]], dice: random.Random) -> list[tuple[str, str]]:
    """Questions with the passages that keyword search finds for them, the right one among them."""
    from crossrank.text.keywords import KeywordIndex

    texts = []
    for collection in collections:
        some = dice.sample(collection, min(400, len(collection)))
        passages = list(dict.fromkeys(document for _, document in some))
        index = KeywordIndex(passages)
        for query, document in some[:QUESTIONS]:
            scores = index.scores(query)
            best = sorted(range(len(passages)), key=lambda i: (passages[i] != document, -scores[i]))
            texts += [(query, passages[i]) for i in best[:CANDIDATES]]
    return texts
