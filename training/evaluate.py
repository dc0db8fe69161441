r"""Step 9: compare rerankers with BM25, the starting bi-encoder, and the fusion of the two.

Every system ranks the same candidates of the same questions, and ir-measures computes nDCG@10 and MRR@10
for each question. The scores of each set are saved, so that an interrupted run can be resumed and a system
can be added later. Intervals are 95 %, by bootstrap over the questions of each set; differences are paired
(both systems on the same resampled questions).

    python -m training.evaluate --work build/training --questions 40 \
        --model crossrank-mini=src/crossrank/bundled
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import torch

from crossrank import Reranker
from crossrank.engines import Precision
from crossrank.evaluation.measure import bootstrap
from crossrank.models.content import read_content
from crossrank.text.keywords import KeywordIndex
from training import jsonl
from training.teacher import BiEncoder

Scores = np.ndarray[Any, Any]
Scorer = Callable[[str, list[str]], Scores]

MAX_LENGTH = 512
"""Maximum tokens of a pair, crossrank's default, and of a text for the bi-encoder."""

MEASURES = {"nDCG@10": ir_measures.nDCG @ 10, "MRR@10": ir_measures.RR @ 10}
KINDS = {"macro mean": "*", "of the sentence sets": "*sentence", "of the paragraph sets": "*paragraph"}
FUSION = "e5-small + BM25"


def bm25(query: str, documents: list[str]) -> Scores:
    scores: Scores = KeywordIndex(documents).scores(query)
    return scores


def standardised(scores: Scores) -> Scores:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else scores * 0


def fused(*scores: Scores) -> Scores:
    """The sum of the standardised scores of several systems."""
    total: Scores = np.sum([standardised(np.asarray(s, np.float64)) for s in scores], axis=0)
    return total


def bi_encoder(folder: Path, query_prefix: str = "", text_prefix: str = "") -> Scorer:
    """Score by cosine similarity. bf16 is twice as fast as fp32 and changes cosines by at most 0.001."""
    encoder = BiEncoder(folder, torch.bfloat16, MAX_LENGTH)
    known: dict[str, Scores] = {}

    def score(query: str, documents: list[str]) -> Scores:
        # The questions of a set share most of their candidates, so embeddings are kept.
        needed = [query_prefix + query, *(text_prefix + text for text in documents)]
        missing = [text for text in dict.fromkeys(needed) if text not in known]
        known.update(zip(missing, encoder.embed(missing), strict=True))
        return np.array([known[text] @ known[needed[0]] for text in needed[1:]])

    return score


def cross_encoder(folder: Path, precision: Precision, threads: int) -> Scorer:
    reranker = Reranker(folder.absolute(), max_length=MAX_LENGTH, precision=precision, threads=threads)

    def score(query: str, documents: list[str]) -> Scores:
        return reranker.logits([(query, document) for document in documents])

    return score


