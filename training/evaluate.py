"""Step 6: measure the packed model beside BM25 and the bi-encoder it started from.

nDCG@10 by ir-measures over the candidates in data/eval; the first stage is BM25. What was
measured is kept for each set, so that an interrupted run resumes.

    python training/evaluate.py --work build/training --model src/crossrank/bundled --questions 30
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import jsonl
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from crossrank import Reranker
from crossrank.keywords import KeywordIndex

Scorer = Callable[[str, list[str]], Any]
MAX_LENGTH = 256


class BiEncoder:
    """The start itself: cosine of mean-pooled embeddings, with e5's own prefixes."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_LENGTH)
        self.tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
        self.model: Any = AutoModel.from_pretrained(folder).eval()

    def embed(self, texts: list[str]) -> torch.Tensor:
        encodings = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([e.ids for e in encodings])
        mask = torch.tensor([e.attention_mask for e in encodings])
        with torch.inference_mode():
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)

    def __call__(self, query: str, documents: list[str]) -> Any:
        order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
        scores = np.zeros(len(documents))
        wanted = self.embed([f"query: {query}"])[0]
        for at in range(0, len(order), 8):
            part = order[at : at + 8]
            scores[part] = (self.embed([f"passage: {documents[i]}" for i in part]) @ wanted).numpy()
        return scores


def bm25(query: str, documents: list[str]) -> Any:
    return KeywordIndex(documents).scores(query)


def ndcg(rows: list[Any], scorer: Scorer) -> float:
    run, qrels = [], []
    for number, row in enumerate(rows):
        scores = scorer(row["query"], row["documents"])
        for i, (score, label) in enumerate(zip(scores, row["labels"], strict=True)):
            run.append(ir_measures.ScoredDoc(str(number), str(i), float(score)))
            qrels.append(ir_measures.Qrel(str(number), str(i), label))
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--model", type=Path, default=Path("src/crossrank/bundled"))
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--sets", nargs="+", default=["*"], help="names, with wildcards")
    arguments = parser.parse_args()
    reranker = Reranker(arguments.model.absolute(), max_length=MAX_LENGTH)

    def cross_encoder(query: str, documents: list[str]) -> Any:
        return reranker.logits([(query, document) for document in documents])

    scorers: dict[str, Scorer] = {"BM25": bm25}
    scorers |= {"e5-small": BiEncoder(arguments.work / "start" / "model"), "crossrank-mini": cross_encoder}
    kept = arguments.work / "evaluation.json"
    table: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    folder = arguments.work / "data" / "eval"
    for path in [path for name in arguments.sets for path in sorted(folder.glob(f"{name}.jsonl"))]:
        if path.stem in table:
            continue
        rows = jsonl.read(path)[: arguments.questions]
        table[path.stem] = {name: ndcg(rows, scorer) for name, scorer in scorers.items()}
        kept.write_text(json.dumps(table, indent=1) + "\n")
    print("| set | " + " | ".join(scorers) + " |\n|---|" + "---:|" * len(scorers))
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{row[scorer]:.3f}" for scorer in scorers) + " |")
    means = {scorer: np.mean([row[scorer] for row in table.values()]) for scorer in scorers}
    print("| macro mean | " + " | ".join(f"{means[scorer]:.3f}" for scorer in scorers) + " |")


if __name__ == "__main__":
    main()
