"""Fetch a model with ModelScope's own client, into that client's cache.

The client prints to stdout and always draws progress bars. Both can only be changed for a whole process, so
the client runs in a process of its own.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

from crossrank._extras import needs
from crossrank.errors import CheckpointError, ModelNotFoundError
from crossrank.models.files import (
    INDEX,
    NEEDED,
    SAFETENSORS,
    TORCH,
    TORCH_INDEX,
    USEFUL,
    local_place,
    missing_file,
)
from crossrank.models.hub import with_revision

__all__ = ["from_modelscope"]


def from_modelscope(name: str, revision: str | None, offline: bool, progress: bool) -> Path:
    """Return a model's folder in the client's cache, and fetch the model if needed.

    The client resumes broken downloads by itself.

    Raises:
        MissingLibraryError: the client is not installed.
        ModelNotFoundError: there is no such model, or it could not be fetched.
        CheckpointError: the model lacks a file.
    """
    with needs("modelscope", f"{name} from ModelScope"):
        if importlib.util.find_spec("modelscope") is None:
            raise ModuleNotFoundError(name="modelscope")
    # A pattern with a slash is of a module's folder, such as 2_Dense.
    first = [*NEEDED, *USEFUL, SAFETENSORS, INDEX, "model-*-of-*.safetensors"]
    first += ["[0-9]*_*/config.json", f"[0-9]*_*/{SAFETENSORS}"]
    second = [TORCH, TORCH_INDEX, "pytorch_model-*-of-*.bin", f"[0-9]*_*/{TORCH}"]
    missing: str | None = SAFETENSORS
    for patterns in (first, second):
        if missing and missing.endswith(SAFETENSORS):
            options = {"revision": revision, "allow_patterns": patterns, "local_files_only": offline}
            answer = _ask({"name": name, "progress": progress, "options": options})
            if "folder" not in answer:
                raise ModelNotFoundError(_explain(answer, name, revision, offline))
            folder = Path(answer["folder"])
            missing = missing_file(folder)
    if missing is not None:
        raise CheckpointError(f"{name} on ModelScope has no {missing} ({folder})")
    return folder


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Run the client in a process of its own, and return its answer."""
    command = [sys.executable, "-c", "from crossrank.models.modelscope import _answer; _answer()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(  # noqa: S603 - this module's own code
        command, input=json.dumps(request).encode(), stdout=subprocess.PIPE, env=environment, check=False
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"cause": f"its client exited with code {done.returncode}"}
    return answer


def _answer() -> None:
    """Runs in the client's process: read a request from stdin and answer on stdout, both in JSON."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the client prints goes to stderr
    request = json.load(sys.stdin)
    answer: dict[str, Any] = {}
    try:
        from modelscope.hub.snapshot_download import snapshot_download

        if not request["progress"]:
            # The client has no option for its bars; they can only be turned off in tqdm itself.
            from tqdm import tqdm  # type: ignore[import-untyped]

            tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
        answer["folder"] = str(snapshot_download(request["name"], **request["options"]))
    except Exception as error:  # noqa: BLE001 - the parent process reports it
        answer["cause"] = str(error).strip().partition("\n")[0] or type(error).__name__
        answer["status"] = getattr(getattr(error, "response", None), "status_code", None)
        answer["errno"] = getattr(error, "errno", None)
    with answers:
        json.dump(answer, answers)


def _explain(answer: dict[str, Any], name: str, revision: str | None, offline: bool) -> str:
    """One line that says what went wrong and what to do."""
    hint = "check the network"
    if offline:
        hint = "the network is off (offline mode), and the model is not in ModelScope's cache: pull it first"
    elif answer.get("errno") in (errno.ENOSPC, errno.EDQUOT):
        hint = "the disk is full: set MODELSCOPE_CACHE to a folder on a larger disk"
    elif answer.get("status") in (401, 403, 404):
        hint = "check the name and the revision, and MODELSCOPE_API_TOKEN for a private model"
    return (
        f"could not get {with_revision(name, revision)} from ModelScope ({answer['cause']}); {hint}, "
        f"or copy the model's folder to {local_place(name)}"
    )
