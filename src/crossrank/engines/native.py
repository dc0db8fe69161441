"""The native engine: what an ``Architecture`` describes, on the CPU, by CrossRank's own encoder (native/).

Weights are prepared once for a precision and kept in the cache; the next start reads them from there.
Embedding tables stay as they are: small ones are copied from the checkpoint, and rows of a large one are
read from its file. Nothing is served from a memory map: when its file changed, scores would change, or the
process would crash.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank._progress import progress_bar
from crossrank.engines.base import MOST_THREADS
from crossrank.errors import CheckpointError, EngineError, InputError, OutOfMemoryError
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.content import WatchedFile
from crossrank.models.families import UndescribedError
from crossrank.models.mapping import check_maps, place_in_file
from crossrank.models.weight_cache import PreparedWeights
from crossrank.packing import Pack

try:
    from crossrank import _native
except ImportError as _error:
    raise EngineError(
        f"the native engine is not built, or cannot be loaded ({_error}); build it with: pip install . "
        "in CrossRank's folder (it needs a C++17 compiler), or install a wheel"
    ) from _error

__all__ = [
    "NativeEngine",
    "auto_precision",
    "default_threads",
    "instruction_set",
    "why_not",
]

LARGE_TABLE = 128 << 20
"""Word embeddings of this size in bytes, or more, are read from their file row by row. A copy in memory, or
soon also a memory map, would make the whole table resident: 1 GB for BAAI/bge-reranker-v2-m3."""

TOKENS_OF_A_THREAD = 128
"""Tokens for each thread in the smallest pack that keeps all threads busy. On crossrank-mini, 70 to 140
tokens on a thread take about as much processor time per token as a thousand."""


def why_not(checkpoint: Checkpoint) -> str:
    """Why this engine cannot run a model, in a few words; "" if it can."""
    if any(path.suffix != ".safetensors" for path in checkpoint.weight_files):
        return "its weights are not safetensors"
    try:
        _ = checkpoint.description
    except UndescribedError as error:
        return str(error)
    return ""


def auto_precision() -> str:
    """The fastest on this processor: int8, else bf16, else fp32."""
    isa = instruction_set()
    return next(p for p in ("int8", "bf16", "fp32") if _native.has_fast(p, isa))


def instruction_set() -> str:
    """The best that the processor has, or what CROSSRANK_ISA names.

    Raises:
        InputError: CROSSRANK_ISA names one that is unknown or cannot run here.
    """
    try:
        return _native.isa()
    except ValueError as error:
        raise InputError(str(error)) from error


def default_threads() -> int:
    """CROSSRANK_NUM_THREADS, or the cores that this process may use (affinity and control group)."""
    wish = os.environ.get("CROSSRANK_NUM_THREADS")
    if wish:
        if not (wish.isdecimal() and len(wish) < 9 and 1 <= int(wish) <= MOST_THREADS):
            raise InputError(
                f"CROSSRANK_NUM_THREADS is {wish!r}; it must be a number from 1 to {MOST_THREADS}"
            )
        return int(wish)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().partition(" ")
        if limit.isdigit():
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def _prepare(
    checkpoint: Checkpoint, cache: PreparedWeights, precision: str, threads: int, *, progress: bool
) -> dict[str, npt.NDArray[Any]]:
    """Prepare weights and keep them in the cache."""
    source = checkpoint.description.tensors()
    with progress_bar(progress, f"Preparing {checkpoint.name} for {precision}"):
        flat = checkpoint.description.architecture.flat()
        prepared = _native.prepare_weights(flat, source, precision, threads)
    check_maps(source.values())
    checkpoint.content.check()
    names = {id(array): name for name, array in source.items()}
    tables = {name: names[id(array)] for name, array in prepared.items() if id(array) in names}
    own = {name: array for name, array in prepared.items() if name not in tables}
    size = sum(array.nbytes for array in own.values())
    with progress_bar(progress, "Keeping the prepared weights", size) as advance:
        cache.write(own, tables, advance)
    # Read them back into memory of large pages, which makes products faster.
    return cache.read() or prepared


def _engine(
    checkpoint: Checkpoint, prepared: dict[str, npt.NDArray[Any]], precision: str, threads: int, isa: str
) -> tuple[_native.Engine, WatchedFile | None]:
    """An engine on prepared tensors, and the file that it reads a large table from."""
    words, file, place = prepared.get("embedding.words"), None, None
    if words is not None and words.nbytes >= LARGE_TABLE and words.dtype != np.uint8:
        place = place_in_file(words)
    if place is not None:
        file = WatchedFile(checkpoint.content, place[0])
    tensors = {
        name: np.array(array) if place_in_file(array) and not (place and array is words) else array
        for name, array in prepared.items()
    }
    check_maps(prepared.values())
    checkpoint.content.check()  # the copies are of the content that the fingerprint was computed from
    settings = (checkpoint.description.architecture.flat(), tensors, precision, threads, isa)
    if file is None or place is None:
        return _native.Engine(*settings), None
    return _native.Engine(*settings, file.descriptor, place[1]), file


def _in_the_checkpoints_words(checkpoint: Checkpoint, message: str) -> str:
    """A message of the native module with the tensor's name in the checkpoint, not its canonical one."""

    def stored(found: re.Match[str]) -> str:
        source = checkpoint.description.sources.get(found[1])
        return f"tensor '{source.name}'" if source else found[0]

    return re.sub("tensor '([^']*)'", stored, message)


