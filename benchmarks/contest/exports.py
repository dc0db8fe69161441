"""What is exported to ONNX and to OpenVINO where Optimum has no way for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contest import gte, yes_no
from benchmarks.contest.base import Side

NAMES = ["input_ids", "attention_mask"]


def module(side: Side) -> Any | None:
    """A PyTorch module of NAMES, padded on the right; None: Optimum exports the checkpoint itself."""
    if side.decodes:
        return yes_no.load(side.checkpoint, "float32", traced=True)
    if side.config["model_type"] == "new":
        return gte.load(side.checkpoint)
    return None


def to_onnx(model: Any, path: Path) -> None:
    """Export a module with batches and lengths of any size."""
    import torch

    torch.onnx.export(
        model,
        _example(),
        str(path),
        input_names=NAMES,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in NAMES},
        dynamo=False,
    )


def to_openvino(model: Any) -> Any:
    """The same for OpenVINO."""
    import openvino

    return openvino.convert_model(model, example_input=dict(zip(NAMES, _example(), strict=True)))


def _example() -> tuple[Any, Any]:
    import torch

    return torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long)
