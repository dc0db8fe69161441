"""Step 7: compress a trained model into the folder that ships with the package.

The embedding table was not trained, so it is stored in exactly the 4 bits that it came from. The other
matrices become int8 with a scale per row; vectors stay fp32. The calibrated scale and shift are applied to
the last layer, so that the sigmoid of a logit is a probability on held-out data.

    python -m training.pack --work build/training --out src/crossrank/bundled
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from crossrank.models.checkpoint import BLOCK, Checkpoint

NAME = "crossrank-mini"

WINDOW = 256
"""Tokens of the longest pairs in training (mixture.py): what long documents are read in by default."""


def to_int8(matrix: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Quantise symmetrically per row: int8 (rows, columns) and float32 scales (rows,)."""
    scale = np.maximum(np.abs(matrix).max(axis=1) / 127, 1e-12).astype(np.float32)
    return np.round(matrix / scale[:, None]).astype(np.int8), scale


def to_int4(matrix: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Quantise per block of 32 in a row: uint8 (rows, columns / 2) and float16 scales (rows, columns / 32).

    The value with the largest magnitude becomes nibble 0 (-8), and the scale takes its sign. The starting
    weights were made in the same way, so a table from 4 bits is restored bit for bit.
    """
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows, columns // BLOCK, BLOCK)
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[:, :, None], 2)[:, :, 0]
    scale = (peak / -8).astype(np.float16)
    safe = np.where(scale == 0, 1, scale).astype(np.float32)[:, :, None]
    nibbles = np.clip(np.round(blocks / safe) + 8, 0, 15).astype(np.uint8)
    halves = nibbles[:, :, : BLOCK // 2] | nibbles[:, :, BLOCK // 2 :] << 4
    return halves.reshape(rows, columns // 2), scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--model", type=Path, help="folder of the model (default: model in --work)")
    parser.add_argument("--out", type=Path, default=Path("src/crossrank/bundled"))
    arguments = parser.parse_args()
    source, out = arguments.model or arguments.work / "model", arguments.out
    weights = load_file(source / "model.safetensors")
    calibration = source / "calibration.json"
    scale, shift = 1.0, 0.0
    if calibration.exists():
        fitted = json.loads(calibration.read_text())
        scale, shift = fitted["scale"], fitted["shift"]
    weights["classifier.weight"] = weights["classifier.weight"] * np.float32(scale)
    weights["classifier.bias"] = weights["classifier.bias"] * np.float32(scale) + np.float32(shift)
    match = json.loads((source / "config.json").read_text()).get("crossrank", {}).get("match")
    if match:
        weights["match.factor"] = weights["match.factor"] * np.float32(scale)

    stored: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in sorted(weights.items()):
        if name.endswith("word_embeddings.weight"):
            stored[f"{name}.int4"], stored[f"{name}.scale"] = to_int4(value)
        elif value.ndim == 2 and min(value.shape) > 2:
            stored[f"{name}.int8"], stored[f"{name}.scale"] = to_int8(value)
        elif value.dtype == np.float32:
            stored[name] = value
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"model": NAME, "licence": "Apache-2.0; start: intfloat/multilingual-e5-small, MIT"}
    save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, out / "model.safetensors", metadata)
    (out / "model.safetensors").chmod(0o644)
    config = json.loads((arguments.work / "start" / "model" / "config.json").read_text())
    own = {"compressed": 1, "window": WINDOW} | ({"match": match} if match else {})
    config |= {"_name_or_path": NAME, "crossrank": own}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((arguments.work / "start" / "model" / name).read_bytes())

    restored = Checkpoint(out).tensors()
    for name, value in weights.items():
        if name in restored:
            worst = float(np.abs(restored[name] - value).max())
            if name.endswith("word_embeddings.weight") or value.ndim == 1:
                print(f"{name}: largest difference {worst:.2e}") if worst else None
    size = sum(path.stat().st_size for path in out.glob("*") if path.is_file())
    print(
        f"{out}: {size / 1e6:.1f} MB, of them weights {(out / 'model.safetensors').stat().st_size / 1e6:.1f}"
    )


if __name__ == "__main__":
    main()
