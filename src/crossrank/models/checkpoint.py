"""A checkpoint on disk: check that it is a complete cross-encoder, and read its weights.

A checkpoint is a folder in the hub's layout: ``config.json``, ``tokenizer.json`` and ``model.safetensors``
(or its shards with ``model.safetensors.index.json``, or ``pytorch_model.bin`` and its shards).

Variants that transformers accepts are accepted here too: BERT tensors without the prefix of their model
type, ``LayerNorm.gamma`` and ``.beta``, float64, and a config without ``architectures``.

The bundled model's weights are compressed; its config marks this with ``"crossrank": {"compressed": 1}``.
A tensor NAME of shape (rows, columns) is then stored as one of

- ``NAME.int8`` int8 (rows, columns) and ``NAME.scale`` float32 (rows,): value = int8 * scale;
- ``NAME.int4`` uint8 (rows, columns / 2) and ``NAME.scale`` float16 (rows, columns / 32): in each
  block of 32 values the low nibbles of its 16 bytes are values 0 to 15, the high nibbles 16 to
  31, and value = (nibble - 8) * scale.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.content import Content, read_content
from crossrank.models.families import Module, UndescribedError, describe, todays_name
from crossrank.models.files import (
    SAFETENSORS,
    check_no_pointer,
    module_files,
    module_folders,
    no_weights,
    read_object,
    weight_files,
)
from crossrank.models.kind import find_kind
from crossrank.models.mapping import check_maps, map_file
from crossrank.models.prompt import Prompt

__all__ = ["BLOCK", "Checkpoint", "Description", "map_tensors", "view_tensors"]

BLOCK = 32
"""Values that share one scale in a 4-bit tensor."""

# Fields of config.json that are read for every family, and their types. A bool does not pass for an int.
_FIELDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "model_type": ((str,), "a string"),
    **dict.fromkeys(("max_position_embeddings", "num_labels", "vocab_size"), ((int,), "a whole number")),
    "architectures": ((list,), "a list of names"),
    "id2label": ((dict,), "an object"),
    "crossrank": ((dict,), "an object"),
}


class Checkpoint:
    """A cross-encoder in a folder.

    Args:
        folder: a folder in the layout above.
        name: the model's name in messages; by default the folder's name.

    Attributes:
        folder: the folder.
        name: the model's name in messages.
        config: the object in config.json.
        modules: the modules of sentence-transformers' that are its head; empty if it is a classifier.
        labels: of its classifier: 1, or 2, whose scores are the second's logit minus the first's.
        asked: how it is asked, if it is a language model or was made from one.
        weight_files: the files that hold its weights.

    Raises:
        CheckpointError: a file is missing or damaged.
        UnsupportedModelError: the model is not a cross-encoder, or has more than two labels.
    """

    def __init__(self, folder: Path, *, name: str | None = None) -> None:
        self.folder = folder
        self.name = name or folder.name
        self.config, self._config_text = _read_config(folder)
        if not self.config.get("model_type"):
            raise CheckpointError(f'{self.folder / "config.json"} has no model_type, such as "bert"')
        self._all_modules = self._read_modules()
        ends = any(
            module.kind == "Dense" and module.config.get("out_features") == 1 for module in self._all_modules
        )
        self.modules = self._all_modules if ends else []
        self.weight_files = _weight_files(folder)
        for path in self.weight_files:
            check_no_pointer(path)
            if path.suffix == ".safetensors":
                open_safetensors(path)
        self.asked = find_kind(
            folder, self.name, self.config, self.modules, self._all_modules, self._classifier_rows
        )
        self.labels = self._count_labels()
        if self.asked and self.asked.tokens:
            self._check_described()

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / "tokenizer.json"

    @property
    def prompt(self) -> Prompt | None:
        """What stands around a query and a document; None if the tokenizer says it."""
        return self.asked.prompt if self.asked else None

    @property
    def compressed(self) -> bool:
        """True if the weights are stored in the bundled model's compressed form."""
        return bool((self.config.get("crossrank") or {}).get("compressed"))

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embedding table according to the config; None if it does not say."""
        size: int | None = self.config.get("vocab_size")
        return size

    @cached_property
    def description(self) -> Description:
        """What the model is made of, and its tensors by their canonical names.

        Raises:
            CheckpointError: config.json lacks a field, or has a wrong one.
            UndescribedError: an ``Architecture`` cannot say what the model does.
        """
        return Description(self)

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence that the model reads."""
        try:
            return self.description.architecture.max_tokens
        except UndescribedError:
            return self.config.get("max_position_embeddings") or 1 << 20

    @property
    def window_length(self) -> int | None:
        """Tokens of the longest pairs that the model was trained on, where its config says so.

        Raises:
            CheckpointError: it is no number of 1 or more.
        """
        found: object = (self.config.get("crossrank") or {}).get("window")
        if found is None or (isinstance(found, int) and not isinstance(found, bool) and found >= 1):
            return found
        place = self.folder / "config.json"
        raise CheckpointError(f"{place}: crossrank.window is {found!r}; it must be an integer of 1 or more")

    @cached_property
    def content(self) -> Content:
        """Digests and states of the weight files. They are read for it, unless the cache knows them.

        Raises:
            CheckpointError: a file cannot be read, or changes while it is read.
        """
        folder = self.folder.absolute()
        return read_content(folder, [folder / path.relative_to(self.folder) for path in self.weight_files])

    def fingerprint(self) -> str:
        """32 hexadecimal digits that are equal for equal configs and weights, wherever the folder is."""
        tokens = str(self.asked.tokens) if self.asked and self.asked.tokens else ""
        text = self._config_text + self.content.digest.encode() + tokens.encode()
        return hashlib.sha256(text).hexdigest()[:32]

    def parameters(self) -> int:
        """The number of weights in the model."""
        pickled = (path for path in self.weight_files if path.suffix != ".safetensors")
        total = sum(path.stat().st_size // 4 for path in pickled)  # taken to be fp32
        for name, shape in self.shapes.items():
            if not name.endswith(".scale"):
                total += math.prod(shape) * (2 if name.endswith(".int4") else 1)
        return total

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights of a compressed checkpoint as float32, under transformers' names.

        Raises:
            CheckpointError: the checkpoint is not compressed, or damaged.
        """
        if not self.compressed:  # bf16 is mapped as uint16, and would be converted to wrong numbers
            raise CheckpointError(f"{self.folder} is not compressed: read it with safetensors")
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
        check_maps(stored.values())
        return weights

    def mapped(self, only: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The weights of safetensors files, mapped without reading them; bf16 appears as uint16.

        Names are those that transformers uses today, and float64 becomes float32. In a compressed
        checkpoint, int8 matrices are decompressed, and a 4-bit table NAME becomes NAME (uint8) and
        NAME.scales (float16).

        Args:
            only: names of the int8 matrices to decompress, leaving out the others; None means all.

        Raises:
            CheckpointError: a file is damaged.
        """
        stored: dict[str, npt.NDArray[Any]] = {}
        for path in self.weight_files:
            stored |= {self._name(path, name): value for name, value in map_tensors(path)[0].items()}
        weights: dict[str, npt.NDArray[Any]] = {}
        for name, value in stored.items():
            base, _, form = name.rpartition(".")
            if not self.compressed:
                weights[name] = _as_float32(value)
            elif form == "int8":
                if only is not None and base not in only:
                    continue
                weights[base] = value * self._scale(stored, base, value, None)
            elif form == "int4":
                self._scale(stored, base, value, 2 / BLOCK)
                weights[base], weights[f"{base}.scales"] = value, stored[f"{base}.scale"]
            elif form != "scale":
                weights[name] = value
        check_maps(stored.values())
        return weights

    def _scale(
        self, stored: dict[str, npt.NDArray[Any]], base: str, value: npt.NDArray[Any], density: float | None
    ) -> npt.NDArray[np.float32]:
        """The scales of a stored matrix, float32 (rows, scales of a row).

        Args:
            stored: all tensors.
            base: the tensor's name without its form.
            value: the stored matrix.
            density: scales of a row, per stored column; None if a row has only one scale.

        Raises:
            CheckpointError: the scales are missing, or of the wrong shape.
        """
        scale = stored.get(f"{base}.scale")
        columns = 1 if density is None else int((value.shape[-1] if value.ndim else 0) * density)
        if value.ndim != 2 or scale is None or scale.size != value.shape[0] * columns:
            raise CheckpointError(f"{self.folder}: the tensor {base}.scale is missing or of the wrong shape")
        return np.asarray(scale, np.float32).reshape(value.shape[0], columns)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors in safetensors files, by the names of ``mapped``; bundled ones as stored."""
        found: dict[str, tuple[int, ...]] = {}
        for path in self.weight_files:
            if path.suffix == ".safetensors":
                with open_safetensors(path) as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - a safe_open is not a mapping
                        found[self._name(path, name)] = tuple(tensors.get_slice(name).get_shape())
        return found

    def _name(self, path: Path, name: str) -> str:
        """Today's name of a tensor in a weight file; those of a module begin with its folder."""
        place = path.parent.relative_to(self.folder).as_posix()
        return todays_name(self.config.get("model_type"), name) if place == "." else f"{place}/{name}"

    def _read_modules(self) -> list[Module]:
        """The modules after the transformer."""
        modules = []
        for kind, place in module_folders(self.folder):
            path = self.folder / place / "config.json"
            config: dict[str, Any] = {}
            if path.is_file():
                config, text = _read_config(self.folder / place)
                self._config_text += text
            modules.append(Module(kind, place, config))
        return modules

    def _check_described(self) -> None:
        """Raise UnsupportedModelError for a language model that cannot be described: no engine runs it."""
        try:
            _ = self.description
        except UndescribedError as error:
            raise UnsupportedModelError(f"{self.folder} cannot be run: {error}") from error

    def _count_labels(self) -> int:
        """The labels that the config names; if it names none, the rows of the classifier.

        Raises:
            UnsupportedModelError: there are more than two.
        """
        if self.modules or (self.asked and self.asked.tokens):
            return 1
        labels = self.config.get("id2label")
        count = len(labels) if labels else self.config.get("num_labels")
        if count is None:
            count = self._classifier_rows() or 2  # transformers' default
        if count not in (1, 2):
            listed = f" ({', '.join(map(str, list(labels.values())[:5]))})" if labels else ""
            raise UnsupportedModelError(
                f"{self.folder} has {count} labels{listed}; a reranker has one, its score, or two, "
                "of which the second means relevant (id2label or num_labels in config.json)"
            )
        return int(count)

    def _classifier_rows(self) -> int:
        """Rows of the classifier's weights; 0 if there is none, or its file is not safetensors."""
        names = ("classifier.out_proj.weight", "classifier.weight", "score.weight")
        return next((self.shapes[name][0] for name in names if self.shapes.get(name)), 0)


class Description:
    """What a checkpoint is made of, for engines.

    Args:
        checkpoint: the checkpoint.

    Attributes:
        architecture: the model.
        sources: for each canonical tensor that the checkpoint must have, where it is.

    Raises:
        CheckpointError: config.json lacks a field, or has a wrong one.
        UndescribedError: an ``Architecture`` cannot say what the model does.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.architecture, self.sources = describe(
            checkpoint.config,
            str(checkpoint.folder / "config.json"),
            checkpoint.shapes.keys(),
            checkpoint.labels,
            checkpoint.modules,
            checkpoint.asked.tokens if checkpoint.asked else (),
        )

    def tensors(self, only: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The weights by their canonical names, mapped from safetensors files as ``Checkpoint.mapped``.

        A 4-bit table NAME comes with NAME.scales.

        Args:
            only: canonical names; None means all.

        Raises:
            CheckpointError: a tensor is missing, or of the wrong shape.
        """
        if only is None:
            return self.pick(self._checkpoint.mapped())
        wanted = {name.removesuffix(".scales") for name in only} & self.sources.keys()
        stored = self._checkpoint.mapped({self.sources[name].name for name in wanted})
        return self.pick(stored, wanted)

    def pick(
        self, stored: Mapping[str, npt.NDArray[Any]], only: Collection[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """The canonical tensors out of a checkpoint's, which have the names that transformers uses today.

        Raises:
            CheckpointError: a tensor is missing, or of the wrong shape.
        """
        shapes = dict(self.architecture.shapes())
        folder = self._checkpoint.folder
        found: dict[str, npt.NDArray[Any]] = {}
        for name, source in self.sources.items():
            if only is not None and name not in only:
                continue
            try:
                value = source.take(stored)
            except ValueError as error:
                raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
            if value is None:
                raise CheckpointError(f"{folder} cannot be loaded: tensor '{source.name}' is missing")
            scales = stored.get(f"{source.name}.scales")
            if scales is not None:
                found[f"{name}.scales"] = scales
            elif value.shape != shapes[name]:
                raise CheckpointError(
                    f"{folder} cannot be loaded: tensor '{source.name}' is {value.shape}, and what "
                    f"config.json says needs {shapes[name]}"
                )
            found[name] = value
        check_maps(stored.values())  # some are not taken as they are, but read
        return found


def _as_float32(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return value.astype(np.float32) if value.dtype == np.float64 else value


_NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2"}
_NUMPY |= {"U64": "u8", "U32": "u4", "U16": "u2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def map_tensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Map the tensors of a safetensors file without reading them; bf16 appears as uint16.

    The safetensors library only checks the file, because it would copy the tensors.

    Returns:
        The tensors by name, and the file's metadata.

    Raises:
        CheckpointError: the file is damaged.
    """
    open_safetensors(path)
    try:
        return view_tensors(map_file(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} changed while it was read ({error}); try again") from error


def view_tensors(data: npt.NDArray[np.uint8]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Tensors, as views, and metadata of a whole safetensors file in memory; bf16 appears as uint16.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: the bytes are not a safetensors file.
    """
    size = int(data[:8].view("<u8")[0])
    header = json.loads(data[8 : 8 + size].tobytes())
    metadata: dict[str, str] = header.pop("__metadata__", None) or {}
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, entry in header.items():
        start, end = (8 + size + place for place in entry["data_offsets"])
        if entry["dtype"] in _NUMPY:  # 8-bit floats have no numpy type, and no engine reads them
            tensors[name] = data[start:end].view(f"<{_NUMPY[entry['dtype']]}").reshape(entry["shape"])
    return tensors, metadata


def _read_config(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The object in config.json, with the types of its fields checked, and the file's bytes."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; a model folder holds config.json, tokenizer.json and model.safetensors"
        )
    config, text = read_object(path)
    for name, (types, wanted) in _FIELDS.items():
        value = config.get(name)
        good = value is None or (isinstance(value, types) and not isinstance(value, bool))
        if name == "architectures" and good:
            good = all(isinstance(item, str) for item in value or ())
        if not good:
            raise CheckpointError(f"{path}: {name} is {reprlib.repr(value)}; it must be {wanted}")
    return config, text


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights.

    Raises:
        CheckpointError: a file is missing.
    """
    files = [*weight_files(folder), *(file for file in module_files(folder) if not file.endswith(".json"))]
    missing = next((file for file in files if not (folder / file).is_file()), None)
    if missing == SAFETENSORS:
        raise CheckpointError(no_weights(folder))
    if missing is not None:
        raise CheckpointError(f"{folder}: the shard {missing} is missing; pull the model again")
    return [folder / file for file in files]


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file, which also checks its length against its header.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return safe_open(str(path), framework="np")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or truncated ({error}); remove it and pull the model again"
        ) from error
