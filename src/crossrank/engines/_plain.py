"""An ``Architecture`` in plain PyTorch, on packs as they are: there is no padding.

Modules have the canonical names of the tensors they hold, but queries, keys and values are one product,
and so are the gate and what it gates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from crossrank.errors import InputError
from crossrank.models.architecture import (
    Activation,
    Alibi,
    Architecture,
    Dense,
    HeadNorm,
    HeadStep,
    Learned,
    Match,
    Rotary,
)
from crossrank.packing import Pack

__all__ = ["PlainModel", "match_tokens"]

ROWS = 512
"""Queries of a pair that are computed at a time where attention has a window or a bias: the memory for what
each of them sees grows with the pair's length, not with its square."""

_Weights: TypeAlias = Mapping[str, npt.NDArray[Any]]
_Attend: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_FUNCTIONS: Mapping[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class PlainModel(nn.Module):
    """Runs an architecture. The last norm and the head are computed in fp32 in every precision, since 16-bit
    logits tie.

    Args:
        architecture: the model.
        weights: its tensors by their canonical names; bf16 as uint16. They are copied.
        device: where it runs.
        dtype: of the encoder's arithmetic.
    """

    def __init__(
        self, architecture: Architecture, weights: _Weights, device: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.architecture = architecture
        epsilon = architecture.epsilon
        self.words = _table(weights, "embedding.words", dtype)
        self.positions = _table(weights, "embedding.positions", dtype)
        self.segments = _table(weights, "embedding.segments", dtype)
        rms = architecture.norm == "rms"
        self.embedding_norm = _norm(weights, "embedding.norm", epsilon, dtype, rms=rms)
        self.projection = (
            _linear(weights, ["embedding.projection"], dtype)
            if architecture.embedding != architecture.hidden
            else nn.Identity()
        )
        self.layer = nn.ModuleList(
            _Block(architecture, weights, f"layer.{number}.", dtype) for number in range(architecture.layers)
        )
        self.final_norm = _norm(weights, "final_norm", epsilon, torch.float32, rms=rms)
        self.head = nn.Sequential(
            *(_step(weights, f"head.{number}", step) for number, step in enumerate(architecture.head))
        )
        self.match = _Match(architecture.match, weights) if architecture.match else None
        self.to(device)
        self._device = torch.device(device)
        self._slopes: torch.Tensor | None = None
        if isinstance(architecture.positions, Alibi):
            slopes = torch.tensor(architecture.positions.slopes, device=self._device)
            self._slopes = slopes[:, None, None]
        self._flash = _flash_attention(architecture, self._device, dtype)

    @property
    def vocabulary(self) -> int:
        """Rows of the word embeddings."""
        return self.architecture.vocabulary

    def batches(self, lengths: npt.NDArray[np.int32]) -> list[npt.NDArray[np.intp]]:
        """Pairs that run together: all, longest first, so that those of equal length are neighbours."""
        return [np.argsort(-lengths, kind="stable")]

    def check(self, pack: Pack) -> None:
        """Check what would make a GPU fail, and with it every later call of the process.

        Raises:
            InputError: the model has no such position or segment.
        """
        longest = self.architecture.max_tokens
        for pair in np.flatnonzero((pack.lengths < 1) | (pack.lengths > longest))[:1]:
            raise InputError(f"pair {pair} has {pack.lengths[pair]} tokens; it must have 1 to {longest}")
        segments = self.architecture.segments
        if pack.segment_ids is not None and segments > 1:
            for token in np.flatnonzero((pack.segment_ids < 0) | (pack.segment_ids >= segments))[:1]:
                pair = int(np.searchsorted(pack.offsets, token, "right")) - 1
                raise InputError(
                    f"pair {pair} has the segment id {pack.segment_ids[token]}; "
                    f"the model has embeddings for 0 to {segments - 1}"
                )

    def forward(self, pack: Pack) -> torch.Tensor:
        """One logit for each pair: float32 (B,), on the device."""
        lengths = pack.lengths
        starts = pack.offsets[:-1]
        places = np.arange(len(pack.token_ids)) - np.repeat(starts, lengths)
        # (pairs, tokens of each) of neighbours with one length.
        runs = [(len(list(same)), length) for length, same in groupby(lengths.tolist())]
        offsets = self._put(pack.offsets, torch.int32)
        turns = {kind: self._turn(kind, places) for kind in set(self.architecture.rotary)}

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if turns:
                cosine, sine = turns[self.architecture.rotary[layer]]
                q, k = _rotate(q, cosine, sine), _rotate(k, cosine, sine)
            window = self.architecture.windows[layer] if self.architecture.windows else None
            if self._flash is None:
                return self._attend(q, k, v, runs, window)
            longest = int(lengths.max())
            seen = _flash_window(window, causal=self.architecture.causal)
            return self._flash(q, k, v, offsets, offsets, longest, longest, window_size=seen)

        x = self._embed(pack, places)
        matches: torch.Tensor | float = 0.0
        pooled = {"first": starts, "last": pack.offsets[1:] - 1}.get(self.architecture.pooling)
        keep = None if pooled is None else self._put(pooled, torch.long)
        for number, block in enumerate(self.layer):
            is_last = number == len(self.layer) - 1
            x = block(x, partial(attend, number), keep if is_last else None)
            if self.match and number + 1 == self.match.layer:
                matches = self.match(x, self._put(pack.token_ids, torch.long), runs)
        x = self.final_norm(x.float())
        if keep is None:
            x = torch.cat([part.mean(1) for part in _split(x, runs)])
        logits: torch.Tensor = self.head(x)[:, 0] + matches
        return logits

    def _put(self, array: npt.NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, dtype)

    def _embed(self, pack: Pack, places: npt.NDArray[np.intp]) -> torch.Tensor:
        """(tokens, hidden)."""
        x = self.words(self._put(pack.token_ids, torch.long))
        if self.architecture.embedding_scale != 1:
            x = x * self.architecture.embedding_scale
        learned = self.architecture.positions
        if isinstance(learned, Learned):
            x = x + self.positions(self._put(_positions(learned, pack, places), torch.long))
        if self.architecture.segments > 1 and pack.segment_ids is not None:
            x = x + self.segments(self._put(pack.segment_ids, torch.long))
        elif self.architecture.segments:
            x = x + self.segments(self._put(np.zeros(1), torch.long))
        embedded: torch.Tensor = self.projection(self.embedding_norm(x))
        return embedded

    def _turn(self, kind: Rotary, places: npt.NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of each token's angles, fp32 (tokens, 1, half of a head)."""
        frequencies = torch.tensor(kind.frequencies, dtype=torch.float32, device=self._device)
        angles = (self._put(places, torch.float32)[:, None] * frequencies)[:, None]
        return angles.cos() * kind.scale, angles.sin() * kind.scale

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        runs: list[tuple[int, int]],
        window: int | None,
    ) -> torch.Tensor:
        """Attention of each pair to itself: (tokens, heads, size), as its arguments."""
        parts = []
        for queries, keys, values in zip(_split(q, runs), _split(k, runs), _split(v, runs), strict=True):
            found = self._attend_alike(
                queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), window
            )
            parts.append(found.transpose(1, 2).flatten(0, 1))
        return torch.cat(parts)

    def _attend_alike(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        """Attention of pairs of one length: (pairs, heads, tokens, size)."""
        length, causal = q.shape[2], self.architecture.causal
        if window is not None and length <= window + 1:
            window = None
        if window is None and self._slopes is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        parts = []
        for start in range(0, length, ROWS):
            end = min(start + ROWS, length)
            first, last = (0, length) if window is None else (max(0, start - window), end + window)
            last = end if causal else min(last, length)
            rows = torch.arange(start, end, device=self._device)[:, None]
            columns = torch.arange(first, last, device=self._device)
            distance = (rows - columns).abs()
            bias = torch.zeros(distance.shape, device=self._device)
            if self._slopes is not None:
                bias = -self._slopes * distance
            if window is not None:
                bias = bias.masked_fill(distance > window, -torch.inf)
            if causal:
                bias = bias.masked_fill(columns > rows, -torch.inf)
            seen = slice(first, last)
            parts.append(
                F.scaled_dot_product_attention(
                    q[:, :, start:end], k[:, :, seen], v[:, :, seen], bias.to(q.dtype)
                )
            )
        return torch.cat(parts, 2)


class _Block(nn.Module):
    """Attention and a feed-forward part."""

    def __init__(self, architecture: Architecture, weights: _Weights, at: str, dtype: torch.dtype) -> None:
        super().__init__()
        self._norm_first = architecture.norm_first
        self._heads = (architecture.heads, architecture.key_value_heads, architecture.key_value_heads)
        self._head_size = architecture.head_size
        self._gated = architecture.gated
        self._function = _FUNCTIONS[architecture.activation]
        self.qkv = _linear(weights, [f"{at}query", f"{at}key", f"{at}value"], dtype)
        self.attention_output = _linear(weights, [f"{at}attention_output"], dtype)
        rms, epsilon = architecture.norm == "rms", architecture.epsilon
        self.query_norm = _norm(weights, f"{at}query_norm", epsilon, dtype, rms=True)
        self.key_norm = _norm(weights, f"{at}key_norm", epsilon, dtype, rms=True)
        self.attention_norm = _norm(weights, f"{at}attention_norm", epsilon, dtype, rms=rms)
        widened = [f"{at}gate", f"{at}intermediate"] if architecture.gated else [f"{at}intermediate"]
        self.widened = _linear(weights, widened, dtype)
        self.output = _linear(weights, [f"{at}output"], dtype)
        self.output_norm = _norm(weights, f"{at}output_norm", epsilon, dtype, rms=rms)

    def forward(self, x: torch.Tensor, attend: _Attend, keep: torch.Tensor | None) -> torch.Tensor:
        """(tokens, hidden), or only the rows that ``keep`` names."""
        qkv = self.qkv(self.attention_norm(x) if self._norm_first else x)
        q, k, v = qkv.view(len(x), -1, self._head_size).split(self._heads, 1)
        shared = self._heads[0] // self._heads[1]
        k, v = self.key_norm(k).repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        mixed = attend(self.query_norm(q), k, v).flatten(1)
        if keep is not None:
            x, mixed = x[keep], mixed[keep]
        x = x + self.attention_output(mixed)
        if not self._norm_first:
            x = self.attention_norm(x)
        inner = self.widened(self.output_norm(x) if self._norm_first else x)
        if self._gated:
            gate, inner = inner.chunk(2, -1)
            inner = self._function(gate) * inner
        else:
            inner = self._function(inner)
        x = x + self.output(inner)
        return x if self._norm_first else self.output_norm(x)


class _Apply(nn.Module):
    """An activation function of the head."""

    def __init__(self, name: Activation) -> None:
        super().__init__()
        self._function = _FUNCTIONS[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._function(x)


class _Match(nn.Module):
    """The part of the logit that ``architecture.Match`` describes, in fp32."""

    def __init__(self, match: Match, weights: _Weights) -> None:
        super().__init__()
        self.layer = match.layer
        self._separator = match.separator
        self.query = _parameter(_tensor(weights["match.query"], torch.float32))
        self.factor = _parameter(_tensor(weights["match.factor"], torch.float32))

    def forward(self, x: torch.Tensor, ids: torch.Tensor, runs: list[tuple[int, int]]) -> torch.Tensor:
        """One number for each pair: float32 (B,)."""
        parts = [self._alike(*part) for part in zip(_split(x.float(), runs), _split(ids, runs), strict=True)]
        return torch.cat(parts)

    def _alike(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The same of pairs of one length: (pairs, tokens, hidden) and (pairs, tokens)."""
        length = ids.shape[1]
        place = torch.arange(length, device=ids.device)
        ends = torch.where((ids == self._separator) & (place > 0), place, length).amin(1, keepdim=True)
        query = (place > 0) & (place < ends)  # (pairs, tokens)
        document = (place > ends + 1) & (place < length - 1)
        return self.factor * match_tokens(x, x, query, document, self.query)


def match_tokens(
    first: torch.Tensor,
    states: torch.Tensor,
    query: torch.Tensor,
    document: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """The weighted mean of the query tokens' best cosines: float32 (pairs,); see ``architecture.Match``.

    Args:
        first: states of the first tokens, among which the query's are: (pairs, Q, hidden).
        states: of all tokens, (pairs, tokens, hidden). Cosines are computed in their type.
        query: which of ``first`` are the query's, bool (pairs, Q).
        document: which of ``states`` are the document's, bool (pairs, tokens).
        weights: ``match.query``, float32 (hidden,).
    """
    of_query, of_all = (F.normalize(x.float(), dim=-1).to(x.dtype) for x in (first, states))
    cosines = (of_query @ of_all.transpose(1, 2)).float().masked_fill(~document[:, None, :], -1.0)
    shares = (first.float() @ weights).masked_fill(~query, -1e9).softmax(1)
    part = (shares * cosines.amax(2)).sum(1)
    return torch.where(query.any(1) & document.any(1), part, torch.zeros_like(part))


def _positions(learned: Learned, pack: Pack, places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The row of each token in the table of positions."""
    if learned.padding_id is None:
        return places + learned.first
    counts = pack.token_ids != learned.padding_id
    # Counted tokens of the pack before each token, less those before its pair.
    before = np.concatenate([[0], np.cumsum(counts)])
    number = before[1:] - np.repeat(before[pack.offsets[:-1]], pack.lengths)
    return np.where(counts, number, 0) + learned.first - 1


def _split(x: torch.Tensor, runs: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Tokens of each run: (pairs, tokens of each, ...)."""
    parts = x.split([pairs * length for pairs, length in runs])
    return [part.unflatten(0, run) for part, run in zip(parts, runs, strict=True)]


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = x.float().chunk(2, -1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
    return turned.to(x.dtype)


def _flash_window(window: int | None, *, causal: bool) -> tuple[int, int]:
    """How far a token sees back and ahead; -1 is no limit."""
    size = -1 if window is None else window
    return size, 0 if causal else size


def _flash_attention(
    architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> Callable[..., torch.Tensor] | None:
    """PyTorch's attention for sequences of different lengths, where it is there and works.

    It needs CUDA, 16 bits and PyTorch 2.10, and knows no ALiBi. Whether this device and this size of heads
    will do is not documented, so it is tried on two short sequences.
    """
    if device.type != "cuda" or dtype == torch.float32 or isinstance(architecture.positions, Alibi):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn

        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, architecture.heads, architecture.head_size, generator=generator)
        x = x.to(device, dtype)
        offsets = torch.tensor([0, 5, 8], dtype=torch.int32, device=device)
        has_window = any(size is not None for size in architecture.windows)
        window = _flash_window(1 if has_window else None, causal=architecture.causal)
        found: Any = varlen_attn(x, x, x, offsets, offsets, 5, 5, window_size=window)
        place = torch.tensor([0, 1, 2, 3, 4, 10, 11, 12], device=device)
        distance = place[:, None] - place
        seen = distance.abs() <= (1 if has_window else 5)
        if architecture.causal:
            seen &= distance >= 0
        heads = x.transpose(0, 1)
        expected = F.scaled_dot_product_attention(heads, heads, heads, seen).transpose(0, 1)
        good = torch.allclose(found.float(), expected.float(), atol=0.05)
    except Exception:  # noqa: BLE001 - whatever it raises, there is another way
        return None
    attention: Any = varlen_attn
    return attention if good else None


def _tensor(array: npt.NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """A copy: the array may be mapped from a file, which may change."""
    if array.dtype == np.uint16:  # bf16
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16).to(dtype)
    return torch.from_numpy(np.array(array)).to(dtype)


def _parameter(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _table(weights: _Weights, name: str, dtype: torch.dtype) -> nn.Module:
    """An embedding table; nothing if the model does not have it."""
    stored = weights.get(f"{name}.weight")
    if stored is None:
        return nn.Identity()
    table: nn.Module = nn.Embedding.from_pretrained(_tensor(stored, dtype))
    return table


def _linear(weights: _Weights, names: list[str], dtype: torch.dtype) -> nn.Linear:
    """One product for several matrices, whose outputs follow one another. A bias that is missing is zero."""
    matrices = [_tensor(weights[f"{name}.weight"], dtype) for name in names]
    biases = [weights.get(f"{name}.bias") for name in names]
    has_bias = any(bias is not None for bias in biases)
    outputs = sum(len(matrix) for matrix in matrices)
    linear = nn.Linear(matrices[0].shape[1], outputs, bias=has_bias, device="meta")
    linear.weight = _parameter(torch.cat(matrices) if len(matrices) > 1 else matrices[0])
    if has_bias:
        values = [
            torch.zeros(len(matrix), dtype=dtype) if bias is None else _tensor(bias, dtype)
            for matrix, bias in zip(matrices, biases, strict=True)
        ]
        linear.bias = _parameter(torch.cat(values))
    return linear


def _norm(
    weights: _Weights, name: str, epsilon: float, dtype: torch.dtype, *, rms: bool = False
) -> nn.Module:
    """A LayerNorm, or an RMSNorm; nothing if the model does not have it."""
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    if weight is None:
        return nn.Identity()
    if rms:
        root = nn.RMSNorm(len(weight), epsilon, device="meta")
        root.weight = _parameter(_tensor(weight, dtype))
        return root
    norm = nn.LayerNorm(len(weight), epsilon, bias=bias is not None, device="meta")
    norm.weight = _parameter(_tensor(weight, dtype))
    if bias is not None:
        norm.bias = _parameter(_tensor(bias, dtype))
    return norm


def _step(weights: _Weights, name: str, step: HeadStep) -> nn.Module:
    if isinstance(step, Dense):
        return _linear(weights, [name], torch.float32)
    if isinstance(step, HeadNorm):
        return _norm(weights, name, step.epsilon, torch.float32)
    return _Apply(step.name)
