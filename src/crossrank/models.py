"""A model's name to a folder with its checkpoint: bundled, local, in the cache, or from a hub.

The hub is Hugging Face's or HF_ENDPOINT; HF_HOME (or HF_HUB_CACHE), HF_TOKEN and HF_HUB_OFFLINE
are respected too, and read at each call. The cache is the one that huggingface_hub keeps, in its own layout.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from crossrank.errors import (
    CheckpointError,
    InputError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)

__all__ = ["BUNDLED", "Source", "StoredModel", "cached_folder", "remove", "resolve", "stored_models"]

BUNDLED = "crossrank-mini"
"""The model that ships inside the package."""

Source: TypeAlias = Literal["hub", "modelscope"]
Place: TypeAlias = Literal["bundled", "local", "cached"]

_BUNDLED_FOLDER = Path(__file__).parent / "bundled"
_LOCAL = Path("models")
_NEEDED = ("config.json", "tokenizer.json")
_USEFUL = ("tokenizer_config.json", "special_tokens_map.json")
_SAFETENSORS, _INDEX, _TORCH = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_TOKENIZER_HINT = (
    "write one in a copy of it: transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
)
_NAME = re.compile(r"([A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NETWORK_MODULES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}
_BARS = "huggingface_hub.http_get"

_log = logging.getLogger(__name__)
_one_pull = threading.Lock()  # progress bars are switched for the whole process


def resolve(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    offline: bool = False,
    source: Source = "hub",
    progress: bool = False,
) -> Path:
    """The folder with a model's config.json, tokenizer.json and weights; fetched if need be.

    Looked for in this order: the bundled model, a folder, ``./models/<last part of the name>``,
    the cache, the hub. A cached model is used without the network where ``revision`` is a full
    commit hash; otherwise the hub is asked for news, and the cached copy serves where it cannot
    be reached.

    Args:
        model: "crossrank-mini", a hub name such as "BAAI/bge-reranker-v2-m3", or a folder.
        revision: commit, branch or tag; None: the default branch.
        offline: never ask the network.
        source: "hub" or "modelscope".
        progress: draw a progress bar on stderr while weights are fetched.

    Raises:
        InputError: ``source`` is unknown, or ``revision`` is given with a folder.
        ModelNotFoundError: no such model, or it could not be fetched.
        CheckpointError: a file is missing or damaged.
        UnsupportedModelError: the model has no weights, or no tokenizer, that CrossRank reads.
    """
    if source not in get_args(Source):
        raise InputError(f"source is {source!r}; it must be one of {', '.join(get_args(Source))}")
    folder = _local_folder(model)
    if folder is None:
        name = _checked_name(os.fspath(model))
        local = _LOCAL / name.rpartition("/")[2]
        if (local / "config.json").is_file():
            return _checked_folder(local)
        if source == "modelscope":
            return _from_modelscope(name, revision, offline, progress)
        return _from_hub(name, revision, offline, progress)
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
        files = {path.resolve() for path in folder.rglob("*") if path.is_file()}
        size = sum(path.stat().st_size for path in files)
        found.append(StoredModel(name, place, folder, size, revision, _is_complete(folder)))

    if (_BUNDLED_FOLDER / "config.json").is_file():
        add(BUNDLED, "bundled", _BUNDLED_FOLDER)
    for config in sorted(_LOCAL.glob("*/config.json")):
        add(config.parent.name, "local", config.parent)
    for config in sorted(_cache().glob("models--*/snapshots/*/config.json")):
        if _is_classifier(config):
            name = config.parts[-4].removeprefix("models--").replace("--", "/")
            add(name, "cached", config.parent, config.parts[-2])
    return found


def cached_folder(name: str) -> tuple[Path, int]:
    """A model's folder in the hub's cache, and the bytes that it takes there.

    Raises:
        InputError: the model is bundled, or a folder of your own.
        ModelNotFoundError: it is not in the cache.
    """
    if name == BUNDLED:
        raise InputError(f"{name} is part of the package and cannot be removed")
    own = _local_folder(name)
    folder = _repo_folder(_checked_name(name)) if own is None else _cache()
    if own is None and not folder.is_dir() and _local_place(name).is_dir():
        own = _local_place(name)
    if own is not None:
        raise InputError(f"{name} is not in the cache but a folder of your own; delete it yourself: {own}")
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{name} is not in the cache {_cache()}; 'crossrank models list' shows what is"
        )
    return folder, sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def remove(name: str) -> int:
    """Delete every revision of a model from the hub's cache; returns the bytes freed.

    Raises:
        InputError: the model is bundled, or a folder of your own.
        ModelNotFoundError: it is not in the cache.
    """
    folder, size = cached_folder(name)
    from huggingface_hub import scan_cache_dir

    scan = scan_cache_dir(_cache())
    commits = [rev.commit_hash for repo in scan.repos if repo.repo_path == folder for rev in repo.revisions]
    scan.delete_revisions(*commits).execute()
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted pull has left
    shutil.rmtree(_cache() / ".locks" / folder.name, ignore_errors=True)
    return size


def _local_folder(model: str | os.PathLike[str]) -> Path | None:
    """The folder that is meant; None: a name is meant."""
    if model == BUNDLED:
        return _BUNDLED_FOLDER
    text = os.fspath(model)
    path = Path(text).expanduser()
    if text.strip() and path.is_dir():
        return path
    # "a/b" is a hub's name; other things with a separator can only be folders.
    is_path = not isinstance(model, str) or text.startswith((".", "~", "/")) or "\\" in text
    if "://" not in text and (is_path or text.count("/") > 1 or text.endswith("/")):
        what = "is a file; give its folder" if path.is_file() else "does not exist"
        raise ModelNotFoundError(f"the model folder {path} {what} (looked from {Path.cwd()})")
    return None


def _checked_name(name: str) -> str:
    good = _NAME.fullmatch(name) and not re.search(r"\.\.|--", name) and not name.endswith((".", "-", ".git"))
    if not good or len(name) > 96:
        raise ModelNotFoundError(
            f"{name!r} is not a model's name; it must be {BUNDLED!r}, a folder, or a hub's name "
            "such as 'BAAI/bge-reranker-v2-m3' (without the hub's address)"
        )
    return name


def _missing_file(folder: Path) -> str | None:
    """The first file that a checkpoint needs and this folder lacks; None: it is complete."""

    def lacks(file: str) -> bool:
        path = folder / file
        return not path.is_file() or path.stat().st_size == 0

    for file in _NEEDED:
        if lacks(file):
            return file
    if not lacks(_SAFETENSORS):
        return None
    if not lacks(_INDEX):
        return next((shard for shard in _shards(folder / _INDEX) if lacks(shard)), None)
    return _SAFETENSORS if lacks(_TORCH) else None


def _is_complete(folder: Path) -> bool:
    try:
        return _missing_file(folder) is None
    except CheckpointError:
        return False


def _shards(index: Path) -> list[str]:
    try:
        files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        good = bool(files) and all(Path(file).name == file for file in files)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise CheckpointError(
            f"{index} is damaged: it names no files beside it; copy the model again, or, "
            "for a cached one, run 'crossrank models remove' and 'pull'"
        )
    return files


def _checked_folder(folder: Path) -> Path:
    missing = _missing_file(folder)
    if missing is None:
        return folder.absolute()
    if folder == _BUNDLED_FOLDER:
        raise CheckpointError(f"the bundled model has no {missing} in {folder}; install crossrank again")
    hint = "copy the model's whole folder there again"
    if missing == "tokenizer.json" and (folder / "config.json").is_file():
        hint = _TOKENIZER_HINT
    elif missing == _SAFETENSORS:
        hint = f"the weights must be {_SAFETENSORS}, or its shards with {_INDEX}, or {_TORCH}"
    raise CheckpointError(f"the model folder {folder.absolute()} has no {missing}, or it is empty; {hint}")


def _is_classifier(config: Path) -> bool:
    try:
        names = json.loads(config.read_bytes()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any("SequenceClassification" in str(name) for name in names)


# huggingface_hub is imported late: the bundled model does not need it. It reads its
# environment once, at import; here it is read at each call, so that a program can set it.


def _endpoint() -> str:
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _cache() -> Path:
    from huggingface_hub import constants

    place = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not place and os.environ.get("HF_HOME"):
        place = str(Path(os.environ["HF_HOME"]) / "hub")
    return Path(os.path.expandvars(place or constants.HF_HUB_CACHE)).expanduser().absolute()


def _hub_is_offline() -> bool:
    from huggingface_hub import constants

    wish = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return wish.upper() in {"1", "ON", "YES", "TRUE"} or constants.HF_HUB_OFFLINE


def _repo_folder(name: str) -> Path:
    return _cache() / ("models--" + name.replace("/", "--"))


def _from_hub(name: str, revision: str | None, offline: bool, progress: bool) -> Path:
    cached = _cached_snapshot(name, revision or "main")
    offline = offline or _hub_is_offline()
    if cached is not None and (offline or _COMMIT.fullmatch(revision or "")):
        return cached
    if offline:
        raise ModelNotFoundError(
            f"{_with_revision(name, revision)} is not, or not wholly, in the cache {_cache()}, and the "
            f"network is off (offline, or HF_HUB_OFFLINE); run 'crossrank models pull {name}' with a "
            f"network, or copy the model's folder to {_local_place(name)}"
        )
    try:
        with _one_pull:
            return _pull(name, revision, progress)
    except ModelError:
        raise
    except Exception as error:
        reason, cached_copy_serves = _explain(error, name, revision)
        if not reason:
            raise
        if cached is None or not cached_copy_serves:
            raise ModelNotFoundError(reason) from error
        _log.warning("%s. Going on with the cached copy, commit %s", reason, cached.name)
        return cached


def _cached_snapshot(name: str, ref: str) -> Path | None:
    """The snapshot that a commit, branch or tag had when last seen, if it is complete."""
    repo = _repo_folder(name)
    commit = ref
    if not _COMMIT.fullmatch(ref):
        try:
            commit = (repo / "refs" / ref).read_text().strip()
        except (OSError, ValueError):
            return None
    folder = repo / "snapshots" / commit
    return folder if commit and _is_complete(folder) else None


def _pull(name: str, revision: str | None, progress: bool) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = _endpoint()
    info = HfApi(endpoint=endpoint, library_name="crossrank").model_info(name, revision=revision, timeout=10)
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise ValueError("it names no commit")
    folder = _repo_folder(name) / "snapshots" / info.sha

    def fetch(file: str) -> None:
        if not (folder / file).exists():
            if file not in ("config.json", *_USEFUL, _INDEX):
                _fetch_large(name, file, info.sha or "", endpoint, progress)
            with _progress_bars(False):
                hf_hub_download(name, file, revision=info.sha, cache_dir=_cache(), endpoint=endpoint)

    # Weights come last: where they are, the rest is.
    for file in _choose_files(name, [sibling.rfilename for sibling in info.siblings or []]):
        fetch(file)
        if file == _INDEX:
            for shard in _shards(folder / file):
                fetch(shard)
    missing = _missing_file(folder)
    if missing is not None:
        raise CheckpointError(f"{folder} has no {missing}, or it is empty, in {name} on {endpoint}")
    # Last of all the ref, so that a branch in the cache points at a whole snapshot.
    ref = _repo_folder(name) / "refs" / (revision or "main")
    if revision != info.sha and not (ref.is_file() and ref.read_text() == info.sha):
        with contextlib.suppress(OSError):  # the cache may be read-only, and the model is there
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(info.sha)
    return folder


def _choose_files(name: str, files: list[str]) -> list[str]:
    """Of a repo's files the ones to fetch: one kind of weights, and those last."""
    for file in _NEEDED:
        if file not in files:
            hint = _TOKENIZER_HINT if file == "tokenizer.json" else "is it a transformers model?"
            raise UnsupportedModelError(f"{name} has no {file}; {hint}")
    weights = next((file for file in (_SAFETENSORS, _INDEX, _TORCH) if file in files), None)
    if weights is None:
        others = [
            file for file in files if file.endswith((".onnx", ".gguf", ".h5", ".msgpack", ".bin", ".pt"))
        ]
        raise UnsupportedModelError(
            f"{name} has no weights that CrossRank reads ({_SAFETENSORS} or {_TORCH}); "
            f"it has {', '.join(others[:3]) or 'none of any kind'}: take the model that it was made from"
        )
    return [file for file in (*_NEEDED, *_USEFUL, weights) if file in files]


