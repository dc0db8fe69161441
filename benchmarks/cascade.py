"""What a small model before a large one saves and costs.

    python -m benchmarks.v2_m3_shape write build/bge-reranker-v2-m3
    python -m benchmarks.cascade time build/bge-reranker-v2-m3
    python -m benchmarks.cascade quality MODEL ../shared/data

``time`` ranks 100 candidates, pairs of 128 tokens, with the large model alone and after crossrank-mini, in
turns, so that what else the machine does meanwhile meets both. Random weights cost what trained ones do.

``quality`` takes a trained model. The candidates are the best 100 of BM25, over two collections:

- questions: XQuAD (English, Chinese) and CMRC 2018; asked are questions on articles that crossrank-mini was
  not trained on, and right is the paragraph that a question was asked about;
- Cranfield: abstracts on aerodynamics, a field that crossrank-mini does not know.

Both models score all candidates once, from which the order for every ``keep`` is known.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.contest.machine import processor
from crossrank import Reranker
from crossrank.cascade import KEEP
from crossrank.cli.options import parse_keep
from crossrank.data.collection import Collection, load_collection
from crossrank.data.rows import Row
from crossrank.evaluation import measure as ev
from crossrank.evaluation.cascade import Curve, curve
from training.sources import read_squad

SQUAD = ("xquad/xquad.en.json", "xquad/xquad.zh.json", "cmrc2018/dev.json")
METRICS = ("nDCG@10", "MRR@10")


def passages(count: int) -> tuple[str, list[str]]:
    """A query and passages that are longer than 128 tokens: those of ``crossrank verify``, joined."""
    lines = files("crossrank.evaluation").joinpath("verify.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines for text in json.loads(line)["documents"]]
    joined = [" ".join(texts[(i + j) % len(texts)] for j in range(12)) for i in range(count)]
    if len(set(joined)) < count:
        raise SystemExit(
            f"error: there are {len(set(joined))} different passages; equal ones are scored once"
        )
    return json.loads(lines[0])["query"], joined


def cpu() -> str:
    """The processor, and its instruction sets for matrices."""
    name, instructions = processor()
    return f"{name} ({', '.join(instructions)})" if instructions else name


def take_times(large: Reranker, both: Reranker, count: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of a ranking by the large model alone, and by both, in turns."""
    query, documents = passages(count)
    taken: tuple[list[float], list[float]] = ([], [])
    for reranker in (large, both):  # warm up, and see to it that every pair is cut to the same length
        if not all(hit.truncated for hit in reranker.rank(query, documents)):
            raise SystemExit("error: a passage is too short")
    for _ in range(repeats):
        for reranker, seconds in zip((large, both), taken, strict=True):
            began = time.perf_counter()
            reranker.rank(query, documents)
            seconds.append(time.perf_counter() - began)
    return taken


def print_times(arguments: argparse.Namespace) -> None:
    options: dict[str, Any] = {"device": "cpu", "max_length": arguments.tokens, "threads": arguments.threads}
    first = Reranker(arguments.first, **options)
    large = Reranker(arguments.model, precision=arguments.precision, **options)
    # The same loaded model: its weights are in memory once.
    both = Reranker.from_parts(large.encoder, large.engine, first=first, keep=arguments.keep)
    alone, cascade = take_times(large, both, arguments.candidates, arguments.repeats)
    middle = statistics.median(alone), statistics.median(cascade)
    print(f"{cpu()}; {large.engine.name} engine, {large.engine.precision}")
    print(
        f"{arguments.candidates} candidates of {arguments.tokens} tokens, {len(alone)} rankings of each kind"
    )
    for name, seconds, median in (
        (f"{large.model.name} alone", alone, middle[0]),
        (f"{first.model.name}, then {large.model.name} on {arguments.keep}", cascade, middle[1]),
    ):
        print(f"{name}: {median:.3f} s (median; {min(seconds):.3f} to {max(seconds):.3f})")
    print(f"{middle[0] / middle[1]:.2f} times as fast")


