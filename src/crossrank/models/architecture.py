"""What a model is made of, in one plain description that the engines run.

``models/families.py`` reads a checkpoint's config into an ``Architecture`` and says which of its tensors is
which. Engines know no family by name, and no name of a checkpoint's tensors.

Canonical names of tensors (H hidden, E embedding, F intermediate; matrices are (outputs, inputs)):

    embedding.words.weight (V, E), embedding.positions.weight, embedding.segments.weight
    embedding.norm.weight, .bias (E)                  if embedding_norm
    embedding.projection.weight (H, E), .bias         if E is not H
    layer.I.query.weight (heads * head_size, H), .bias
    layer.I.key | value .weight (key_value_heads * head_size, H), .bias
    layer.I.attention_output.weight (H, heads * head_size), .bias
    layer.I.query_norm | key_norm .weight (head_size)  if head_norms
    layer.I.intermediate.weight (F, H), .bias         and layer.I.gate.weight, .bias (F, H) if gated
    layer.I.output.weight (H, F), .bias
    layer.I.attention_norm | output_norm .weight, .bias (H)
    final_norm.weight, .bias (H)                      if final_norm
    head.N.weight, .bias                              of step N of the head, if it is a Dense or a HeadNorm
    match.query (H), match.factor (1)                 if match

A bias that a checkpoint does not have is zero. An RMSNorm has no bias. ``layer.0.attention_norm`` is absent
if ``first_norm`` is False.

A block computes, with ``norm_first`` (and without):

    x = x + attention(norm(x))          x = norm(x + attention(x))
    x = x + feed_forward(norm(x))       x = norm(x + feed_forward(x))

where feed_forward(x) is output(activation(intermediate(x))), or output(activation(gate(x)) *
intermediate(x)) if ``gated``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Activation",
    "Alibi",
    "Architecture",
    "Dense",
    "Function",
    "HeadNorm",
    "HeadStep",
    "Learned",
    "Match",
    "Pooling",
    "Rotary",
    "Source",
    "alibi_slopes",
]

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]
Pooling: TypeAlias = Literal["first", "mean", "last"]


@dataclass(frozen=True, slots=True)
class Learned:
    """A table with a vector for each position.

    Attributes:
        rows: of the table.
        first: the row of the first token.
        padding_id: a token with this id is not counted, and has the row before ``first``; None: all are
            counted.
    """

    rows: int
    first: int = 0
    padding_id: int | None = None


@dataclass(frozen=True, slots=True)
class Rotary:
    """Queries and keys are turned by an angle that grows with the position.

    Value i of the first half of a head and value i of its second half are turned together, by
    ``position * frequencies[i]``.

    Attributes:
        frequencies: radians per position, for each pair of values in a head.
        scale: factor on the sine and cosine.
    """

    frequencies: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Alibi:
    """Head h's scores get ``-slopes[h] * distance`` between query and key (arXiv 2108.12409)."""

    slopes: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer of the head."""

    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Function:
    """An activation function in the head."""

    name: Activation


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """A LayerNorm in the head."""

    size: int
    epsilon: float


HeadStep: TypeAlias = Dense | Function | HeadNorm


@dataclass(frozen=True, slots=True)
class Match:
    """A part of the logit that says how well the document's tokens match the query's.

    After a layer in the middle, each token of the query finds the token of the document whose state has the
    largest cosine with its own (ColBERT's late interaction, arXiv 2004.12832, within a cross-encoder). The
    part is the mean of these cosines, weighted by the softmax of ``match.query`` times the query's states,
    times ``match.factor``; it is added to the logit. It is 0 where the query or the document has no tokens.

    A pair is ``<s> query </s></s> document </s>``: the query ends at the first ``separator`` after the first
    token, and the document begins behind the one that follows.

    Attributes:
        layer: after which the states are compared, from 1; not the last.
        separator: the id of ``</s>``.
    """

    layer: int
    separator: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model, as the engines see it.

    Attributes:
        family: for messages, such as "ModernBERT".
        hidden: values of a token between the blocks.
        layers: blocks.
        heads: of attention.
        intermediate: values of a token within the feed-forward part.
        vocabulary: rows of the word embeddings.
        embedding: values of a word embedding; if it is not ``hidden``, a projection follows.
        max_tokens: of a pair.
        positions: a table, or ALiBi; None with rotary positions.
        rotary: for each layer; empty without rotary positions.
        windows: for each layer, the largest distance at which a token sees another; None is no limit.
        segments: rows of the segment embeddings; 0: there are none.
        embedding_norm: embeddings are normalised.
        norm_first: blocks normalise their input; else the sum that they return.
        first_norm: False: the first block's attention does not normalise its input.
        final_norm: the last block's result is normalised.
        epsilon: of the norms.
        activation: of the feed-forward part.
        gated: the feed-forward part has a gate.
        pooling: what the head gets: the first token, the mean of all, or the last token.
        head: steps from the pooled vector to one logit.
        labels: of the checkpoint; with 2, the logit is the second minus the first.
        norm: of the embeddings and blocks: LayerNorm, or RMSNorm, which only divides by the root of the mean
            square.
        head_size: values of an attention head; 0 becomes ``hidden / heads``.
        key_value_heads: heads of keys and values, each of which serves ``heads / key_value_heads`` heads of
            queries that follow one another; 0 becomes ``heads``.
        head_norms: queries and keys get an RMSNorm within each head before they are turned.
        causal: a token sees itself and those before it; ``windows`` limit that too.
        embedding_scale: word embeddings are multiplied by it.
        match: a second part of the logit; None: the head's is all.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    embedding: int
    max_tokens: int
    positions: Learned | Alibi | None
    head: tuple[HeadStep, ...]
    rotary: tuple[Rotary, ...] = ()
    windows: tuple[int | None, ...] = ()
    segments: int = 0
    embedding_norm: bool = True
    norm_first: bool = False
    first_norm: bool = True
    final_norm: bool = False
    epsilon: float = 1e-12
    activation: Activation = "gelu"
    gated: bool = False
    pooling: Pooling = "first"
    labels: int = 1
    norm: Literal["layer", "rms"] = "layer"
    head_size: int = 0
    key_value_heads: int = 0
    head_norms: bool = False
    causal: bool = False
    embedding_scale: float = 1.0
    match: Match | None = None

    def __post_init__(self) -> None:
        if not self.head_size:
            object.__setattr__(self, "head_size", self.hidden // self.heads)
        if not self.key_value_heads:
            object.__setattr__(self, "key_value_heads", self.heads)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Each canonical tensor's name and shape, with biases that a checkpoint may not have."""
        yield "embedding.words.weight", (self.vocabulary, self.embedding)
        if isinstance(self.positions, Learned):
            yield "embedding.positions.weight", (self.positions.rows, self.embedding)
        if self.segments:
            yield "embedding.segments.weight", (self.segments, self.embedding)
        if self.embedding_norm:
            yield from self._norm("embedding.norm", self.embedding)
        if self.embedding != self.hidden:
            yield from _dense("embedding.projection", self.hidden, self.embedding)
        for layer in range(self.layers):
            at = f"layer.{layer}."
            wide = self.heads * self.head_size
            narrow = self.key_value_heads * self.head_size
            yield from _dense(f"{at}query", wide, self.hidden)
            yield from _dense(f"{at}key", narrow, self.hidden)
            yield from _dense(f"{at}value", narrow, self.hidden)
            yield from _dense(f"{at}attention_output", self.hidden, wide)
            for name in ("query_norm", "key_norm") if self.head_norms else ():
                yield f"{at}{name}.weight", (self.head_size,)
            if layer or self.first_norm:
                yield from self._norm(f"{at}attention_norm", self.hidden)
            for name in ("intermediate", "gate") if self.gated else ("intermediate",):
                yield from _dense(at + name, self.intermediate, self.hidden)
            yield from _dense(f"{at}output", self.hidden, self.intermediate)
            yield from self._norm(f"{at}output_norm", self.hidden)
        if self.final_norm:
            yield from self._norm("final_norm", self.hidden)
        for number, step in enumerate(self.head):
            if isinstance(step, Dense):
                yield from _dense(f"head.{number}", step.outputs, step.inputs)
            elif isinstance(step, HeadNorm):
                yield f"head.{number}.weight", (step.size,)
                yield f"head.{number}.bias", (step.size,)
        if self.match:
            yield "match.query", (self.hidden,)
            yield "match.factor", (1,)

    def _norm(self, name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (size,)
        if self.norm == "layer":
            yield f"{name}.bias", (size,)

    def flat(self) -> dict[str, Any]:
        """The same as numbers, strings and lists, for the native module.

        Layers that share a ``Rotary`` share an entry of ``rotary``: ``rotary_of_layer`` has its index.
        """
        kinds = list(dict.fromkeys(self.rotary))
        learned = self.positions if isinstance(self.positions, Learned) else None
        return {
            "hidden": self.hidden,
            "layers": self.layers,
            "heads": self.heads,
            "intermediate": self.intermediate,
            "vocabulary": self.vocabulary,
            "embedding": self.embedding,
            "max_tokens": self.max_tokens,
            "position_rows": learned.rows if learned else 0,
            "first_position": learned.first if learned else 0,
            "padding_id": -1 if learned is None or learned.padding_id is None else learned.padding_id,
            "alibi": list(self.positions.slopes) if isinstance(self.positions, Alibi) else [],
            "rotary": [list(kind.frequencies) for kind in kinds],
            "rotary_scale": [kind.scale for kind in kinds],
            "rotary_of_layer": [kinds.index(kind) for kind in self.rotary],
            "windows": [-1 if window is None else window for window in self.windows],
            "segments": self.segments,
            "embedding_norm": self.embedding_norm,
            "norm_first": self.norm_first,
            "first_norm": self.first_norm,
            "final_norm": self.final_norm,
            "epsilon": self.epsilon,
            "activation": self.activation,
            "gated": self.gated,
            "pooling": self.pooling,
            "norm": self.norm,
            "head_size": self.head_size,
            "key_value_heads": self.key_value_heads,
            "head_norms": self.head_norms,
            "causal": self.causal,
            "embedding_scale": self.embedding_scale,
            "match_layer": self.match.layer if self.match else 0,
            "separator": self.match.separator if self.match else 0,
            "head": [{"kind": type(step).__name__, **asdict(step)} for step in self.head],
        }


def _dense(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a canonical tensor is in a checkpoint.

    Attributes:
        name: of the checkpoint's tensor, as transformers calls it today.
        part: which of its equal parts, counted in rows.
        parts: their number.
        minus: the tensor is row ``minus[0]`` minus row ``minus[1]``, in fp32; it has no others.
        tokens: of a table with a row for each token, the tensor is this token's, or the first one's minus
            the second one's, in fp32.
        plus: a number that is added to each value, which is then fp32.
    """

    name: str
    part: int = 0
    parts: int = 1
    minus: tuple[int, int] | None = None
    tokens: tuple[int, ...] = ()
    plus: float = 0.0

    def take(self, stored: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
        """The tensor, a view where that is possible; None if the checkpoint does not have it.

        Raises:
            ValueError: it does not divide into its parts, or lacks a row.
        """
        whole = stored.get(self.name)
        if whole is None:
            return None
        if self.plus:
            return _to_float32(whole) + np.float32(self.plus)
        if self.minus is not None and len(whole) != len(self.minus):
            raise ValueError(f"tensor '{self.name}' has {len(whole)} rows; with two labels it has 2")
        chosen = self.tokens if self.minus is None else self.minus
        if chosen:
            if not whole.ndim or len(whole) <= max(chosen):
                raise ValueError(f"tensor '{self.name}' has no row for the token {max(chosen)}")
            first, *second = (_to_float32(whole[row : row + 1]) for row in chosen)
            return first - second[0] if second else first
        if not whole.ndim or len(whole) % self.parts:
            raise ValueError(f"tensor '{self.name}' does not divide into {self.parts} parts")
        rows = len(whole) // self.parts
        return whole if self.parts == 1 else whole[self.part * rows : (self.part + 1) * rows]


def _to_float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.dtype == np.uint16:  # bf16
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """ALiBi's slopes: a geometric series for a power of two, and for other numbers of heads every second
    value of the next series too, as its authors' code does (arXiv 2108.12409).
    """
    power = 1 << int(math.log2(heads))
    series = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * power)) for i in range(0, 2 * (heads - power), 2)]
    return tuple(series + between)