def _fetch_large(name: str, file: str, commit: str, endpoint: str, progress: bool) -> None:
    """Put a large file into the cache as a blob, going on from where an earlier try ended.

    huggingface_hub would do it too, but it throws a broken download away (since 1.x), and 2 GB
    over a poor line never come whole.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(name, file, revision=commit, endpoint=endpoint)
    wanted = get_hf_file_metadata(url)
    if not wanted.size or not _SHA256.fullmatch(wanted.etag or ""):
        return  # small, kept in git itself
    blob = _repo_folder(name) / "blobs" / str(wanted.etag)
    part = blob.with_name(f"{blob.name}.part")
    lock = _cache() / ".locks" / _repo_folder(name).name / f"{blob.name}.lock"
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    headers = {**build_hf_headers(library_name="crossrank"), "Accept-Encoding": "identity"}
    with WeakFileLock(lock), _progress_bars(progress):
        if blob.exists():
            return
        while (have := part.stat().st_size if part.exists() else 0) < wanted.size:
            if shutil.disk_usage(part.parent).free < wanted.size - have:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))
            try:
                with part.open("ab") as out:
                    http_get(
                        url,
                        out,
                        resume_size=have,
                        headers=headers,
                        expected_size=wanted.size,
                        displayed_filename=file,
                    )
            except Exception as error:
                # A line that breaks now and then is good enough, as long as each try brings something.
                if not _is_network(error) or part.stat().st_size == have:
                    raise
        digest = hashlib.sha256()
        with part.open("rb") as written:
            while block := written.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != wanted.etag:
            part.unlink()
            raise CheckpointError(f"{file} of {name} came damaged from {endpoint} and was deleted; try again")
        part.replace(blob)


@contextlib.contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """Whether huggingface_hub draws its bars; HF_HUB_DISABLE_PROGRESS_BARS decides where it is set."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if wanted or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled(_BARS):
        yield
        return
    disable_progress_bars(_BARS)
    try:
        yield
    finally:
        enable_progress_bars(_BARS)


