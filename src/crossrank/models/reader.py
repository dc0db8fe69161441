"""What a family's reader works with: the fields of a config, and the names that it gives to tensors."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.architecture import Activation, Dense, Function, HeadStep, Source

__all__ = ["MOST_LAYERS", "Config", "Module", "Reader", "Sources", "UndescribedError", "local_layers"]

MOST_LAYERS = 1000
"""A config that claims more is damaged; names are made for each layer."""


class UndescribedError(UnsupportedModelError):
    """An ``Architecture`` cannot say what this model does. The message is a clause: "its ... is ..."."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of sentence-transformers' modules.json, after the transformer itself.

    Attributes:
        kind: its class, without the package: "Pooling", "Dense", "LayerNorm".
        path: its folder, with which the names of its tensors begin: "2_Dense/linear.weight".
        config: the object in its config.json; empty if it has none.
    """

    kind: str
    path: str
    config: Mapping[str, Any]


class Config:
    """Fields of a config.json by their types.

    Args:
        values: the object in the file.
        where: the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self._where = where

    def integer(self, name: str, default: int | None = None, *, least: int = 1, most: int = 1 << 30) -> int:
        """A whole number; without a default the field must be there.

        Raises:
            CheckpointError: it is missing, of another type, or out of range.
        """
        if default is None and self.values.get(name) is None:
            raise CheckpointError(f"{self._where} has no {name}")
        wanted = f"a whole number from {least} to {most}"
        return int(self._get(name, default, int, wanted, lambda value: least <= value <= most))

    def number(self, name: str, default: float) -> float:
        """A positive number.

        Raises:
            CheckpointError: it is of another type, or not positive.
        """
        wanted = "a small positive number" if name.endswith("eps") else "a positive number"
        return float(self._get(name, default, (int, float), wanted, lambda value: 0 < value < math.inf))

    def text(self, name: str, default: str) -> str:
        """A string.

        Raises:
            CheckpointError: it is of another type.
        """
        return str(self._get(name, default, str, "a string"))

    def flag(self, name: str, *, default: bool) -> bool:
        """A bool.

        Raises:
            CheckpointError: it is of another type.
        """
        return bool(self._get(name, default, bool, "true or false"))

    def part(self, name: str) -> Config:
        """An object; one without fields if it is not there.

        Raises:
            CheckpointError: it is of another type.
        """
        return Config(self._get(name, {}, dict, "an object"), f"{self._where}: {name}")

    def _get(
        self,
        name: str,
        default: Any,
        kind: type | tuple[type, ...],
        wanted: str,
        is_good: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        """A field's value; the default if it is not there. A bool does not pass for a number."""
        value = self.values.get(name)
        if value is None:
            return default
        if (
            not isinstance(value, kind)
            or (kind is not bool and isinstance(value, bool))
            or not is_good(value)
        ):
            raise CheckpointError(f"{self._where}: {name} is {reprlib.repr(value)}; it must be {wanted}")
        return value


Sources: TypeAlias = dict[str, Source]
_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(slots=True)
class Reader:
    """What a family's reader works with.

    Attributes:
        config: the model's.
        names: of the checkpoint's tensors, as transformers calls them today; empty if they are not known.
        labels: of the classifier.
        tokens: whose rows of the output embedding are the head, if the model has no classifier: one, or two
            whose difference counts.
        sources: the canonical tensors that were named so far.
    """

    config: Config
    names: Collection[str]
    labels: int
    tokens: tuple[int, ...] = ()
    sources: Sources = field(default_factory=dict)

    def name(self, canonical: str, stored: str, *, bias: bool = True, part: int = 0, parts: int = 1) -> None:
        """Say where the weight of a canonical layer is, and its bias."""
        for end in ("weight", "bias") if bias else ("weight",):
            self.sources[f"{canonical}.{end}"] = Source(f"{stored}.{end}", part, parts)

    def names_of(self, layer: int, stored: Mapping[str, str], prefix: str, *, bias: bool = True) -> None:
        """The same for some parts of a layer."""
        for canonical, name in stored.items():
            self.name(f"layer.{layer}.{canonical}", prefix + name, bias=bias)

    def packed(self, layer: int, canonical: Sequence[str], stored: str, *, bias: bool = True) -> None:
        """Parts of a layer that a checkpoint has as one matrix, in this order."""
        for part, name in enumerate(canonical):
            self.name(f"layer.{layer}.{name}", stored, bias=bias, part=part, parts=len(canonical))

    def classifier(self, step: int, stored: str, inputs: int, *, bias: bool = True) -> Dense:
        """The head's last step. With two labels, the logit is the second minus the first."""
        minus = (1, 0) if self.labels == 2 else None
        for end in ("weight", "bias") if bias else ("weight",):
            self.sources[f"head.{step}.{end}"] = Source(f"{stored}.{end}", minus=minus)
        return Dense(inputs, 1)

    def dense_head(
        self, dense: str, function: Activation, classifier: str, size: int
    ) -> tuple[HeadStep, ...]:
        """A dense layer, a function, a classifier: the head of most families."""
        self.name("head.0", dense)
        return Dense(size, size), Function(function), self.classifier(2, classifier, size)

    def layers(self, name: str = "num_hidden_layers") -> int:
        return self.config.integer(name, most=MOST_LAYERS)

    def heads(self, hidden: int, name: str = "num_attention_heads") -> int:
        heads = self.config.integer(name, most=hidden)
        if hidden % heads or hidden // heads % 2:
            raise CheckpointError(
                f"config.json: a hidden size of {hidden} does not divide into {heads} heads of an even size"
            )
        return heads

    def activation(self, name: str = "hidden_act", default: str = "gelu") -> Activation:
        found = self.config.text(name, default)
        if found not in _ACTIVATIONS:
            raise UndescribedError(f"its activation is {found}")
        return _ACTIVATIONS[found]

    def has(self, pattern: str) -> bool:
        """True if a tensor's name contains this."""
        return any(pattern in name for name in self.names)


def local_layers(types: object, layers: int) -> list[bool]:
    """Whether each layer's attention is local, as a config's ``layer_types`` says.

    Raises:
        CheckpointError: it does not.
    """
    known = {"full_attention": False, "sliding_attention": True}
    if not isinstance(types, list) or len(types) != layers or not set(map(str, types)) <= known.keys():
        raise CheckpointError(
            "config.json: layer_types must name full_attention or sliding_attention per layer"
        )
    return [known[str(kind)] for kind in types]
