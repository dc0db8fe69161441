"""Fetch a model from the Hugging Face hub, or from the hub that HF_ENDPOINT names.

HF_HOME (or HF_HUB_CACHE), HF_TOKEN and HF_HUB_OFFLINE are respected too, and read at each call. Models are
stored in huggingface_hub's own cache, in its layout.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from crossrank.errors import (
    CheckpointError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from crossrank.models.files import (
    ADAPTER,
    CARD,
    INDEX,
    MODULES,
    NEEDED,
    SAFETENSORS,
    TOKENIZER_HINT,
    TORCH,
    TORCH_INDEX,
    USEFUL,
    is_complete,
    is_decoder,
    local_place,
    missing_file,
    module_folders,
    shards,
)
from crossrank.models.network import environment_fault

__all__ = ["from_hub", "hub_cache", "hub_endpoint", "repo_folder", "with_revision"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NETWORK_MODULES = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}
_BARS = "huggingface_hub.http_get"

_pull_lock = threading.Lock()
"""Held during every pull, because progress bars are turned on and off for the whole process."""

_log = logging.getLogger(__name__)


# huggingface_hub is imported late, since the bundled model does not need it. It reads environment variables
# once, at import; this module reads them at each call, so that a program can change them.


def hub_endpoint() -> str:
    """The URL of the hub: HF_ENDPOINT, or Hugging Face's own."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def hub_cache() -> Path:
    """The folder of huggingface_hub's cache."""
    from huggingface_hub import constants

    place = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not place and os.environ.get("HF_HOME"):
        place = str(Path(os.environ["HF_HOME"]) / "hub")
    return Path(os.path.expandvars(place or constants.HF_HUB_CACHE)).expanduser().absolute()


def _hub_is_offline() -> bool:
    from huggingface_hub import constants

    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"} or constants.HF_HUB_OFFLINE


def repo_folder(name: str) -> Path:
    """A model's folder in the cache; it need not exist."""
    return hub_cache() / ("models--" + name.replace("/", "--"))


def from_hub(name: str, revision: str | None, offline: bool, progress: bool, refresh: bool) -> Path:
    """Return a model's snapshot in the cache, and fetch it if needed; see ``models.resolve``."""
    cached = _cached_snapshot(name, revision or "main")
    offline = offline or _hub_is_offline()
    if cached is not None and (offline or not refresh or _COMMIT.fullmatch(revision or "")):
        return cached
    if offline:
        raise ModelNotFoundError(
            f"{with_revision(name, revision)} is missing or incomplete in the cache {hub_cache()}, and "
            f"offline mode is on; fetch it with 'crossrank models pull {name}' "
            f"(HF_HUB_OFFLINE unset), or copy the model's folder to {local_place(name)}"
        )
    try:
        with _pull_lock:
            return _pull(name, revision, progress)
    except ModelError:
        raise
    except Exception as error:
        reason, may_use_cached = _explain(error, name, revision)
        if not reason:
            raise
        if cached is None or not may_use_cached:
            raise ModelNotFoundError(reason) from error
        _log.warning("%s. Using the cached copy, commit %s", reason, cached.name)
        return cached


def _cached_snapshot(name: str, ref: str) -> Path | None:
    """The snapshot of a commit, branch or tag as it was last seen; None if it is incomplete."""
    repo = repo_folder(name)
    commit = ref
    if not _COMMIT.fullmatch(ref):
        try:
            commit = (repo / "refs" / ref).read_text().strip()
        except (OSError, ValueError):
            return None
    folder = repo / "snapshots" / commit
    return folder if commit and is_complete(folder) else None


def _pull(name: str, revision: str | None, progress: bool) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    endpoint = hub_endpoint()
    info = HfApi(endpoint=endpoint, library_name="crossrank").model_info(name, revision=revision, timeout=10)
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise ValueError("the answer names no commit")
    folder = repo_folder(name) / "snapshots" / info.sha

    def fetch(file: str) -> None:
        if not (folder / file).exists():
            if file not in ("config.json", *USEFUL, CARD, INDEX, TORCH_INDEX):
                _fetch_large(name, file, info.sha or "", endpoint, progress)
            with _progress_bars(False):
                hf_hub_download(name, file, revision=info.sha, cache_dir=hub_cache(), endpoint=endpoint)

    # Weights are fetched last: if they are there, so is everything else.
    files = [sibling.rfilename for sibling in info.siblings or []]
    for file in _choose_files(name, files):
        fetch(file)
        if file == "config.json" and CARD in files and is_decoder(folder):
            fetch(CARD)
        if file == MODULES:
            for _, place in module_folders(folder):
                for part in (
                    "config.json",
                    next((f for f in (SAFETENSORS, TORCH) if f"{place}/{f}" in files), ""),
                ):
                    if part and f"{place}/{part}" in files:
                        fetch(f"{place}/{part}")
        if file in (INDEX, TORCH_INDEX):
            for shard in shards(folder / file):
                fetch(shard)
    missing = missing_file(folder)
    if missing is not None:
        raise CheckpointError(f"{name} on {endpoint} has no {missing}, or it is empty ({folder})")
    # The ref is written at the very end, so that a branch in the cache points at a complete snapshot.
    ref = repo_folder(name) / "refs" / (revision or "main")
    if revision != info.sha and not (ref.is_file() and ref.read_text() == info.sha):
        with contextlib.suppress(OSError):  # the cache may be read-only; the model is in it all the same
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(info.sha)
    return folder