def _with_revision(name: str, revision: str | None) -> str:
    return f"{name} (revision {revision})" if revision else name


def _local_place(name: str) -> Path:
    return (_LOCAL / name.rpartition("/")[2]).absolute()


def _is_network(error: BaseException) -> bool:
    """Whether the line broke; a consistency error is a line that was closed early."""
    if type(error).__module__.partition(".")[0] in _NETWORK_MODULES:
        return True
    return isinstance(error, (ConnectionError, TimeoutError)) or "Consistency check" in str(error)


def _explain(error: BaseException, name: str, revision: str | None) -> tuple[str, bool]:
    """What went wrong and what to do, and whether a cached copy will do; ("", False): a bug."""
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    hub, page, cache = _endpoint(), f"{_endpoint()}/{name}", _cache()
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = str(error).strip().partition("\n")[0] or type(error).__name__
    elsewhere = (
        "set HF_ENDPOINT to a mirror, or take it from ModelScope (--from modelscope, source='modelscope'), "
        f"or copy the model's folder to {_local_place(name)}"
    )
    serves = True
    if isinstance(error, errors.GatedRepoError):
        reason = f"{name} is gated: ask for access on {page}, then set HF_TOKEN to a token of yours"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"{name} on {hub} has no revision {revision!r}; see {page}/commits/main"
        serves = False
    elif isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not get_token()):
        reason = (
            f"there is no model {name} on {hub}, or it is private: check the spelling ({page}); "
            f"for a private model set HF_TOKEN; for a folder of yours: {Path(name).absolute()} is none"
        )
    elif status in (401, 403):
        reason = f"{hub} refused {name} with status {status}: check HF_TOKEN, and your access on {page}"
    elif status is not None:
        reason = f"{hub} answered with status {status} for {name}; try again later, or {elsewhere}"
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        reason = (
            f"the disk is full: no room for {name} in {cache}; free some, or set HF_HOME to a folder on a "
            "larger disk; what has come is kept"
        )
    elif isinstance(error, (ValueError, KeyError)):
        reason = f"{hub} does not answer as a hub does ({cause}); check HF_ENDPOINT, or {elsewhere}"
    elif _is_network(error) or isinstance(error, errors.LocalEntryNotFoundError):
        reason = (
            f"could not fetch {name} from {hub} ({cause}); try again (what has come is kept), or {elsewhere}"
        )
    elif isinstance(error, OSError):
        reason = f"cannot write {name} to {cache} ({cause}); set HF_HOME to a folder that you may write to"
    else:
        return "", False
    return reason, serves


