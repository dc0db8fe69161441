"""A model folder's layout: which files it has, which of them hold weights, and which are missing.

The modules that find, fetch and read models share it.
"""

from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path
from typing import Any

from crossrank.errors import CheckpointError

__all__ = [
    "ADAPTER",
    "CARD",
    "INDEX",
    "LOCAL",
    "MODULES",
    "NEEDED",
    "SAFETENSORS",
    "TOKENIZER_HINT",
    "TORCH",
    "TORCH_INDEX",
    "USEFUL",
    "check_no_pointer",
    "is_complete",
    "is_decoder",
    "local_place",
    "missing_file",
    "module_files",
    "module_folders",
    "no_weights",
    "read_object",
    "shards",
    "weight_files",
]

LOCAL = Path("models")
"""Folder, in the working directory, in which a user's own models are found by name."""

NEEDED = ("config.json", "tokenizer.json")
"""Files that every model has, apart from its weights."""

USEFUL = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "chat_template.jinja",
)
"""Files that a model may have, and that are fetched with it."""

CARD = "README.md"
"""The page of a model, which says what a language model was made from."""

SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The weights in safetensors' format: one file, or the index of several (shards)."""

TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
"""The weights in PyTorch's format, which are used if there are none in safetensors' format."""

ADAPTER = "adapter_config.json"
"""The file by which a folder of LoRA weights, which is not a whole model, is recognised."""

_POINTER = b"version https://git-lfs.github.com/spec/"

MODULES = "modules.json"
"""sentence-transformers' list of modules: a cross-encoder may have its head in some of them."""

_DECODER = re.compile(rb'"(Qwen\d|Llama|Mistral|Gemma)\w*For\w+"')
_MODULE_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MODULES_WITH_WEIGHTS = ("Dense", "LayerNorm")

TOKENIZER_HINT = (
    "write one into a copy of it: transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
)
"""What to do about a model without tokenizer.json."""


def local_place(name: str) -> Path:
    """The folder in ./models that is used for a hub name."""
    return (LOCAL / name.rpartition("/")[2]).absolute()


def missing_file(folder: Path) -> str | None:
    """The first file that a checkpoint needs and this folder lacks; None if the folder is complete.

    Raises:
        CheckpointError: an index of shards is damaged, or cannot be read.
    """
    for file in NEEDED:
        if _lacks(folder, file):
            return file
    return next(
        (file for file in [*module_files(folder), *weight_files(folder)] if _lacks(folder, file)), None
    )


def is_complete(folder: Path) -> bool:
    """True if no file is missing and no index is damaged."""
    try:
        return missing_file(folder) is None
    except CheckpointError:
        return False


def is_decoder(folder: Path) -> bool:
    """Whether config.json names a class of language models, as far as it can be read."""
    try:
        return _DECODER.search((folder / "config.json").read_bytes()) is not None
    except OSError:
        return False


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a folder's weights; model.safetensors if there are no weights.

    Raises:
        CheckpointError: the index is damaged, or cannot be read.
    """
    # An empty file counts as present, as it does in transformers, which would not read the others either.
    for whole, index in ((SAFETENSORS, INDEX), (TORCH, TORCH_INDEX)):
        if (folder / whole).is_file():
            return [whole]
        if (folder / index).is_file():
            return shards(folder / index)
    return [SAFETENSORS]


def module_folders(folder: Path) -> list[tuple[str, str]]:
    """The modules after the transformer: the class of each, without its package, and its folder.

    Raises:
        CheckpointError: modules.json is damaged, or names a folder elsewhere.
    """
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        modules = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in _entries(path)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        check_no_pointer(path)
        raise CheckpointError(f"{path} is damaged: it is no list of modules ({error})") from error
    for kind, place in modules:
        if place and not _MODULE_FOLDER.fullmatch(place):
            raise CheckpointError(
                f"{path} names {reprlib.repr(place)} for {kind}, which is no folder beside it"
            )
    return [(kind, place) for kind, place in modules[1:] if place]


def read_object(path: Path) -> tuple[dict[str, Any], bytes]:
    """The object in a JSON file, and the file's bytes.

    Raises:
        CheckpointError: it cannot be read, or has something else.
    """
    try:
        text = path.read_bytes()
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        check_no_pointer(path)
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} has no JSON object")
    return found, text


def _entries(path: Path) -> list[dict[str, object]]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, list):
        raise TypeError("it holds no list")
    return found


def module_files(folder: Path) -> list[str]:
    """Names of the configs and weights of the modules after the transformer.

    Raises:
        CheckpointError: as ``module_folders``.
    """
    found = []
    for kind, place in module_folders(folder):
        if kind in ("Pooling", "LogitScore", *_MODULES_WITH_WEIGHTS):
            found.append(f"{place}/config.json")
        if kind in _MODULES_WITH_WEIGHTS:
            whole = next((f for f in (SAFETENSORS, TORCH) if (folder / place / f).is_file()), SAFETENSORS)
            found.append(f"{place}/{whole}")
    return found


def shards(index: Path) -> list[str]:
    """Names of the shards that an index lists. They belong in the index's folder, and may be missing.

    Raises:
        CheckpointError: the index is damaged, or cannot be read.
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
            f"{index} is damaged: it does not list files of its own folder; copy the model again, or, "
            "if it is in the cache, run 'crossrank models remove' and 'crossrank models pull'"
        )
    return files


def check_no_pointer(path: Path) -> None:
    """Raise CheckpointError if a file is only git-lfs's pointer to the real one."""
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
    """The message for a folder without weights: what is wrong, and what to do."""
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
