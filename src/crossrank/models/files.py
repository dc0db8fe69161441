"""A model folder's layout: which files it holds, which of them hold the weights, what is missing.

What modules that find, fetch and read models share.
"""

from __future__ import annotations

import json
import reprlib
from pathlib import Path

from crossrank.errors import CheckpointError

__all__ = [
    "ADAPTER",
    "INDEX",
    "LOCAL",
    "NEEDED",
    "SAFETENSORS",
    "TOKENIZER_HINT",
    "TORCH",
    "TORCH_INDEX",
    "USEFUL",
    "check_no_pointer",
    "is_complete",
    "local_place",
    "missing_file",
    "no_weights",
    "shards",
    "weight_files",
]

LOCAL = Path("models")
"""Where models of your own are looked for by their names, in the working folder."""

NEEDED = ("config.json", "tokenizer.json")
"""What a model has beside its weights."""

USEFUL = ("tokenizer_config.json", "special_tokens_map.json")
"""What it may have, and is fetched with it."""

SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
"""The weights: one file, or the index of several, or PyTorch's own; the first that is there counts."""

ADAPTER = "adapter_config.json"
"""What a folder of LoRA weights has instead."""

_POINTER = b"version https://git-lfs.github.com/spec/"

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
    for whole, index in ((SAFETENSORS, INDEX), (TORCH, TORCH_INDEX)):
        if (folder / whole).is_file():
            return [whole]
        if (folder / index).is_file():
            return shards(folder / index)
    return [SAFETENSORS]


def shards(index: Path) -> list[str]:
    """The files that an index names; they belong beside it, and may be missing.

    Raises:
        CheckpointError: it is damaged, or cannot be read.
    """
    try:
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
        good = bool(files) and all(Path(f).name == f and f.endswith(f".{suffix}") for f in files)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        check_no_pointer(index)
        good = False
    if not good:
        raise CheckpointError(
            f"{index} is damaged: it names no files beside it; copy the model again, or, "
            "for a cached one, run 'crossrank models remove' and 'pull'"
        )
    return files


def check_no_pointer(path: Path) -> None:
    """Raise CheckpointError if a file is what git-lfs puts in the place of a large one."""
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return
    if pointer:
        raise CheckpointError(
            f"{path} is only a git-lfs pointer to the file; run 'git lfs install' and 'git lfs pull' in "
            f"{path.parent}, or fetch the model with 'crossrank models pull'"
        )


def no_weights(folder: Path) -> str:
    """What is wrong with a folder that holds no weights, and what to do."""
    if not (folder / ADAPTER).is_file():
        return (
            f"{folder} has no weights: the folder must hold {SAFETENSORS} or {TORCH}, or shards with "
            f"{INDEX} or {TORCH_INDEX}; copy or pull the model again"
        )
    try:
        base = json.loads((folder / ADAPTER).read_bytes())["base_model_name_or_path"]
        of = f" of {reprlib.repr(base)}" if base else ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        of = ""
    return (
        f"{folder} is a LoRA adapter{of}, not a whole model; merge it into its base "
        "(peft: merge_and_unload(), then save_pretrained()) and give that folder"
    )


def _lacks(folder: Path, file: str) -> bool:
    path = folder / file
    return not path.is_file() or path.stat().st_size == 0
