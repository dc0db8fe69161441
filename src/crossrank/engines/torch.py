"""The torch engine: any cross-encoder that transformers knows, on CUDA, MPS or the CPU."""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from crossrank.errors import (
    CheckpointError,
    EngineError,
    InputError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import Pack

__all__ = ["TorchEngine", "tight_batches"]

_logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

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


class TorchEngine:
    """Runs a checkpoint with transformers' AutoModelForSequenceClassification.

    The classification head (and BERT's pooler) is computed in fp32 in every precision, since 16-bit logits
    tie.

    Args:
        checkpoint: the model.
        device: "cpu", "cuda:N" or "mps".
        precision: "fp32", "fp16" or "bf16".
        threads: CPU threads of PyTorch in the whole process; None leaves their number as it is.
        fall_back_to_cpu: run on the CPU what does not fit into the device's memory.

    Raises:
        CheckpointError: weights are missing, damaged or of the wrong shape.
        UnsupportedModelError: transformers does not support the architecture.
        OutOfMemoryError: the model does not fit into the device's memory, and ``fall_back_to_cpu`` is False.
    """

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        fall_back_to_cpu: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._fall_back = fall_back_to_cpu
        self._cpu_engine: TorchEngine | None = None
        self._lock = threading.Lock()
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self._model = _load(checkpoint, device, _DTYPES[precision])
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            if not fall_back_to_cpu:
                raise OutOfMemoryError(
                    f"{checkpoint.name} does not fit into the memory of {device} in {precision}; "
                    "free some memory, or use device='cpu'"
                ) from error
            _logger.warning("%s does not fit into the memory of %s: using the CPU", checkpoint.name, device)
            device, precision, self._fall_back = "cpu", "fp32", False
            self._model = _load(checkpoint, device, torch.float32)
        self.device = device
        self.precision = precision
        self.batch_tokens = 2048 if device == "cpu" else 16384
        self.fill_tokens = 512 if device == "cpu" else 4096
        self.lanes = self.calls = 1
        self._vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        config = self._model.config.get_text_config()
        pad = getattr(config, "pad_token_id", None)
        self._pads = pad is not None
        self._pad = int(pad) if pad is not None else 0
        if not self._pads:
            # A decoder is scored at its last token that is not padding. No token may count as padding here.
            config.pad_token_id = -1

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        """One logit for each pair: float32 (B,); see ``Engine.logits``."""
        if not len(pack):
            return np.zeros(0, np.float32)
        wrong = np.flatnonzero((pack.token_ids < 0) | (pack.token_ids >= self._vocabulary))
        if len(wrong):
            # On a GPU it would break every later call of the process, too.
            pair = int(np.searchsorted(pack.offsets, wrong[0], "right")) - 1
            raise InputError(
                f"pair {pair} has the token id {pack.token_ids[wrong[0]]}; "
                f"the model has embeddings for 0 to {self._vocabulary - 1}"
            )
        batches = tight_batches(pack.lengths, padded=self._pads)
        with torch.inference_mode():
            try:
                parts = [part for batch in batches for part in self._halving(pack, batch)]
                # One copy back to the host for the whole call.
                values = torch.cat([part.to(parts[0].device) for part in parts]).cpu().numpy()
            except EngineError:
                raise
            except Exception as error:  # a transformers model may raise anything
                raise EngineError(f"{self.device} failed: {_first_line(error)}") from error
        logits = np.empty(len(pack), np.float32)
        logits[np.concatenate(batches)] = values
        return logits

    def _halving(self, pack: Pack, batch: npt.NDArray[np.intp]) -> list[torch.Tensor]:
        """Logits of a batch, in its order. If memory runs out, the batch is split in halves.

        Raises:
            OutOfMemoryError: a single pair does not fit.
        """
        # The retry is outside the except clause: inside it, the traceback would keep the failed attempt's
        # tensors alive.
        try:
            return [self._forward(pack, batch)]
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        tokens = int(pack.lengths[batch].sum())
        if len(batch) > 1:
            half = len(batch) // 2
            _logger.warning(
                "out of memory on %s with %d pairs of %d tokens: trying %d pairs at a time",
                self.device,
                len(batch),
                tokens,
                len(batch) - half,
            )
            return [*self._halving(pack, batch[:half]), *self._halving(pack, batch[half:])]
        if not self._fall_back:
            raise OutOfMemoryError(
                f"a pair of {tokens} tokens alone does not fit into the memory of {self.device}; "
                "use a smaller max_length, or device='cpu'"
            )
        _logger.warning(
            "a pair of %d tokens alone does not fit into the memory of %s: it runs on the CPU",
            tokens,
            self.device,
        )
        with self._lock:
            if self._cpu_engine is None:
                self._cpu_engine = TorchEngine(self._checkpoint)
        return [self._cpu_engine._forward(pack, batch)]

    def _forward(self, pack: Pack, batch: npt.NDArray[np.intp]) -> torch.Tensor:
        """Logits of a batch, float32 (len(batch),), on the device."""
        lengths = pack.lengths[batch]
        longest = int(lengths.max())
        inside = np.arange(longest) < lengths[:, None]  # (pairs, longest)
        starts = pack.offsets[:-1][batch]
        take = np.where(inside, starts[:, None] + np.arange(longest), 0)
        ids = np.where(inside, pack.token_ids[take], self._pad)
        inputs = {"input_ids": torch.from_numpy(ids).long()}
        if pack.segment_ids is not None and getattr(self._model.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = torch.from_numpy(np.where(inside, pack.segment_ids[take], 0)).long()
        # Without a mask, transformers may read padding as text.
        inputs["attention_mask"] = torch.from_numpy(inside).long()
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        logits: torch.Tensor = self._model(**inputs).logits
        return logits[:, 0].float()


def _is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out. CUDA and MPS raise a type of their own, the CPU a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


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
        raise CheckpointError(f"{folder} cannot be loaded: {_first_line(error)}") from error
    except Exception as error:  # a config.json may make transformers raise anything
        if _is_out_of_memory(error):
            raise
        if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
            raise CheckpointError(
                f"the weights in {folder} do not fit its config.json: {_first_line(error)}"
            ) from error
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} cannot load {folder}: {_first_line(error)}"
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
    parts = [getattr(base, "pooler", None), getattr(model, "classifier", None), getattr(model, "score", None)]
    return [part for part in parts if isinstance(part, torch.nn.Module)]


def _to_float(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.float() if isinstance(x, torch.Tensor) else x for x in inputs)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
