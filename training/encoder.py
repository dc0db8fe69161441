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

ROUND = 16
"""Lengths are rounded up to a multiple of this, since oneDNN compiles a kernel for each new shape."""

MAX_PADDING = 0.1
"""Maximum share of padding in a bucket."""

MIN_TOKENS = 512
"""A bucket with fewer tokens takes further pairs whatever their padding."""

PAD = 1
"""Id of the padding token."""


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


def forward(model: Any, pairs: list[list[int]]) -> torch.Tensor:
    """Logits of pairs, float32 (pairs,) on the CPU, computed on the model's device."""
    device = model.classifier.weight.device
    places = buckets([len(pair) for pair in pairs])
    shapes, ids, masks = [], [], []
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
    first = _encode(model.bert, ids, masks, shapes)  # (pairs, H)
    pooled = torch.tanh(model.bert.pooler.dense(first.float()))
    logits = model.classifier(pooled)[:, 0].cpu()
    back = torch.empty(len(pairs), dtype=torch.long)
    back[torch.tensor([i for bucket in places for i in bucket])] = torch.arange(len(pairs))
    return torch.as_tensor(logits[back])


def _encode(
    bert: Any, ids: list[torch.Tensor], masks: list[torch.Tensor], shapes: list[tuple[int, int]]
) -> torch.Tensor:
    """Hidden states of the first tokens of the pairs, (pairs, H); inside, all tokens are one (T, H)."""
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
    for layer in bert.encoder.layer:
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
    firsts = [
        part.view(n, width, -1)[:, 0]
        for part, (n, width) in zip(torch.split(hidden, sizes), shapes, strict=True)
    ]
    return torch.cat(firsts)
