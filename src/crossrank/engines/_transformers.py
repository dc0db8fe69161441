"""What an ``Architecture`` cannot say, run by transformers: rectangles of token ids, padded."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from crossrank.engines._failures import first_line, is_out_of_memory
from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import Pack

__all__ = ["MAX_PADDING", "MIN_BATCH_TOKENS", "TransformersModel", "tight_batches"]

MAX_PADDING = 0.10
"""Share of a batch's tokens that may be padding; with more, a new batch is started."""

MIN_BATCH_TOKENS = 256
"""Tokens of a batch below which its overhead costs more than its padding."""


def tight_batches(lengths: npt.NDArray[np.int32], *, padded: bool = True) -> list[npt.NDArray[np.intp]]:
    """Group pairs of similar length, so that padding to a group's longest pair wastes little.

    Args:
        lengths: tokens of each pair, int32 (B,).
        padded: if False, group only pairs of equal length, which need no padding.

    Returns:
        Index arrays into ``lengths``, every pair exactly once, longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[npt.NDArray[np.intp]] = []
    start, real = 0, 0
    for at, index in enumerate(order):
        longest, length = int(lengths[order[start]]), int(lengths[index])
        tokens = longest * (at - start + 1)
        waste = tokens - real - length
        is_large = longest * (at - start) >= MIN_BATCH_TOKENS
        if waste and (not padded or (is_large and waste > MAX_PADDING * tokens)):
            batches.append(order[start:at])
            start, real = at, 0
        real += length
    if start < len(order):
        batches.append(order[start:])
    return batches


class TransformersModel:
    """Runs a checkpoint with the class that transformers' AutoModelForSequenceClassification chooses.

    The classification head (and the pooler) is computed in fp32 in every precision, since 16-bit logits tie.

    Args:
        checkpoint: the model.
        device: where it runs.
        dtype: of the encoder's arithmetic.

    Attributes:
        vocabulary: rows of the word embeddings.

    Raises:
        CheckpointError: weights are missing, damaged or of the wrong shape.
        UnsupportedModelError: transformers does not support the architecture.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> None:
        self._model = _load(checkpoint, device, dtype)
        self._device = device
        self._labels = checkpoint.labels
        self.vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        config = self._model.config.get_text_config()
        pad = getattr(config, "pad_token_id", None)
        self._pad = int(pad) if pad is not None else 0
        # XLNet is scored at its last token, which must not be padding, and has segments without a table.
        is_xlnet = config.model_type == "xlnet"
        self._pads = pad is not None and not is_xlnet
        self._has_segments = is_xlnet or getattr(self._model.config, "type_vocab_size", 0) > 1
        if pad is None:
            # A decoder is scored at its last token that is not padding. No token may count as padding here.
            config.pad_token_id = -1

    def batches(self, lengths: npt.NDArray[np.int32]) -> list[npt.NDArray[np.intp]]:
        """Pairs that run together."""
        return tight_batches(lengths, padded=self._pads)

    def check(self, pack: Pack) -> None:
        """Nothing more than its token ids is checked."""

    def __call__(self, pack: Pack) -> torch.Tensor:
        """One logit for each pair: float32 (B,), on the device."""
        inside = np.arange(int(pack.lengths.max())) < pack.lengths[:, None]  # (pairs, longest)
        ids = np.full(inside.shape, self._pad)
        ids[inside] = pack.token_ids
        inputs = {"input_ids": ids}
        if pack.segment_ids is not None and self._has_segments:
            inputs["token_type_ids"] = np.zeros(inside.shape, int)
            inputs["token_type_ids"][inside] = pack.segment_ids
        # Without a mask, transformers may read padding as text.
        inputs["attention_mask"] = inside
        found = self._model(
            **{k: torch.from_numpy(v).to(self._device, torch.long) for k, v in inputs.items()}
        )
        logits: torch.Tensor = found.logits.float()
        return logits[:, 1] - logits[:, 0] if self._labels == 2 else logits[:, 0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn off transformers' progress bars and reports within the block. This module raises the errors."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _load(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> Any:
    """Load the model onto the device, ready to run, with its head in fp32."""
    folder = checkpoint.folder
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        # The class that AutoModelForSequenceClassification would choose. Unlike that, it can load weights
        # that are already in memory.
        mapping: Any = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        model_class = mapping[type(config)]
        weights = None
        if checkpoint.compressed:
            weights = {name: torch.from_numpy(value) for name, value in checkpoint.tensors().items()}
        with _quiet():
            model, report = model_class.from_pretrained(
                None if weights else str(folder),
                config=config,
                state_dict=weights,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {first_line(error)}") from error
    except Exception as error:  # a config.json may make transformers raise anything
        if is_out_of_memory(error):
            raise
        if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
            raise CheckpointError(
                f"the weights in {folder} do not fit its config.json: {first_line(error)}"
            ) from error
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot load {folder}: {first_line(error)}"
        ) from error
    # transformers fills a missing weight with random numbers.
    wrong = sorted(report["missing_keys"]) or sorted(map(str, report.get("mismatched_keys", [])))
    if wrong:
        raise CheckpointError(
            f"{folder} lacks {len(wrong)} of the model's weights, for example {wrong[0]}: "
            "the file is damaged, or config.json belongs to another model"
        )
    model = model.eval().to(device)
    if device == "cpu":
        # Weights that needed no conversion are still mapped from their file, which may change.
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.data = tensor.data.clone()
    for part in _head(model):
        part.float()
        part.register_forward_pre_hook(_to_float)
    return model


def _head(model: Any) -> list[torch.nn.Module]:
    base = getattr(model, model.base_model_prefix, model)
    names = ("pooler", "classifier", "score", "sequence_summary", "logits_proj")
    parts = [getattr(base, "pooler", None), *(getattr(model, name, None) for name in names)]
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def _to_float(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, torch.Tensor) else x for x in inputs)