@contextlib.contextmanager
def _loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what goes wrong while a model is loaded into CrossRank's errors."""
    try:
        yield
    except ValueError as error:
        reason = _in_the_checkpoints_words(checkpoint, str(error))
        raise CheckpointError(f"{checkpoint.folder} cannot be loaded: {reason}") from error
    except MemoryError as error:
        raise OutOfMemoryError(f"{checkpoint.folder} does not fit into memory") from error
    except RuntimeError as error:
        raise EngineError(f"{checkpoint.folder} cannot be loaded: {error}") from error


class NativeEngine:
    """Runs a checkpoint on the CPU.

    Args:
        checkpoint: a model for which ``why_not`` is empty.
        precision: "int8" (weights and activations of the matrix products), "bf16" or "fp32".
        threads: None: ``default_threads()``.
        progress: draw a progress bar on stderr while weights are prepared.

    Raises:
        CheckpointError: weights are missing, of the wrong shape, or not finite.
        OutOfMemoryError: they do not fit into memory.
        EngineError: the system allows no more threads.
        InputError: as ``instruction_set``.
    """

    name = "native"
    device = "cpu"
    batch_tokens = 8192

    def __init__(
        self, checkpoint: Checkpoint, *, precision: str, threads: int | None = None, progress: bool = False
    ) -> None:
        self.precision = precision
        self.threads = threads or default_threads()
        self.fill_tokens = TOKENS_OF_A_THREAD * self.threads
        self.lanes = self.threads
        # With a second pack at hand, a thread that has done its part of the first one need not wait. A single
        # thread has all parts.
        self.calls = 2 if self.threads > 1 else 1
        isa = instruction_set()
        cache = PreparedWeights(checkpoint, precision)
        prepared = cache.read()
        with _loading(checkpoint):
            if prepared is not None:
                try:
                    self._engine, self._table = _engine(checkpoint, prepared, precision, self.threads, isa)
                except ValueError as error:
                    cache.warn_of_damage(error)
                    prepared = None
            if prepared is None:
                prepared = _prepare(checkpoint, cache, precision, self.threads, progress=progress)
                self._engine, self._table = _engine(checkpoint, prepared, precision, self.threads, isa)
        architecture = checkpoint.description.architecture
        # A tokenizer may tell segments apart for a model that does not.
        self._has_segments = architecture.segments > 1
        # What comes later changes the other models' keys and values.
        self.shares_prefixes = architecture.causal and architecture.pooling == "last"

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return str(self._engine.isa)

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        """One logit for each pair: float32 (B,); see ``Engine.logits``."""
        if not self.shares_prefixes:
            pack = pack.whole()
        try:
            segment_ids = pack.segment_ids if self._has_segments else None
            found: npt.NDArray[np.float32] = self._engine.logits(
                pack.token_ids,
                pack.offsets,
                segment_ids,
                pack.prefix_ids,
                pack.prefix_offsets,
                pack.prefix_of,
            )
        except MemoryError as error:
            raise OutOfMemoryError(
                f"a pack of {len(pack.token_ids)} tokens does not fit into memory; use smaller batch_tokens"
            ) from error
        except ValueError as error:
            raise InputError(str(error)) from error
        except RuntimeError as error:
            raise EngineError(str(error)) from error
        if self._table is not None:
            try:
                self._table.check()
            except CheckpointError as error:
                raise EngineError(str(error)) from error
        return found
