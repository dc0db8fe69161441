"""A model's name to the two parts that score with it: an encoder and an engine."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from crossrank.engines import MOST_THREADS, Device, Engine, Precision, load_engine
from crossrank.errors import InputError
from crossrank.inputs import check_instruction, check_integer
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, Source, resolve
from crossrank.packing import build_pack, plan_packs, plan_sharing
from crossrank.pairs import MAX_WINDOWS, EncodedPair, Long, PairEncoder, Truncation

__all__ = ["LoadedModel", "load_model"]

DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory: what ``Reranker`` and the server score with.

    Attributes:
        encoder: texts to pairs of token ids.
        engine: packs of pairs to logits.
        checkpoint: what was loaded; None: the caller made the parts.
        batch_tokens: tokens of the largest pack; 0 becomes the engine's own number.
    """

    encoder: PairEncoder
    engine: Engine
    checkpoint: Checkpoint | None = None
    batch_tokens: int = 0

    def __post_init__(self) -> None:
        if not self.batch_tokens:
            object.__setattr__(self, "batch_tokens", self.engine.batch_tokens)

    @property
    def name(self) -> str:
        """The checkpoint's name, or the engine's."""
        return self.checkpoint.name if self.checkpoint else self.engine.name

    def logits(self, pairs: Sequence[EncodedPair]) -> npt.NDArray[np.float32]:
        """Logits of any number of pairs: float32 (len(pairs),), in their order.

        Raises:
            EngineError: as ``Engine.logits``.
        """
        if self.engine.shares_prefixes and any(pair.prefix for pair in pairs):
            packs = plan_sharing(pairs, self.batch_tokens)
        else:
            packs = plan_packs([pair.tokens for pair in pairs], self.batch_tokens)
        logits = np.empty(len(pairs), np.float32)
        for indices in packs:
            logits[indices] = self.engine.logits(build_pack([pairs[i] for i in indices]))
        return logits


def load_model(
    model: str | os.PathLike[str] = BUNDLED,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    threads: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    source: Source = "hub",
    truncation: Truncation = "only_second",
    query_share: float = 0.5,
    long: Long = "cut",
    max_windows: int = MAX_WINDOWS,
    instruction: str | None = None,
    progress: bool = False,
) -> LoadedModel:
    """Find a model, download it if needed, and load it. The options are those of ``Reranker``.

    Args:
        model: a name or a folder.

    Raises:
        InputError: an option is out of range.
        ModelError: the model is not found, damaged, or not a cross-encoder.
        EngineError: no engine is installed, or the model does not fit into memory.
    """
    for name, value, most in (
        ("batch_tokens", batch_tokens, math.inf),
        ("threads", threads, MOST_THREADS),
        ("max_length", max_length, math.inf),
    ):
        if value is not None:
            check_integer(name, value, 1, most)
    check_instruction(instruction)
    folder = resolve(model, revision=revision, offline=offline, source=source, progress=progress)
    # The hub's cache names a folder by its commit, which says nothing to a user.
    checkpoint = Checkpoint(folder, name=Path(model).name)
    prompt, limit = checkpoint.prompt, checkpoint.max_length
    if instruction is not None:
        if prompt is None or prompt.instruction is None:
            raise InputError(
                f"instruction is {instruction!r}, but {checkpoint.name} takes none; leave it out"
            )
        prompt = replace(prompt, instruction=instruction)
    if max_length is None:
        max_length = min(prompt.max_length if prompt else DEFAULT_MAX_LENGTH, limit)
    elif max_length > limit:
        raise InputError(f"max_length is {max_length}; {checkpoint.name} reads at most {limit} tokens")
    encoder = PairEncoder(
        checkpoint.tokenizer_path,
        max_length=max_length,
        truncation=truncation,
        query_share=query_share,
        long=long,
        max_windows=max_windows,
        window_length=checkpoint.window_length,
        vocabulary=checkpoint.vocabulary,
        prompt=prompt,
    )
    engine = load_engine(checkpoint, device=device, precision=precision, threads=threads, progress=progress)
    return LoadedModel(encoder, engine, checkpoint, batch_tokens or 0)
