"""A checkpoint on disk: what it is, whether it is whole, and its weights.

A folder in the hub's layout: ``config.json``, ``tokenizer.json`` and ``model.safetensors`` (or
its shards with ``model.safetensors.index.json``, or ``pytorch_model.bin``).

The bundled model's weights are compressed, which its config says with ``"crossrank":
{"compressed": 1}``. A tensor NAME of shape (rows, columns) is then stored as one of

- ``NAME.int8`` int8 (rows, columns) and ``NAME.scale`` float32 (rows,): value = int8 * scale;
- ``NAME.int4`` uint8 (rows, columns / 2) and ``NAME.scale`` float16 (rows, columns / 32): in each
  block of 32 values the low nibbles of its 16 bytes are values 0 to 15, the high nibbles 16 to
  31, and value = (nibble - 8) * scale.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.layout import SAFETENSORS, TORCH, weight_files

__all__ = ["BLOCK", "Checkpoint", "map_tensors"]

BLOCK = 32
"""Values that share one scale in a 4-bit tensor."""

# Position embeddings of these start at pad_token_id + 1.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")


class Checkpoint:
    """A cross-encoder in a folder.

    Args:
        folder: as described above.
        name: what messages call the model; default: the folder's name.

    Attributes:
        folder: the same.
        name: the same.
        config: config.json.

    Raises:
        CheckpointError: a file is missing or damaged.
        UnsupportedModelError: the model is not a cross-encoder with one label.
    """

    def __init__(self, folder: Path, *, name: str | None = None) -> None:
        self.folder = folder
        self.name = name or folder.name
        self.config = _read_config(folder)
        self._check_kind()
        self.weight_files = _weight_files(folder)
        for path in self.weight_files:
            if path.suffix == ".safetensors":
                open_safetensors(path)

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / "tokenizer.json"

    @property
    def compressed(self) -> bool:
        """Whether the weights are in the bundled model's compressed form."""
        return bool(self.config.get("crossrank", {}).get("compressed"))

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence that the position embeddings allow."""
        positions = int(self.config.get("max_position_embeddings") or 1 << 20)
        if self.config.get("model_type") in _OFFSET_POSITIONS:
            padding = self.config.get("pad_token_id")
            return positions - (1 if padding is None else int(padding)) - 1
        return positions

    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell this checkpoint from any other and from its next version.

        Hashing 2.3 GB would take longer than all else at start, so of each file it is the size,
        the time of change and the header that count, which tells every tensor's name, shape and
        place.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for path in self.weight_files:
            status = path.stat()
            digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
            with path.open("rb") as file:
                digest.update(file.read(min(1 << 16, status.st_size)))
        return digest.hexdigest()[:16]

    def parameters(self) -> int:
        """How many weights the model has."""
        total = 0
        for path in self.weight_files:
            if path.suffix != ".safetensors":
                total += path.stat().st_size // 4  # pytorch_model.bin: fp32 unless proven otherwise
                continue
            with open_safetensors(path) as tensors:
                for name in tensors.keys():  # noqa: SIM118 - a safe_open is not a mapping
                    shape = tensors.get_slice(name).get_shape()
                    size = int(np.prod(shape)) if shape else 1
                    if name.endswith(".int4"):
                        size *= 2
                    if not name.endswith(".scale"):
                        total += size
        return total

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of a compressed checkpoint as float32, under transformers' names."""
        stored = self.mapped()
        weights: dict[str, npt.NDArray[np.float32]] = {}
        for name, value in stored.items():
            scale = stored.get(f"{name}.scales")
            if scale is not None:
                blocks = value.reshape(value.shape[0], -1, BLOCK // 2)  # (rows, blocks, 16)
                # In place: the embedding table is by far the largest tensor.
                values = np.empty((*blocks.shape[:2], BLOCK), np.float32)
                values[:, :, : BLOCK // 2] = blocks & 15
                values[:, :, BLOCK // 2 :] = blocks >> 4
                values -= 8
                values *= scale[:, :, None]
                weights[name] = values.reshape(value.shape[0], -1)
            elif not name.endswith(".scales"):
                weights[name] = np.array(value, np.float32)
        return weights

    def mapped(self, only: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The weights as they lie in safetensors files, mapped and not read; bf16 as uint16.

        Of a compressed checkpoint int8 matrices are restored, and a 4-bit table NAME is NAME
        (uint8) and NAME.scales (float16).

        Args:
            only: names of the matrices to restore; None: all.
        """
        stored: dict[str, npt.NDArray[Any]] = {}
        for path in self.weight_files:
            stored |= map_tensors(path)[0]
        if not self.compressed:
            return stored
        weights: dict[str, npt.NDArray[Any]] = {}
        for name, value in stored.items():
            base, _, form = name.rpartition(".")
            if form == "int8":
                if only is not None and base not in only:
                    continue
                weights[base] = value * self._scale(stored, base, value.shape[0], 1)
            elif form == "int4":
                self._scale(stored, base, value.shape[0], value.shape[1] * 2 // BLOCK)
                weights[base], weights[f"{base}.scales"] = value, stored[f"{base}.scale"]
            elif form != "scale":
                weights[name] = value
        return weights

    def _scale(
        self, stored: dict[str, npt.NDArray[Any]], base: str, rows: int, columns: int
    ) -> npt.NDArray[np.float32]:
        scale = stored.get(f"{base}.scale")
        if scale is None or scale.size != rows * columns:
            raise CheckpointError(f"{self.folder}: the tensor {base}.scale is missing or of the wrong shape")
        return np.asarray(scale, np.float32).reshape(rows, columns)

    def _check_kind(self) -> None:
        architectures = self.config.get("architectures") or ["nothing"]
        if not any(str(a).endswith("ForSequenceClassification") for a in architectures):
            raise UnsupportedModelError(
                f"{self.folder} is not a cross-encoder: its config.json names {', '.join(architectures)}, "
                "and a cross-encoder's name ends in ForSequenceClassification "
                "(an embedding model cannot rerank pairs)"
            )
        # transformers: two labels where the config says nothing.
        labels = len(self.config.get("id2label") or ()) or int(self.config.get("num_labels") or 2)
        if labels != 1:
            raise UnsupportedModelError(
                f"{self.folder} has {labels} labels; a reranker has one (id2label in its config.json)"
            )


_NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2"}
_NUMPY |= {"U64": "u8", "U32": "u4", "U16": "u2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def map_tensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Tensors of a safetensors file without reading them, and its metadata; bf16 as uint16.

    The safetensors library checks the file, but always copies.

    Raises:
        CheckpointError: the file is damaged.
    """
    with open_safetensors(path) as file:
        metadata: dict[str, str] = file.metadata() or {}
    data = np.memmap(path, np.uint8, "r")
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, entry in header.items():
        start, end = (8 + size + place for place in entry["data_offsets"])
        if entry["dtype"] in _NUMPY:  # 8-bit floats have no numpy type, and no engine reads them
            tensors[name] = data[start:end].view(f"<{_NUMPY[entry['dtype']]}").reshape(entry["shape"])
    return tensors, metadata


def place_in_file(array: npt.NDArray[Any]) -> tuple[Path, int] | None:
    """Where an array of ``map_tensors`` is mapped from: the file, and its first byte there; None: nowhere."""
    whole: object = array
    while isinstance(whole, np.ndarray) and not isinstance(whole.base, mmap.mmap):
        whole = whole.base
    if not isinstance(whole, np.memmap) or whole.filename is None:
        return None
    return Path(whole.filename), array.ctypes.data - whole.ctypes.data


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; a model folder holds config.json, tokenizer.json and model.safetensors"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a model's configuration: it holds no JSON object")
    return config


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, all of them there."""
    files = weight_files(folder)
    missing = next((file for file in files if not (folder / file).is_file()), None)
    if missing == SAFETENSORS:
        raise CheckpointError(
            f"{folder} has no weights: neither {SAFETENSORS} nor {TORCH}; pull the model again"
        )
    if missing is not None:
        raise CheckpointError(f"{folder}: the shard {missing} is missing; pull the model again")
    return [folder / file for file in files]


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file, which also checks that it is as long as its header says."""
    try:
        return safe_open(str(path), framework="np")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}); remove it and pull the model again"
        ) from error
