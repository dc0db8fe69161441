"""How many candidates to fetch: quality and time against their number, on real data.

    python -m benchmarks.candidates ../shared/data
    python -m benchmarks.candidates ../shared/data --write docs  # tables and picture of docs/integrations*.md

The first stage is that of examples/rag.py (BM25 and vectors, fused), over two collections:

- questions: XQuAD (English, Chinese) and CMRC 2018, whose paragraphs are cut into passages as the example
  does it; asked are questions on articles that crossrank-mini was not trained on, and a passage of the
  question's paragraph that has the answer in it is right;
- Cranfield: abstracts on aerodynamics, a field that crossrank-mini does not know.

Each query's candidates are scored once, to the largest number; a pair's logit does not depend on which others
are scored, so that the order of fewer is known too. Times are of ``Reranker.rank`` for one query, the median.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
from ir_measures import Success, nDCG

from benchmarks.contest.machine import processor
from crossrank import Reranker
from crossrank.data.collection import load_collection
from crossrank.data.trec import Qrels
from examples.rag import FirstStage, split
from training.sources import read_squad

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (1, 3, 5, 10, 20, 30, 50, 100)
SQUAD = ("xquad/xquad.en.json", "xquad/xquad.zh.json", "cmrc2018/dev.json")
TIMED = 15
"""Queries whose time is taken for each number of candidates."""


@dataclass(frozen=True)
class Judged:
    """Texts by id, queries by id, and how well texts answer them."""

    name: str
    texts: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels


@dataclass(frozen=True)
class Point:
    """What a number of candidates gives and costs.

    Attributes:
        found: share of queries with a right text among the candidates: what no reranker can exceed.
        ndcg: nDCG@10 after CrossRank.
        first: share of queries whose first text is right, after CrossRank.
        milliseconds: of ``rank`` for one query, median.
    """

    count: int
    found: float
    ndcg: float
    first: float
    milliseconds: float


@dataclass(frozen=True)
class Curve:
    """Of one collection; ``before`` is the first stage alone."""

    name: str
    queries: int
    texts: int
    before: Point
    points: list[Point]


def questions(files: Sequence[Path], count: int) -> Judged:
    """Questions on held-out articles, over the passages of all articles."""
    texts: dict[str, str] = {}
    asked: dict[str, str] = {}
    qrels: Qrels = {}
    for file in files:
        for is_held_out, part in read_squad(file, file.stem).items():
            places = []
            for paragraph in part.paragraphs:
                found = {str(len(texts) + i): one.text for i, one in enumerate(split(paragraph, file.stem))}
                texts |= found
                places.append(found)
            for question in part.questions if is_held_out else ():
                found = places[question.paragraph]
                right = {id_: 1 for id_, text in found.items() if any(a in text for a in question.answers)}
                if right:
                    id_ = str(len(asked))
                    asked[id_], qrels[id_] = question.text, right
    return Judged("questions", texts, _some(asked, count), qrels)


def cranfield(folder: Path, count: int) -> Judged:
    """Cranfield's queries and abstracts."""
    collection = load_collection(str(folder))
    right = {
        query: {id_: max(0, label) for id_, label in labels.items()}
        for query, labels in collection.qrels.items()
    }
    asked = {query: text for query, text in collection.queries.items() if any(right[query].values())}
    return Judged("Cranfield", collection.texts(), _some(asked, count), right)


def _some(queries: Mapping[str, str], count: int) -> dict[str, str]:
    chosen = random.Random(0).sample(list(queries), min(count, len(queries)))
    return {query: queries[query] for query in chosen}


def measure(judged: Judged, reranker: Reranker, counts: Sequence[int]) -> Curve:
    """The curve of a collection."""
    ids = list(judged.texts)
    stage = FirstStage(list(judged.texts.values()))
    candidates = {
        query: [ids[place] for place in stage.search(text, max(counts))]
        for query, text in judged.queries.items()
    }
    requests = [
        (judged.queries[query], [judged.texts[id_] for id_ in found]) for query, found in candidates.items()
    ]
    orders = {
        query: [hit.index for hit in ranking]
        for query, ranking in zip(candidates, reranker.rank_many(requests), strict=True)
    }
    seconds = _seconds(reranker, requests, counts)
    points = []
    for count in counts:
        after = {query: [candidates[query][i] for i in order if i < count] for query, order in orders.items()}
        points.append(_point(judged, count, candidates, after, seconds[count]))
    before = _point(judged, max(counts), candidates, candidates, 0.0)
    return Curve(judged.name, len(requests), len(ids), before, points)


def _seconds(
    reranker: Reranker, requests: Sequence[tuple[str, list[str]]], counts: Sequence[int]
) -> dict[int, float]:
    """Of each number of candidates, in turns: what else the machine does meanwhile meets all of them."""
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for query, documents in requests[:TIMED]:
        for count in counts:
            began = time.perf_counter()
            reranker.rank(query, documents[:count])
            taken[count].append(time.perf_counter() - began)
    return {count: statistics.median(seconds) for count, seconds in taken.items()}


