"""A model from ModelScope, through its own client and into its own cache."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path

from crossrank.errors import CheckpointError, ModelError, ModelNotFoundError
from crossrank.extras import needs
from crossrank.hub import one_pull, with_revision
from crossrank.layout import INDEX, NEEDED, SAFETENSORS, TORCH, USEFUL, local_place, missing_file

__all__ = ["from_modelscope"]


def from_modelscope(name: str, revision: str | None, offline: bool, progress: bool) -> Path:
    """The folder of a model in the client's cache, fetched if need be; the client resumes by itself."""
    with needs("modelscope", f"{name} from ModelScope"):
        from modelscope.hub.snapshot_download import snapshot_download
    first = [*NEEDED, *USEFUL, SAFETENSORS, INDEX, "model-*-of-*.safetensors"]
    missing: str | None = SAFETENSORS
    try:
        # Its client prints where it likes, but stdout is for data.
        with one_pull, contextlib.redirect_stdout(sys.stderr), _tqdm_bars(progress):
            for patterns in (first, [TORCH]):
                if missing == SAFETENSORS:
                    folder = Path(
                        snapshot_download(
                            name, revision=revision, allow_patterns=patterns, local_files_only=offline
                        )
                    )
                    missing = missing_file(folder)
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
            f"could not get {with_revision(name, revision)} from ModelScope ({cause}); {hint}, "
            f"or copy the model's folder to {local_place(name)}"
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
