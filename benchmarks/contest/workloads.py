"""The pairs of the contest: texts of real data, and the token ids that CrossRank's encoder makes of them."""

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

EQUAL = {32: 128, 128: 64, 512: 16}
"""Pairs of each length."""
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
            return [[p.query, p.document, p.token_ids.tolist(), p.segment_ids.tolist()] for p in pairs]

        timed = [{"name": w.name, "window": w.window, "pairs": plain(w.pairs)} for w in self.timed]
        content = {"timed": timed, "calibration": plain(self.calibration)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workloads:
        def pairs(rows: list[list[Any]]) -> list[Pair]:
            return [
                Pair(q, d, np.array(ids, np.int64), np.array(kinds, np.int64)) for q, d, ids, kinds in rows
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


def make(data: Path, tokenizer: Path, calibrate: int) -> Workloads:
    """Workloads of a model with this tokenizer; ``calibrate``: how many pairs to calibrate with."""
    collections = [
        list(squad(data / "xquad" / "xquad.en.json")),
        list(squad(data / "xquad" / "xquad.zh.json")),
        list(squad(data / "cmrc2018" / "dev.json")),
        list(medquad(data / "medquad" / "medquad.jsonl.gz")),
    ]
    dice = random.Random(0)
    timed = [_equal(collections, tokenizer, length, dice) for length in EQUAL]
    timed.append(Workload("mixed", WINDOW, _encode(_candidates(collections, dice), tokenizer, WINDOW)))
    others = [pair for name in ("es", "ru", "de") for pair in squad(data / "xquad" / f"xquad.{name}.json")]
    others += squad(data / "drcd" / "dev.json")
    return Workloads(timed, _encode(dice.sample(others, calibrate), tokenizer, WINDOW))


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


def _equal(
    collections: list[list[tuple[str, str]]], tokenizer: Path, length: int, dice: random.Random
) -> Workload:
    """Pairs cut to one length; the question is so short that every way of cutting cuts the document."""
    from crossrank.pairs import PairEncoder

    texts = [dice.choice(collection) for _ in range(EQUAL[length]) for collection in collections]
    # Passages are made long enough by those of other pairs.
    texts = [
        (query, " ".join([document, *(other for _, other in dice.sample(texts, 3))]))
        for query, document in texts
    ]
    # A window of 4 more than twice the question, and one token: what the document must leave it.
    whole = PairEncoder(tokenizer, max_length=WINDOW, query_share=0.9)
    short = [
        text
        for text, pair in zip(
            texts, whole.encode([query for query, _ in texts], [""] * len(texts)), strict=True
        )
        if 2 * len(pair.token_ids) <= length
    ]
    pairs = [pair for pair in _encode(short, tokenizer, length) if len(pair) == length]
    if len(pairs) < EQUAL[length]:
        raise SystemExit(f"only {len(pairs)} pairs of {length} tokens were found in the data")
    return Workload(str(length), length, pairs[: EQUAL[length]])


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
