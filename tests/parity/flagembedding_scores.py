"""Scores pairs with FlagEmbedding; run by test_flagembedding.py in FlagEmbedding's own environment.

    python flagembedding_scores.py REQUEST.json ANSWER.json

The request holds "folders", "windows" and "pairs". The answer holds, under "FOLDER WINDOW", the
"inputs" the model was called with (one pair at a time) and the "logits" and "scores" of all pairs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from FlagEmbedding import FlagReranker


def _inputs(reranker: Any, pairs: list[list[str]], window: int) -> list[dict[str, list[int]]]:
    seen: dict[str, list[int]] = {}

    def record(_: torch.nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.clear()
        seen.update({key: value[0].tolist() for key, value in kwargs.items() if torch.is_tensor(value)})

    handle = reranker.model.register_forward_pre_hook(record, with_kwargs=True)
    rows = []
    for pair in pairs:
        reranker.compute_score([pair], max_length=window)
        rows.append(dict(seen))
    handle.remove()
    return rows


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    answer = {}
    for folder in request["folders"]:
        reranker = FlagReranker(folder, use_fp16=False, devices="cpu")
        for window in request["windows"]:
            answer[f"{folder} {window}"] = {
                "inputs": _inputs(reranker, request["pairs"], window),
                "logits": reranker.compute_score(request["pairs"], max_length=window),
                "scores": reranker.compute_score(request["pairs"], max_length=window, normalize=True),
            }
    return answer


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    answers = _answer(json.loads(source.read_text(encoding="utf-8")))
    target.write_text(json.dumps(answers), encoding="utf-8")
