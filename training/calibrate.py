"""Step 4: find the scale and shift that turn logits into probabilities.

Logistic regression on groups that training has not seen, positives and negatives weighted
equally: a score of 0.5 means that a text is as likely to answer as not, where half of the
candidates do. The scale is positive, so no order changes. pack.py folds both into the head.

    python training/calibrate.py --work build/training
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jsonl
import numpy as np
import torch

from crossrank import Reranker


def fit(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Scale and shift with the least class-balanced cross-entropy, by L-BFGS."""
    weight = torch.where(labels > 0, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    log_scale, shift = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        fitted = logits * log_scale.exp() + shift
        loss = torch.nn.functional.binary_cross_entropy_with_logits(fitted, labels, weight=weight)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_scale.exp()), float(shift)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    work = parser.parse_args().work
    reranker = Reranker((work / "model").absolute())
    logits, labels = [], []
    for group in jsonl.read(work / "data" / "calibration.jsonl"):
        # The positive comes first.
        logits.append(reranker.logits([(group["query"], text) for text in group["texts"]]))
        labels += [1.0] + [0.0] * (len(group["texts"]) - 1)
    x, y = torch.from_numpy(np.concatenate(logits)), torch.tensor(labels)
    scale, shift = fit(x, y)
    right = ((x * scale + shift > 0) == (y > 0)).float()
    balanced = (right[y > 0].mean() + right[y == 0].mean()) / 2
    result = {"scale": scale, "shift": shift, "pairs": len(y), "balanced_accuracy": float(balanced)}
    (work / "model" / "calibration.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
