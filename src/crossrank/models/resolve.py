"""Resolve a model's name to the folder of its checkpoint: bundled, local, cached, or from a hub."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from crossrank.errors import CheckpointError, InputError, ModelNotFoundError
from crossrank.models.files import (
    ADAPTER,
    LOCAL,
    NEEDED,
    SAFETENSORS,
    TOKENIZER_HINT,
    check_no_pointer,
    is_complete,
    local_place,
    missing_file,
    no_weights,
)
from crossrank.models.hub import from_hub, hub_cache, repo_folder
from crossrank.models.modelscope import from_modelscope

__all__ = ["BUNDLED", "Source", "StoredModel", "cached_folder", "remove", "resolve", "stored_models"]

BUNDLED = "crossrank-mini"
"""The model that ships inside the package."""

Source: TypeAlias = Literal["hub", "modelscope"]
Place: TypeAlias = Literal["bundled", "local", "cached"]

_BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled"
_NAME = re.compile(r"([A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)


def resolve(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    source: Source = "hub",
    progress: bool = False,
    refresh: bool = False,
) -> Path:
    """Return the folder with a model's config.json, tokenizer.json and weights, and fetch it if needed.

    A model is looked for in this order: the bundled model, a folder, ``./models/<last part of the name>``,
    the cache, the hub.

    Args:
        model: "crossrank-mini", a hub name such as "BAAI/bge-reranker-v2-m3", or a folder.
        revision: commit, branch or tag; None means the default branch.
        offline: never use the network.
        source: "hub" or "modelscope".
        progress: draw a progress bar on stderr while weights are fetched.
        refresh: ask the hub for a newer version even if the model is cached. If the hub cannot be reached,
            the cached copy is used.

    Raises:
        InputError: ``model`` or ``source`` is not valid, or ``revision`` is given with a folder.
        ModelNotFoundError: there is no such model, or it could not be fetched.
        CheckpointError: a file is missing or damaged.
        UnsupportedModelError: the model has no weights, or no tokenizer, that CrossRank reads.
    """
    if source not in get_args(Source):
        raise InputError(f"source is {source!r}; it must be one of {', '.join(get_args(Source))}")
    folder = _local_folder(model)
    if folder is None:
        name = _checked_name(os.fspath(model))
        local = LOCAL / name.rpartition("/")[2]
        if revision is None and (local / "config.json").is_file():
            return _checked_folder(local)
        if source == "modelscope":
            return from_modelscope(name, revision, offline, progress)
        return from_hub(name, revision, offline, progress, refresh)
    if revision is not None:
        raise InputError(f"revision is {revision!r}, but {model} is a folder: it has no revisions")
    return _checked_folder(folder)


@dataclass(frozen=True)
class StoredModel:
    """A model on this machine; ``size`` is in bytes.

    ``revision`` is the commit of a cached model; ``complete`` is False after an interrupted pull.
    """

    name: str
    place: Place
    path: Path
    size: int
    revision: str | None = None
    complete: bool = True


def stored_models() -> list[StoredModel]:
    """The bundled model, the folders in ./models, and the cross-encoders in the hub's cache."""
    found: list[StoredModel] = []

    def add(name: str, place: Place, folder: Path, revision: str | None = None) -> None:
        size = 0
        with contextlib.suppress(OSError):  # a file may be unreadable, or have just been deleted
            files = {path.resolve() for path in folder.rglob("*") if path.is_file()}
            size = sum(path.stat().st_size for path in files)
        found.append(StoredModel(name, place, folder, size, revision, is_complete(folder)))

    if (_BUNDLED_FOLDER / "config.json").is_file():
        add(BUNDLED, "bundled", _BUNDLED_FOLDER)
    for config in sorted(LOCAL.glob("*/config.json")):
        add(config.parent.name, "local", config.parent)
    for config in sorted(hub_cache().glob("models--*/snapshots/*/config.json")):
        if _is_classifier(config):
            name = config.parts[-4].removeprefix("models--").replace("--", "/")
            add(name, "cached", config.parent, config.parts[-2])
    return found