def measured(rows: list[Any], scores: list[list[float]]) -> dict[str, list[float]]:
    """The value of each measure for each question."""
    run, qrels = [], []
    for number, (row, found) in enumerate(zip(rows, scores, strict=True)):
        for i, (score, label) in enumerate(zip(found, row["labels"], strict=True)):
            run.append(ir_measures.ScoredDoc(f"{number}", f"{i}", float(score)))
            qrels.append(ir_measures.Qrel(f"{number}", f"{i}", label))
    values = {name: [0.0] * len(rows) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for metric in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        values[names[metric.measure]][int(metric.query_id)] = round(float(metric.value), 6)
    return values


def interval(sets: list[Scores], seed: int = 7) -> tuple[float, float, float]:
    """The mean over sets of the mean over questions, and its 95 % interval."""
    return float(np.mean([x.mean() for x in sets])), *bootstrap(sets, seed)


def report(table: dict[str, Any], systems: list[str], subject: str) -> None:
    """Print both measures for each set, and the differences of the subject from each other system."""
    for measure in MEASURES:
        print(f"\n| {measure} | questions | " + " | ".join(systems) + " |")
        print("|---|" + "---:|" * (len(systems) + 1))
        for name, row in table.items():
            n = len(row[subject][measure])
            cells = [f"{np.mean(row[s][measure]):.3f}" if s in row else "" for s in systems]
            print(f"| {name} | {n} | " + " | ".join(cells) + " |")
        for title, pattern in KINDS.items():
            chosen = [row for name, row in table.items() if fnmatch.fnmatch(name, pattern)]
            if not chosen:
                continue
            cells = []
            for system in systems:
                mean, low, high = interval([np.array(row[system][measure]) for row in chosen])
                cells.append(f"{mean:.3f} ({low:.3f} to {high:.3f})")
            n = sum(len(row[subject][measure]) for row in chosen)
            print(f"| {title} | {n} | " + " | ".join(cells) + " |")
    for other in (system for system in systems if system != subject):
        print(f"\n{subject} minus {other}, nDCG@10 (* if the interval excludes 0):")
        worse = better = 0
        every = {n: np.array(r[subject]["nDCG@10"]) - np.array(r[other]["nDCG@10"]) for n, r in table.items()}
        for name, difference in every.items():
            mean, low, high = interval([difference])
            better, worse = better + (mean > 0), worse + (high < 0)
            print(f"  {name}: {mean:+.3f} ({low:+.3f} to {high:+.3f}){'*' if low > 0 or high < 0 else ''}")
        mean, low, high = interval(list(every.values()))
        print(f"  macro mean: {mean:+.3f} ({low:+.3f} to {high:+.3f})")
        print(f"  better on {better} of {len(every)} sets, significantly worse on {worse}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    bundled = ["crossrank-mini=src/crossrank/bundled"]
    parser.add_argument("--model", nargs="+", default=bundled, help="NAME=FOLDER")
    parser.add_argument(
        "--bi-encoder", nargs="*", default=[], help="NAME=FOLDER of a mean-pooled bi-encoder without prefixes"
    )
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--sets", nargs="+", default=["*"], help="names of sets; wildcards are allowed")
    parser.add_argument("--precision", default="auto", help="precision of the cross-encoders")
    parser.add_argument("--subject", help="system to compare with the others (default: the last one)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    e5 = bi_encoder(arguments.work / "start" / "model", "query: ", "passage: ")
    scorers: dict[str, Scorer] = {"BM25": bm25, "e5-small": e5}
    others = dict(item.split("=", 1) for item in arguments.bi_encoder)
    for name, path in others.items():
        scorers[name] = bi_encoder(Path(path))
    models = dict(item.split("=", 1) for item in arguments.model)
    for name, path in models.items():
        scorers[name] = cross_encoder(Path(path), arguments.precision, arguments.threads)
    keys = {name: name for name in scorers}
    for name, path in (others | models).items():  # the same name may be another model's next time
        weights = read_content(Path(path), sorted(Path(path).glob("*.safetensors")))
        keys[name] = f"{name} {arguments.precision} {weights.digest[:12]}"
    folder, kept = arguments.work / "data" / "eval", arguments.work / "evaluation"
    kept.mkdir(exist_ok=True)
    table: dict[str, Any] = {}
    files = [file for name in arguments.sets for file in sorted(folder.glob(f"{name}.jsonl"))]
    for data in dict.fromkeys(files):
        rows = jsonl.read(data)[: arguments.questions]
        file = kept / data.name.replace(".jsonl", f".{len(rows)}.json")
        scores: dict[str, list[list[float]]] = json.loads(file.read_text()) if file.exists() else {}
        for name, scorer in scorers.items():
            if keys[name] not in scores:
                scores[keys[name]] = [
                    [float(s) for s in scorer(row["query"], row["documents"])] for row in rows
                ]
                file.write_text(json.dumps(scores) + "\n")
        pairs = zip(scores["e5-small"], scores["BM25"], strict=True)
        scores[FUSION] = [fused(np.array(a), np.array(b)).tolist() for a, b in pairs]
        table[data.stem] = {
            name: measured(rows, scores[key]) for name, key in (keys | {FUSION: FUSION}).items()
        }
        means = {s: round(float(np.mean(v["nDCG@10"])), 3) for s, v in table[data.stem].items()}
        print(data.stem, means, flush=True)
    systems = ["BM25", "e5-small", FUSION, *others, *models]
    report(table, systems, arguments.subject or systems[-1])


if __name__ == "__main__":
    main()