def _from_modelscope(name: str, revision: str | None, offline: bool, progress: bool) -> Path:
    """Fetch through ModelScope's own client, into its own cache; it resumes by itself."""
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise ModelNotFoundError(
            f"{name} is wanted from ModelScope, whose client is not installed: "
            "pip install 'crossrank[modelscope]'"
        ) from error
    first = [*_NEEDED, *_USEFUL, _SAFETENSORS, _INDEX, "model-*-of-*.safetensors"]
    missing: str | None = _SAFETENSORS
    try:
        # Its client prints where it likes, but stdout is for data.
        with _one_pull, contextlib.redirect_stdout(sys.stderr), _tqdm_bars(progress):
            for patterns in (first, [_TORCH]):
                if missing == _SAFETENSORS:
                    folder = Path(
                        snapshot_download(
                            name, revision=revision, allow_patterns=patterns, local_files_only=offline
                        )
                    )
                    missing = _missing_file(folder)
    except ModelError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        hint = "check the network"
        if offline:
            hint = "the network is off (offline), and it is not in ModelScope's cache: pull it first"
        elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            hint = "the disk is full: set MODELSCOPE_CACHE to a folder on a larger disk"
        elif status in (401, 403, 404):
            hint = "check the name and the revision, and MODELSCOPE_API_TOKEN for a private model"
        raise ModelNotFoundError(
            f"could not get {_with_revision(name, revision)} from ModelScope ({cause}); {hint}, "
            f"or copy the model's folder to {_local_place(name)}"
        ) from error
    if missing is not None:
        raise CheckpointError(f"{name} on ModelScope has no {missing} ({folder})")
    return folder


@contextlib.contextmanager
def _tqdm_bars(wanted: bool) -> Iterator[None]:
    # ModelScope's client always draws; tqdm itself is the only switch.
    from tqdm import tqdm  # type: ignore[import-untyped]

    draw = tqdm.__init__
    if not wanted:
        tqdm.__init__ = partialmethod(draw, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = draw
