"""A BERT encoder for training on CPUs, with a few large matrix products instead of many small ones.

Pairs of similar length share a bucket, which is padded to its longest pair. The tokens of all buckets of a
micro-batch lie end to end, so that each product, norm and GELU covers thousands of tokens; only attention
processes the buckets one by one. The parameters are those of the transformers model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from crossrank.engines._plain import match_tokens

ROUND = 16
"""Lengths are rounded up to a multiple of this, since oneDNN compiles a kernel for each new shape."""

MAX_PADDING = 0.1
"""Maximum share of padding in a bucket."""

MIN_TOKENS = 512
"""A bucket with fewer tokens takes further pairs whatever their padding."""

PAD = 1
"""Id of the padding token."""

END = 2
"""Id of the token that ends the query, begins the document, and ends it: <s> query </s></s> document </s>."""


class Match(torch.nn.Module):
    """What a part of the logit says of how well a document's tokens match the query's.

    The same as ``crossrank.models.architecture.Match``. In the middle of the network a token's state still
    says mostly what the token means in its own text; later layers mix the two texts.
    """

    def __init__(self, layer: int, size: int) -> None:
        super().__init__()
        self.layer = layer
        self.query = torch.nn.Parameter(torch.zeros(size))
        self.factor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, hidden: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
        """The part of each pair's logit, float32 (n,).

        Args:
            hidden: states of pairs, (n, L, H).
            spans: for each pair, the ends of its query and of its document, int64 (n, 2).
        """
        place = torch.arange(hidden.shape[1], device=hidden.device)[None, :]
        asked = (place >= 1) & (place < spans[:, :1])  # (n, L)
        told = (place >= spans[:, :1] + 2) & (place < spans[:, 1:])
        width = int(spans[:, 0].max())
        return self.factor * match_tokens(hidden[:, :width], hidden, asked[:, :width], told, self.query)


def buckets(lengths: list[int]) -> list[list[int]]:
    """Sort the indices of pairs into buckets of similar length, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    found: list[list[int]] = []
    longest = real = 0
    for i in order:
        if found:
            count = len(found[-1])
            padded = longest * (count + 1)
            if longest * count < MIN_TOKENS or padded - real - lengths[i] <= MAX_PADDING * padded:
                found[-1].append(i)
                real += lengths[i]
                continue
        found.append([i])
        longest, real = -(-lengths[i] // ROUND) * ROUND, lengths[i]
    return found


def ends(pair: list[int]) -> tuple[int, int]:
    """Where the query of a pair ends, and where its document does."""
    last = len(pair) - 1
    return next((i for i in range(1, last) if pair[i] == END), last), last


def forward(model: Any, pairs: list[list[int]]) -> torch.Tensor:
    """Logits of pairs, float32 (pairs,) on the CPU, computed on the model's device."""
    head, match = logit_parts(model, pairs)
    return head if match is None else head + match


def logit_parts(model: Any, pairs: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the head and the match add to the logits of pairs, float32 (pairs,) on the CPU each."""
    device = model.classifier.weight.device
    places = buckets([len(pair) for pair in pairs])
    shapes, ids, masks, spans = [], [], [], []
    for bucket in places:
        width = -(-len(pairs[bucket[0]]) // ROUND) * ROUND
        table = np.full((len(bucket), width), PAD, np.int64)
        for row, i in enumerate(bucket):
            table[row, : len(pairs[i])] = pairs[i]
        lengths = torch.tensor([len(pairs[i]) for i in bucket])
        mask = torch.arange(width)[None, :] >= lengths[:, None]  # (n, L), True for padding
        shapes.append((len(bucket), width))
        ids.append(torch.from_numpy(table).to(device))
        masks.append(mask[:, None, None, :].to(device))
        spans.append(torch.tensor([ends(pairs[i]) for i in bucket]).to(device))
    match = getattr(model, "match", None)
    first, states = _encode(model.bert, ids, masks, shapes, match.layer if match else None)  # (pairs, H)
    pooled = torch.tanh(model.bert.pooler.dense(first.float()))
    back = torch.empty(len(pairs), dtype=torch.long)
    back[torch.tensor([i for bucket in places for i in bucket])] = torch.arange(len(pairs))
    head = model.classifier(pooled)[:, 0].cpu()[back]
    if match is None:
        return head, None
    parts = [match(hidden, own) for hidden, own in zip(states, spans, strict=True)]
    return head, torch.cat(parts).cpu()[back]


def _encode(
    bert: Any,
    ids: list[torch.Tensor],
    masks: list[torch.Tensor],
    shapes: list[tuple[int, int]],
    kept: int | None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Hidden states of the first tokens of the pairs, (pairs, H); inside, all tokens are one (T, H).

    With them, the states of all tokens after the layer ``kept`` (from 1), (n, L, H) for each bucket.
    """
    states: list[torch.Tensor] = []
    table = bert.embeddings
    positions, kind = table.position_embeddings.weight, table.token_type_embeddings.weight[0]
    parts = [
        (table.word_embeddings(own) + positions[: own.shape[1]] + kind).view(-1, positions.shape[1])
        for own in ids
    ]
    hidden = table.LayerNorm(torch.cat(parts))  # (T, H)
    sizes = [n * width for n, width in shapes]
    biases = [
        torch.zeros(mask.shape, dtype=hidden.dtype, device=mask.device).masked_fill_(
            mask, torch.finfo(hidden.dtype).min
        )
        for mask in masks
    ]
    heads = bert.config.num_attention_heads
    for number, layer in enumerate(bert.encoder.layer, start=1):
        own = layer.attention.self
        weight = torch.cat([own.query.weight, own.key.weight, own.value.weight])
        bias = torch.cat([own.query.bias, own.key.bias, own.value.bias])
        qkv = functional.linear(hidden, weight, bias)  # (T, 3H)
        seen = []
        for part, (n, width), masked in zip(torch.split(qkv, sizes), shapes, biases, strict=True):
            # (n, L, 3, heads, size) -> three of (n, heads, L, size)
            query, key, value = part.view(n, width, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            scores = torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5 + masked
            mixed = torch.matmul(torch.softmax(scores, -1), value)  # (n, heads, L, size)
            seen.append(mixed.transpose(1, 2).reshape(n * width, -1))
        output = layer.attention.output
        hidden = output.LayerNorm(output.dense(torch.cat(seen)) + hidden)
        inner = functional.gelu(layer.intermediate.dense(hidden))
        hidden = layer.output.LayerNorm(layer.output.dense(inner) + hidden)
        if number == kept:
            states = [
                part.view(n, width, -1)
                for part, (n, width) in zip(torch.split(hidden, sizes), shapes, strict=True)
            ]
    firsts = [
        part.view(n, width, -1)[:, 0]
        for part, (n, width) in zip(torch.split(hidden, sizes), shapes, strict=True)
    ]
    return torch.cat(firsts), states
