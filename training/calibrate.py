"""Step 6: find the scale and shift that turn logits into probabilities.

This is a logistic regression on the mixture that training draws from. Groups of encyclopaedia and public
data are ones that training has not seen; written groups are a sample of all. Right and wrong texts have equal
total weights; wrong texts are both hard and unrelated ones. A score of 0.5 therefore means that a text is as
likely right as wrong if half of the texts are right. The scale is positive, so the order of texts does not
change. pack.py folds scale and shift into the head.

    python -m training.calibrate --work build/training
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from crossrank import Reranker
from training import jsonl
from training.mixture import Mixture, Pile

STEPS, SIZE = 60, 16
"""Number of steps to draw, and groups per step."""

FILES = {"reading": "calibration", "public": "public-held", "written": "written"}
"""For each pile, the name of its file."""


def fit(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The scale and shift that minimise the class-balanced cross-entropy, by L-BFGS."""
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
    parser.add_argument("--model", type=Path, help="folder of the model (default: model in --work)")
    arguments = parser.parse_args()
    folder = arguments.model or arguments.work / "model"
    reranker = Reranker(folder.absolute())
    piles = {
        name: Pile(jsonl.read(arguments.work / "data" / f"{file}.jsonl"), seed=11)
        for name, file in FILES.items()
    }
    mixture = Mixture(piles, SIZE, seed=11)
    logits, labels = [], []
    for drawn in (drawn for number in range(STEPS) for drawn in mixture.step(number)):
        found = reranker.logits([(drawn.query, text) for text in drawn.texts])
        for logit, is_right, sure in zip(found.tolist(), drawn.right, drawn.sure, strict=True):
            if is_right or sure:
                logits.append(logit)
                labels.append(float(is_right))
    x, y = torch.from_numpy(np.array(logits, np.float32)), torch.tensor(labels)
    scale, shift = fit(x, y)
    right = ((x * scale + shift > 0) == (y > 0)).float()
    balanced = (right[y > 0].mean() + right[y == 0].mean()) / 2
    result = {"scale": scale, "shift": shift, "pairs": len(y), "balanced_accuracy": float(balanced)}
    (folder / "calibration.json").write_text(json.dumps(result, indent=1) + "\n")
    print(result)


if __name__ == "__main__":
    main()
