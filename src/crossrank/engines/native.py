"""The native engine: BERT, RoBERTa and XLM-RoBERTa on the CPU, by CrossRank's own encoder (native/).

Weights are packed once for a precision and kept in the cache; the next start reads them. Embedding
tables are not packed: small ones are copied from the checkpoint, of a large one rows are read from its
file. Nothing is served from a map, which a change of its file would change, or end the process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank._progress import progress_bar
from crossrank.engines.base import MOST_THREADS
from crossrank.errors import CheckpointError, EngineError, InputError, OutOfMemoryError
from crossrank.models.checkpoint import Checkpoint, place_in_file
from crossrank.models.content import WatchedFile
from crossrank.models.weight_cache import PackedWeights
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
"""Bytes of word embeddings that are read from their file instead of through a map of it. With each row
of a map the system maps what lies around it, and soon the whole table: 1 GB of resident memory for
BAAI/bge-reranker-v2-m3."""

TOKENS_OF_A_THREAD = 128
"""In the smallest pack that keeps the threads busy. On crossrank-mini, 70 to 140 tokens of a thread take
about as much processor time per token as a thousand."""


def why_not(checkpoint: Checkpoint) -> str:
    """Why this engine cannot run a model, in a few words; "" if it can."""
    config = checkpoint.config
    kind = config.get("model_type")
    if kind not in ("bert", "roberta", "xlm-roberta"):
        return f"the architecture {kind} is not BERT, RoBERTa or XLM-RoBERTa"
    if config.get("hidden_act", "gelu") != "gelu":
        return f"its activation is {config['hidden_act']}, not gelu"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return "its positions are not absolute"
    if any(path.suffix != ".safetensors" for path in checkpoint.weight_files):
        return "its weights are not safetensors"
    return ""


def auto_precision() -> str:
    """The fastest that the processor has an instruction for: int8, else bf16, else fp32."""
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


def _pack(
    checkpoint: Checkpoint, cache: PackedWeights, precision: str, threads: int, *, progress: bool
) -> dict[str, npt.NDArray[Any]]:
    """Packed tensors, kept in the cache and read from there."""
    source = checkpoint.mapped()
    with progress_bar(progress, f"Packing {checkpoint.name} for {precision}, once"):
        packed = _native.pack_weights(checkpoint.config, source, precision, threads)
    checkpoint.content.check()
    names = {id(array): name for name, array in source.items()}
    tables = {name: names[id(array)] for name, array in packed.items() if id(array) in names}
    own = {name: array for name, array in packed.items() if name not in tables}
    size = sum(array.nbytes for array in own.values())
    with progress_bar(progress, "Keeping what was packed", size) as advance:
        cache.write(own, tables, advance)
    # Read again, into memory of large pages: products are faster.
    return cache.read() or packed


def _engine(
    checkpoint: Checkpoint, packed: dict[str, npt.NDArray[Any]], precision: str, threads: int, isa: str
) -> tuple[_native.Engine, WatchedFile | None]:
    """An engine on packed tensors, and the file that it reads a large table from."""
    words, file, place = packed.get("embedding.words"), None, None
    if words is not None and words.nbytes >= LARGE_TABLE and words.dtype != np.uint8:
        place = place_in_file(words)
    if place is not None:
        file = WatchedFile(checkpoint.content, place[0])
    tensors = {
        name: np.array(array) if place_in_file(array) and not (place and array is words) else array
        for name, array in packed.items()
    }
    checkpoint.content.check()  # what was copied is what the fingerprint is of
    settings = (checkpoint.config, tensors, precision, threads, isa)
    if file is None or place is None:
        return _native.Engine(*settings), None
    return _native.Engine(*settings, file.descriptor, place[1]), file


@contextlib.contextmanager
def _loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what goes wrong while a model is loaded into CrossRank's errors."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.folder} cannot be loaded: {error}") from error
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
        progress: draw a progress bar on stderr while weights are packed.

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
        # A thread that is done with its part of a pack goes on with the next one's; a lone thread has it all.
        self.calls = 2 if self.threads > 1 else 1
        isa = instruction_set()
        cache = PackedWeights(checkpoint, precision)
        packed = cache.read()
        with _loading(checkpoint):
            if packed is not None:
                try:
                    self._engine, self._table = _engine(checkpoint, packed, precision, self.threads, isa)
                except ValueError as error:
                    cache.warn_of_damage(error)
                    packed = None
            if packed is None:
                packed = _pack(checkpoint, cache, precision, self.threads, progress=progress)
                self._engine, self._table = _engine(checkpoint, packed, precision, self.threads, isa)
        # A tokenizer may tell segments apart for a model that does not.
        self._has_segments = int(checkpoint.config.get("type_vocab_size") or 2) > 1

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return str(self._engine.isa)

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        """One logit for each pair: float32 (B,); see ``Engine.logits``."""
        try:
            segment_ids = pack.segment_ids if self._has_segments else None
            found: npt.NDArray[np.float32] = self._engine.logits(pack.token_ids, pack.offsets, segment_ids)
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
