"""The torch engine: cross-encoders on CUDA, MPS or the CPU.

What an ``Architecture`` describes runs in plain PyTorch, everything else in transformers.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from crossrank.engines._failures import first_line, is_out_of_memory
from crossrank.engines._plain import PlainModel
from crossrank.errors import CheckpointError, EngineError, InputError, OutOfMemoryError
from crossrank.models.checkpoint import Checkpoint, map_tensors
from crossrank.models.families import UndescribedError, todays_name
from crossrank.models.mapping import check_maps
from crossrank.packing import Pack

if TYPE_CHECKING:
    from crossrank.engines._transformers import TransformersModel

__all__ = ["TorchEngine"]

_logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEngine:
    """Runs a checkpoint with PyTorch.

    The head is computed in fp32 in every precision, since 16-bit logits tie.

    Args:
        checkpoint: the model.
        device: "cpu", "cuda:N" or "mps".
        precision: "fp32", "fp16" or "bf16".
        threads: CPU threads of PyTorch in the whole process; None leaves their number as it is.
        fall_back_to_cpu: run on the CPU what does not fit into the device's memory.

    Raises:
        CheckpointError: weights are missing, damaged or of the wrong shape.
        UnsupportedModelError: neither an ``Architecture`` nor transformers knows the model.
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
            if not is_out_of_memory(error):
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
        self.shares_prefixes = False

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        """One logit for each pair: float32 (B,); see ``Engine.logits``."""
        if not len(pack):
            return np.zeros(0, np.float32)
        pack = pack.whole()
        vocabulary = self._model.vocabulary
        wrong = np.flatnonzero((pack.token_ids < 0) | (pack.token_ids >= vocabulary))
        if len(wrong):
            # On a GPU it would break every later call of the process, too.
            pair = int(np.searchsorted(pack.offsets, wrong[0], "right")) - 1
            raise InputError(
                f"pair {pair} has the token id {pack.token_ids[wrong[0]]}; "
                f"the model has embeddings for 0 to {vocabulary - 1}"
            )
        self._model.check(pack)
        batches = self._model.batches(pack.lengths)
        with torch.inference_mode():
            try:
                parts = [part for batch in batches for part in self._halving(pack, batch)]
                # One copy back to the host for the whole call.
                values = torch.cat([part.to(parts[0].device) for part in parts]).cpu().numpy()
            except EngineError:
                raise
            except Exception as error:  # a transformers model may raise anything
                raise EngineError(f"{self.device} failed: {first_line(error)}") from error
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
            return [self._model(_pick(pack, batch))]
        except Exception as error:
            if not is_out_of_memory(error):
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
        return [self._cpu_engine._model(_pick(pack, batch))]


def _load(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> PlainModel | TransformersModel:
    """Load the model onto the device, ready to run."""
    try:
        architecture = checkpoint.description.architecture
    except UndescribedError:
        from crossrank.engines._transformers import TransformersModel

        return TransformersModel(checkpoint, device, dtype)
    weights = _weights(checkpoint)
    model = PlainModel(architecture, weights, device, dtype).eval()
    check_maps(weights.values())
    return model


def _weights(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    """The tensors by their canonical names, bf16 as uint16.

    Raises:
        CheckpointError: one is missing or of the wrong shape, or a file is damaged.
    """
    if checkpoint.compressed:
        return checkpoint.description.pick(checkpoint.tensors())
    if all(path.suffix == ".safetensors" for path in checkpoint.weight_files):
        return checkpoint.description.tensors()
    stored: dict[str, npt.NDArray[Any]] = {}
    for path in checkpoint.weight_files:
        place = path.parent.relative_to(checkpoint.folder).as_posix()
        start = "" if place == "." else f"{place}/"
        found = map_tensors(path)[0] if path.suffix == ".safetensors" else _read_pickle(path)
        stored |= {start + name: value for name, value in found.items()}
    kind = checkpoint.config.get("model_type")
    return checkpoint.description.pick({todays_name(kind, name): value for name, value in stored.items()})


def _read_pickle(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a pytorch_model.bin, bf16 as uint16. Code in it is not run.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {name: value.detach() for name, value in loaded.items() if isinstance(value, torch.Tensor)}
        return {
            name: value.view(torch.int16).numpy().view(np.uint16)
            if value.dtype == torch.bfloat16
            else value.numpy()
            for name, value in tensors.items()
        }
    except MemoryError:
        raise
    except Exception as error:  # torch.load may raise anything
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path} cannot be loaded: {first_line(error)}") from error


def _pick(pack: Pack, batch: npt.NDArray[np.intp]) -> Pack:
    """Some pairs of a pack, in the order given."""
    lengths = pack.lengths[batch]
    offsets = np.zeros(len(batch) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    tokens = np.repeat(pack.offsets[:-1][batch] - offsets[:-1], lengths) + np.arange(offsets[-1])
    segments = None if pack.segment_ids is None else pack.segment_ids[tokens]
    return Pack(pack.token_ids[tokens], offsets, segments)
