"""A model folder's layout: which files it holds, which of them hold the weights, what is missing.

What modules that find, fetch and read models share.
"""

from __future__ import annotations

import json
from pathlib import Path

from crossrank.errors import CheckpointError

__all__ = [
    "INDEX",
    "LOCAL",
    "NEEDED",
    "SAFETENSORS",
    "TOKENIZER_HINT",
    "TORCH",
    "USEFUL",
    "is_complete",
    "local_place",
    "missing_file",
    "shards",
    "weight_files",
]

LOCAL = Path("models")
"""Where models of your own are looked for by their names, in the working folder."""

NEEDED = ("config.json", "tokenizer.json")
"""What a model has beside its weights."""

USEFUL = ("tokenizer_config.json", "special_tokens_map.json")
"""What it may have, and is fetched with it."""

SAFETENSORS, INDEX, TORCH = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
"""The weights: one file, or the index of several, or PyTorch's own; the first that is there counts."""

TOKENIZER_HINT = (
    "write one in a copy of it: transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
)
"""What to do about a model without tokenizer.json."""


def local_place(name: str) -> Path:
    """The folder in ./models that serves for a hub's name."""
    return (LOCAL / name.rpartition("/")[2]).absolute()


def missing_file(folder: Path) -> str | None:
    """The first file that a checkpoint needs and this folder lacks; None: it is complete."""
    for file in NEEDED:
        if _lacks(folder, file):
            return file
    return next((file for file in weight_files(folder) if _lacks(folder, file)), None)


def is_complete(folder: Path) -> bool:
    """Whether no file is missing, and no index damaged."""
    try:
        return missing_file(folder) is None
    except CheckpointError:
        return False


def weight_files(folder: Path) -> list[str]:
    """The files that hold a folder's weights; model.safetensors where it has none of them.

    Raises:
        CheckpointError: the index is damaged, or cannot be read.
    """
    # An empty file counts, as it does for transformers: what it hides would not be read.
    if not (folder / SAFETENSORS).is_file():
        if (folder / INDEX).is_file():
            return shards(folder / INDEX)
        if (folder / TORCH).is_file():
            return [TORCH]
    return [SAFETENSORS]


def shards(index: Path) -> list[str]:
    """The files that an index names; they belong beside it, and may be missing.

    Raises:
        CheckpointError: it is damaged, or cannot be read.
    """
    try:
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        good = bool(files) and all(Path(file).name == file for file in files)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise CheckpointError(
            f"{index} is damaged: it names no files beside it; copy the model again, or, "
            "for a cached one, run 'crossrank models remove' and 'pull'"
        )
    return files


def _lacks(folder: Path, file: str) -> bool:
    path = folder / file
    return not path.is_file() or path.stat().st_size == 0