def _choose_files(name: str, files: list[str]) -> list[str]:
    """The files of a repository to fetch, with weights of one kind, which come last."""
    for file in NEEDED:
        if file not in files:
            hint = TOKENIZER_HINT if file == "tokenizer.json" else "is it a transformers model?"
            if ADAPTER in files and file == "config.json":
                hint = (
                    "it is a LoRA adapter, not a whole model: merge it into its base "
                    "(peft: merge_and_unload(), then save_pretrained())"
                )
            raise UnsupportedModelError(f"{name} has no {file}; {hint}")
    weights = next((file for file in (SAFETENSORS, INDEX, TORCH, TORCH_INDEX) if file in files), None)
    if weights is None:
        others = [
            file for file in files if file.endswith((".onnx", ".gguf", ".h5", ".msgpack", ".bin", ".pt"))
        ]
        raise UnsupportedModelError(
            f"{name} has no weights that CrossRank reads ({SAFETENSORS} or {TORCH}); "
            f"it has {', '.join(others[:3]) or 'none of any kind'}: use the model that it was made from"
        )
    return [file for file in (*NEEDED, *USEFUL, weights) if file in files]


def _fetch_large(name: str, file: str, commit: str, endpoint: str, progress: bool) -> None:
    """Download a large file into the cache as a blob, resuming where an earlier attempt stopped.

    huggingface_hub could do this, but since 1.x it discards a broken download, so that 2 GB never arrive
    complete over an unreliable connection.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(name, file, revision=commit, endpoint=endpoint)
    wanted = get_hf_file_metadata(url)
    if not wanted.size or not _SHA256.fullmatch(wanted.etag or ""):
        return  # a small file, stored in git itself
    blob = repo_folder(name) / "blobs" / str(wanted.etag)
    part = blob.with_name(f"{blob.name}.part")
    lock = hub_cache() / ".locks" / repo_folder(name).name / f"{blob.name}.lock"
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
                # Retry a connection that breaks, as long as each attempt makes progress.
                if not _is_network(error) or part.stat().st_size == have:
                    raise
        digest = hashlib.sha256()
        with part.open("rb") as written:
            while block := written.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != wanted.etag:
            part.unlink()
            raise CheckpointError(
                f"{file} of {name} arrived damaged from {endpoint} and was deleted; try again"
            )
        part.replace(blob)


@contextlib.contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """Turn huggingface_hub's progress bars on or off within the block.

    HF_HUB_DISABLE_PROGRESS_BARS takes precedence if it is set.
    """
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


def with_revision(name: str, revision: str | None) -> str:
    """A model's name and revision, for messages."""
    return f"{name} (revision {revision})" if revision else name


def _is_network(error: BaseException) -> bool:
    """True if the connection failed. One that was closed early is reported as a consistency error."""
    if type(error).__module__.partition(".")[0] in _NETWORK_MODULES:
        return True
    return isinstance(error, (ConnectionError, TimeoutError)) or "Consistency check" in str(error)


def _explain(error: BaseException, name: str, revision: str | None) -> tuple[str, bool]:
    """Say what went wrong and what to do, and whether a cached copy may be used instead.

    ("", False) means that the error is unexpected, and should be raised as it is.
    """
    from huggingface_hub import errors, get_token

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    hub, page, cache = hub_endpoint(), f"{hub_endpoint()}/{name}", hub_cache()
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = str(error).strip().partition("\n")[0] or type(error).__name__
    elsewhere = (
        "set HF_ENDPOINT to a mirror, or take it from ModelScope (--from modelscope, source='modelscope'), "
        f"or copy the model's folder to {local_place(name)}"
    )
    may_use_cached = True
    if isinstance(error, errors.GatedRepoError):
        reason = f"{name} is gated: request access on {page}, then set HF_TOKEN to your token"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"{name} on {hub} has no revision {revision!r}; see {page}/commits/main"
        may_use_cached = False
    elif isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not get_token()):
        reason = (
            f"there is no model {name} on {hub}, or it is private: check the spelling ({page}); "
            f"for a private model set HF_TOKEN; a local folder {Path(name).absolute()} does not exist"
        )
    elif status in (401, 403):
        reason = f"{hub} refused {name} with status {status}: check HF_TOKEN, and your access on {page}"
    elif status is not None:
        reason = f"{hub} answered with status {status} for {name}; try again later, or {elsewhere}"
    elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        reason = (
            f"the disk is full: no room for {name} in {cache}; free some space, or set HF_HOME to a folder "
            "on a larger disk; the part that was downloaded is kept"
        )
    elif fault := environment_fault(hub):
        reason = fault
    elif type(error).__name__ == "InvalidURL":  # httpx reads NO_PROXY as addresses
        reason = (
            f"NO_PROXY, or another proxy variable, has a value that the hub's client cannot read ({cause}); "
            "correct or unset it"
        )
    elif isinstance(error, (ValueError, KeyError)):
        reason = f"{hub} does not answer like a hub ({cause}); check HF_ENDPOINT, or {elsewhere}"
    elif _is_network(error) or isinstance(error, errors.LocalEntryNotFoundError):
        reason = (
            f"could not fetch {name} from {hub} ({cause}); try again (the part that was downloaded is kept), "
            f"or {elsewhere}"
        )
    elif isinstance(error, OSError):
        reason = f"cannot write {name} to {cache} ({cause}); set HF_HOME to a folder that you can write to"
    else:
        return "", False
    return reason, may_use_cached