def cached_folder(name: str) -> tuple[Path, int]:
    """A model's folder in the hub's cache, and its size in bytes.

    Raises:
        InputError: the model is bundled, or a folder of your own.
        ModelNotFoundError: it is not in the cache.
    """
    if name == BUNDLED:
        raise InputError(f"{name} is part of the package and cannot be removed")
    own = _local_folder(name)
    folder = repo_folder(_checked_name(name)) if own is None else hub_cache()
    if own is None and not folder.is_dir() and local_place(name).is_dir():
        own = local_place(name)
    if own is not None:
        raise InputError(f"{name} is a folder of your own, not in the cache; delete it yourself: {own}")
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{name} is not in the cache {hub_cache()}; 'crossrank models list' shows the models that are"
        )
    return folder, sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def remove(name: str) -> int:
    """Delete every revision of a model from the hub's cache, and return the number of bytes freed.

    Raises:
        InputError: the model is bundled, or a folder of your own.
        ModelNotFoundError: it is not in the cache.
    """
    folder, size = cached_folder(name)
    from huggingface_hub import scan_cache_dir

    scan = scan_cache_dir(hub_cache())
    commits = [rev.commit_hash for repo in scan.repos if repo.repo_path == folder for rev in repo.revisions]
    scan.delete_revisions(*commits).execute()
    shutil.rmtree(folder, ignore_errors=True)  # leftovers of an interrupted pull
    shutil.rmtree(hub_cache() / ".locks" / folder.name, ignore_errors=True)
    return size


def _local_folder(model: str | os.PathLike[str]) -> Path | None:
    """The folder that ``model`` means; None if it is a model's name."""
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"model is {model!r}; it must be a name or a folder")
    if model == BUNDLED:
        return _BUNDLED_FOLDER
    text = os.fspath(model)
    path = Path(text).expanduser()
    if text.strip() and path.is_dir():
        return path
    # "a/b" is a hub name; anything else with a separator can only be a folder.
    is_path = not isinstance(model, str) or text.startswith((".", "~", "/")) or "\\" in text
    if "://" not in text and (is_path or text.count("/") > 1 or text.endswith("/")):
        what = "is a file; give its folder" if path.is_file() else "does not exist"
        raise ModelNotFoundError(f"the model folder {path} {what} (the working directory is {Path.cwd()})")
    return None


def _checked_name(name: str) -> str:
    good = _NAME.fullmatch(name) and not re.search(r"\.\.|--", name) and not name.endswith((".", "-", ".git"))
    if not good or len(name) > 96:
        raise ModelNotFoundError(
            f"{name!r} is not a model's name; it must be {BUNDLED!r}, a folder, or a hub name "
            "such as 'BAAI/bge-reranker-v2-m3' (without the hub's address)"
        )
    return name


def _checked_folder(folder: Path) -> Path:
    missing = missing_file(folder)
    if missing is None:
        for file in NEEDED:
            check_no_pointer(folder / file)
        return folder.absolute()
    if folder == _BUNDLED_FOLDER:
        raise CheckpointError(f"the bundled model has no {missing} in {folder}; reinstall crossrank")
    if missing == SAFETENSORS or (missing == "config.json" and (folder / ADAPTER).is_file()):
        raise CheckpointError(no_weights(folder.absolute()))
    hint = "copy the model's whole folder there again"
    if missing == "tokenizer.json" and (folder / "config.json").is_file():
        hint = TOKENIZER_HINT
    raise CheckpointError(f"the model folder {folder.absolute()} has no {missing}, or it is empty; {hint}")


def _is_classifier(config: Path) -> bool:
    """True if a config.json may belong to a cross-encoder, or to a language model that ranks."""
    try:
        found = json.loads(config.read_bytes())
        names = found.get("architectures")
        if names:
            from crossrank.models.templates import may_rank  # numpy comes with it

            is_classifier = any("SequenceClassification" in str(name) for name in names)
            return is_classifier or may_rank(config.parent, found)
        return len(found.get("id2label") or ()) == 1 or found.get("num_labels") == 1
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, CheckpointError):
        return False