def _point(
    judged: Judged,
    count: int,
    candidates: Mapping[str, list[str]],
    after: Mapping[str, list[str]],
    seconds: float,
) -> Point:
    qrels = {query: judged.qrels[query] for query in judged.queries}
    found = Success @ count
    some = ir_measures.calc_aggregate([found], qrels, _run(candidates))
    ordered = ir_measures.calc_aggregate([nDCG @ 10, Success @ 1], qrels, _run(after))
    return Point(count, some[found], ordered[nDCG @ 10], ordered[Success @ 1], 1000 * seconds)


def _run(found: Mapping[str, list[str]]) -> dict[str, dict[str, float]]:
    return {query: {id_: -float(rank) for rank, id_ in enumerate(ids)} for query, ids in found.items()}


def table(curve: Curve, words: Sequence[str]) -> str:
    """Markdown; ``words`` are the heads of its columns, and what the first stage alone is called."""
    *heads, alone = words
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines.append(f"| {alone} | | {curve.before.first:.2f} | {curve.before.ndcg:.3f} | |")
    lines += [
        f"| {p.count} | {p.found:.2f} | {p.first:.2f} | {p.ndcg:.3f} | {p.milliseconds:.0f} |"
        for p in curve.points
    ]
    return "\n".join(lines)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Quality above, time below, a column for each collection."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "crossrank", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        2, len(curves), figsize=(4.2 * len(curves), 4.6), sharex=True, squeeze=False, height_ratios=[2, 1]
    )
    for column, curve in enumerate(curves):
        counts = [point.count for point in curve.points]
        top, bottom = axes[0][column], axes[1][column]
        top.plot(
            counts, [point.found for point in curve.points], "--", color="#888888", label="candidates hold it"
        )
        top.plot(
            counts, [point.first for point in curve.points], "o-", color="#c44e52", label="first is right"
        )
        top.plot(counts, [point.ndcg for point in curve.points], "s-", color="#4c72b0", label="nDCG@10")
        top.axhline(curve.before.ndcg, color="#4c72b0", linewidth=0.8, linestyle=":", label="nDCG@10 before")
        top.set_title(f"{curve.name}: {curve.queries} queries, {curve.texts:,} texts")
        top.set_xscale("log")
        top.set_ylim(0, 1)
        bottom.plot(counts, [point.milliseconds for point in curve.points], "o-", color="#55a868")
        bottom.set_ylim(0)
        bottom.set_xticks(counts, [str(count) for count in counts])
        bottom.minorticks_off()
        bottom.set_xlabel("candidates")
    axes[0][0].legend(loc="lower right")
    axes[1][0].set_ylabel("ms per query")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


ENGLISH = ("candidates", "right one among them", "first is right", "nDCG@10", "ms", "first stage alone")
CHINESE = ("候选数", "候选中有正确者", "第一名正确", "nDCG@10", "毫秒", "只有第一阶段")
PAGES = {"integrations.md": ENGLISH, "integrations.zh-CN.md": CHINESE}


KEYS = ("questions", "Cranfield", "note")
"""The marks in a page: the names of the collections, and the line below the tables."""


def put(page: Path, text: str, key: str, part: str) -> str:
    """The text of a page with a new part between its marks."""
    begin, end = f"<!-- {key} -->\n", f"<!-- end {key} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"error: {page} has no marks {begin.strip()} and {end.strip()}")
    return f"{before}{begin}{part}\n{end}{after}"


def check(folder: Path) -> None:
    """See to it before the measurement that the pages have their marks."""
    for page in (folder / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        for key in KEYS:
            put(page, text, key, "")


def write(curves: Sequence[Curve], note: str, folder: Path) -> None:
    """Put the picture, the tables and the note into the pages, between their marks."""
    draw(curves, folder / "candidates.svg")
    for name, words in PAGES.items():
        page = folder / name
        text = page.read_text(encoding="utf-8")
        parts = [*(table(curve, words) for curve in curves), note]
        for key, part in zip(KEYS, parts, strict=True):
            text = put(page, text, key, part)
        page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder with xquad/, cmrc2018/ and cranfield/")
    parser.add_argument("--model", default="crossrank-mini")
    parser.add_argument("--queries", type=int, default=100, help="of each collection")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write into the pages of this folder")
    given = parser.parse_args()
    if given.write:
        check(given.write)
    reranker = Reranker(given.model)
    curves = [
        measure(judged, reranker, sorted(given.counts))
        for judged in (
            questions([given.data / file for file in SQUAD], given.queries),
            cranfield(given.data / "cranfield", given.queries),
        )
    ]
    engine = reranker.engine
    cores = len(os.sched_getaffinity(0))
    note = f"{given.model}, {engine.precision}, {engine.name} engine, {cores} cores of {processor()[0]}"
    for curve in curves:
        print(f"\n{curve.name}: {curve.queries} queries over {curve.texts} texts\n\n{table(curve, ENGLISH)}")
    print(f"\n{note}")
    if given.write:
        write(curves, note, given.write)


if __name__ == "__main__":
    main()