def questions(data: Path, count: int) -> Collection:
    """Questions on held-out articles, over the paragraphs of all articles."""
    texts: dict[str, str] = {}
    asked: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for name in SQUAD:
        for is_held_out, part in read_squad(data / name, Path(name).stem).items():
            places = [str(len(texts) + i) for i in range(len(part.paragraphs))]
            texts |= dict(zip(places, part.paragraphs, strict=True))
            for question in part.questions if is_held_out else ():
                query = str(len(asked))
                asked[query], qrels[query] = question.text, {places[question.paragraph]: 1}
    return some(
        Collection("questions", asked, qrels, lambda: ((i, i, text) for i, text in texts.items())), count
    )


def some(collection: Collection, count: int) -> Collection:
    """A collection with so many of its queries."""
    chosen = random.Random(0).sample(list(collection.queries), min(count, len(collection.queries)))
    collection.queries = {query: collection.queries[query] for query in chosen}
    collection.qrels = {
        query: {document: max(0, label) for document, label in collection.qrels[query].items()}
        for query in chosen
    }
    return collection


def ranked(reranker: Reranker, rows: Sequence[Row]) -> ev.System:
    """The scores of all candidates by one model."""
    began = time.perf_counter()
    rankings = list(reranker.rank_many((row.query, [text for _, text in row.documents]) for row in rows))
    seconds = time.perf_counter() - began
    run = {
        str(row.id): {str(row.documents[hit.index].id): hit.logit for hit in ranking}
        for row, ranking in zip(rows, rankings, strict=True)
    }
    engine, pairs = reranker.engine, sum(map(len, rankings))
    cost = ev.Cost(engine.name, engine.device, engine.precision, pairs, 0.0, seconds, 0)
    return ev.System(reranker.model.name, run, cost=cost)


def measure(collection: Collection, first: Reranker, large: Reranker, depth: int) -> Curve:
    """The curve of a collection."""
    texts = collection.texts()
    rows = ev.candidates(collection, texts, ev.first_stage(collection, texts, depth).run, depth)
    metrics = ev.parse_metrics(METRICS)
    return curve(ranked(first, rows), ranked(large, rows), rows, qrels=collection.qrels, metrics=metrics)


def table(found: Curve) -> str:
    """The curve in Markdown."""
    lines = [f"| keep | same top {found.top_n} | {' | '.join(METRICS)} | pairs | faster |", "|---" * 6 + "|"]
    assert found.large.cost is not None
    for point in found.points:
        measures = " | ".join(f"{point.measures[name]:.4f}" for name in METRICS)
        faster = found.large.cost.seconds / point.seconds if point.seconds else 0.0
        lines.append(
            f"| {point.keep} | {point.agreement:.1%} | {measures} | {point.share:.0%} | {faster:.1f}x |"
        )
    return "\n".join(lines)


def print_quality(arguments: argparse.Namespace) -> None:
    first = Reranker(arguments.first, threads=arguments.threads)
    large = Reranker(arguments.model, precision=arguments.precision, threads=arguments.threads)
    print(f"{cpu()}; {first.model.name}, then {large.model.name} ({large.engine.precision})")
    collections = (
        questions(arguments.data, arguments.queries),
        some(load_collection(str(arguments.data / "cranfield")), arguments.queries),
    )
    for collection in collections:
        found = measure(collection, first, large, arguments.candidates)
        print(f"\n{collection.name}: {len(found.needed)} queries, the best {arguments.candidates} of BM25")
        print(f"keep for the same top {found.top_n} in 99 % of the queries: {found.least(0.99)}\n")
        print(table(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    quality = commands.add_parser("quality")
    for command in (timing, quality):
        command.add_argument("model", help="the large model: a name or a folder")
        command.add_argument("--first", default="crossrank-mini")
        command.add_argument("--precision", default="auto")
        command.add_argument("--threads", type=int)
        command.add_argument("--candidates", type=int, default=100)
    timing.add_argument("--keep", type=parse_keep, default=KEEP)
    timing.add_argument("--tokens", type=int, default=128)
    timing.add_argument("--repeats", type=int, default=5)
    quality.add_argument("data", type=Path)
    quality.add_argument("--queries", type=int, default=300)
    arguments = parser.parse_args()
    (print_times if arguments.command == "time" else print_quality)(arguments)


if __name__ == "__main__":
    main()
