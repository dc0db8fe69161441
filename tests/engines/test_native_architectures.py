"""The native engine on every feature that an ``Architecture`` can have, against its definition in numpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from crossrank import _native as native
from crossrank.models.architecture import (
    Activation,
    Alibi,
    Architecture,
    Dense,
    Function,
    HeadNorm,
    Learned,
    Match,
    Rotary,
    alibi_slopes,
)

ISAS = native.isas()
Array = npt.NDArray[Any]
Pairs = list[tuple[Array, Array]]


def _erf(x: Array) -> Array:
    found: Array = torch.erf(torch.from_numpy(x)).numpy()
    return found


FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: x / 2 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def rotary(theta: float, size: int, scale: float = 1.0) -> Rotary:
    return Rotary(tuple(theta ** (-2 * i / size) for i in range(size // 2)), scale)


def head(hidden: int) -> tuple[Any, ...]:
    return (Dense(hidden, hidden), Function("tanh"), Dense(hidden, 1))


PLAIN = Architecture(
    family="test",
    hidden=96,
    layers=3,
    heads=3,
    intermediate=200,  # not whole panels
    vocabulary=300,
    embedding=96,
    max_tokens=720,
    positions=Learned(722, 2, 1),
    segments=2,
    epsilon=1e-5,
    head=head(96),
)
LOCAL, GLOBAL = rotary(100.0, 32), rotary(10_000.0, 32, 1.1)
MODERN = replace(
    PLAIN,
    positions=None,
    rotary=(GLOBAL, LOCAL, LOCAL),
    windows=(None, 40, 40),
    segments=0,
    norm_first=True,
    first_norm=False,
    final_norm=True,
    gated=True,
)
DECODER = replace(
    PLAIN,
    heads=6,  # wider together than the hidden size
    key_value_heads=2,
    head_norms=True,
    positions=None,
    rotary=(GLOBAL,) * 3,
    segments=0,
    embedding_norm=False,
    norm="rms",
    norm_first=True,
    final_norm=True,
    epsilon=1e-6,
    activation="silu",
    gated=True,
    causal=True,
    pooling="last",
    head=(Dense(96, 1),),
)
LARGE_DECODER = replace(
    DECODER,
    hidden=576,
    heads=6,
    key_value_heads=3,
    head_size=128,
    embedding=576,
    rotary=(rotary(1e6, 128),) * 3,
    head=(Dense(576, 1),),
)

ARCHITECTURES: dict[str, Architecture] = {
    "plain": PLAIN,
    "norm first": replace(PLAIN, norm_first=True),
    "norm first, final norm": replace(PLAIN, norm_first=True, final_norm=True),
    "no first norm": replace(PLAIN, norm_first=True, first_norm=False),
    "final norm": replace(PLAIN, final_norm=True),
    "no positions": replace(PLAIN, positions=None),
    "no segments": replace(PLAIN, segments=0),
    "positions from 0": replace(PLAIN, positions=Learned(720)),
    "no embedding norm": replace(PLAIN, embedding_norm=False),
    "projection": replace(PLAIN, embedding=40),
    "projection, norm first": replace(PLAIN, embedding=160, norm_first=True),
    "rotary": replace(PLAIN, positions=None, rotary=(GLOBAL,) * 3),
    "rotary, two kinds": replace(PLAIN, positions=None, rotary=(GLOBAL, LOCAL, GLOBAL)),
    "rotary, heads of 24": replace(
        PLAIN, heads=4, key_value_heads=4, head_size=24, positions=None, rotary=(rotary(1000.0, 24),) * 3
    ),
    "windows": replace(PLAIN, windows=(None, 40, 64)),
    "a window of 0": replace(PLAIN, windows=(0, 3, None)),
    "wide windows": replace(PLAIN, windows=(300, 550, 513)),
    "alibi": replace(PLAIN, positions=Alibi(alibi_slopes(3))),
    "alibi, windows": replace(PLAIN, positions=Alibi(alibi_slopes(3)), windows=(20, None, 100)),
    "mean": replace(PLAIN, pooling="mean"),
    "mean, norm first": replace(PLAIN, pooling="mean", norm_first=True, final_norm=True),
    **{f"{name}": replace(PLAIN, activation=name) for name in ("gelu_tanh", "relu", "silu", "tanh")},
    **{
        f"gated {name}": replace(PLAIN, gated=True, activation=name)
        for name in ("gelu", "gelu_tanh", "relu", "silu")
    },
    "head of one step": replace(PLAIN, head=(Dense(96, 1),)),
    "head that begins with a norm": replace(PLAIN, head=(HeadNorm(96, 1e-6), Dense(96, 1))),
    "long head": replace(
        PLAIN,
        head=(
            Dense(96, 250),
            Function("gelu"),
            HeadNorm(250, 1e-3),
            Dense(250, 40),
            Function("silu"),
            Dense(40, 96),
            Function("relu"),
            Function("gelu_tanh"),
            Dense(96, 1),
        ),
    ),
    "modern": MODERN,
    "modern, mean": replace(MODERN, pooling="mean"),
    "one layer": replace(PLAIN, layers=1, windows=(5,), norm_first=True),
    "large": replace(
        MODERN,
        hidden=576,
        heads=9,
        key_value_heads=9,
        head_size=64,
        embedding=576,
        head=head(576),
        rotary=(rotary(100.0, 64),) * 3,
    ),
    "large, mean": replace(
        PLAIN,
        hidden=576,
        heads=9,
        key_value_heads=9,
        head_size=64,
        embedding=64,
        head=head(576),
        pooling="mean",
        norm_first=True,
    ),
    "last token": replace(PLAIN, pooling="last"),
    "rms": replace(PLAIN, norm="rms"),
    "rms, norm first": replace(PLAIN, norm="rms", norm_first=True, first_norm=False, embedding=40),
    "causal": replace(PLAIN, causal=True),
    "causal, windows": replace(PLAIN, causal=True, windows=(40, None, 550), pooling="last"),
    "shared keys": replace(PLAIN, heads=8, key_value_heads=4, head_size=10),
    "shared keys, alibi": replace(
        PLAIN, heads=6, key_value_heads=2, positions=Alibi(alibi_slopes(6)), causal=True, pooling="last"
    ),
    "embedding scale": replace(PLAIN, embedding_scale=math.sqrt(96)),
    "match": replace(PLAIN, match=Match(2, 9)),
    "match, mean": replace(PLAIN, pooling="mean", match=Match(1, 9)),
    "match, norm first": replace(MODERN, match=Match(1, 9)),
    "large match": replace(
        PLAIN,
        hidden=580,  # not whole vectors
        heads=10,
        key_value_heads=10,
        head_size=58,
        embedding=580,
        head=head(580),
        match=Match(1, 9),
    ),
    "decoder": DECODER,
    "decoder, windows": replace(DECODER, windows=(None, 40, 300)),
    "decoder, no head norms": replace(DECODER, head_norms=False, key_value_heads=6),
    "decoder, mean": replace(DECODER, pooling="mean"),
    "decoder, one key head": replace(
        DECODER,
        head_norms=False,
        key_value_heads=1,
        head_size=40,
        rotary=(rotary(10_000.0, 40),) * 3,
        activation="gelu_tanh",
        embedding_scale=math.sqrt(96),
    ),
    "large decoder": LARGE_DECODER,
}


def weights(architecture: Architecture, *, biases: bool = True, seed: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for name, shape in architecture.shapes():
        if name.endswith(".bias") and not biases:
            continue
        value = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            value = value * 0.1 + ("norm" in name and name.endswith("weight"))
        elif name.startswith("layer."):
            value = value * 1.5 / math.sqrt(shape[1])
        elif not name.startswith("embedding.") or "projection" in name:
            value = value * 2 / math.sqrt(shape[1])
        tensors[name] = np.ascontiguousarray(value, np.float32)
    if isinstance(architecture.head[0], HeadNorm):
        tensors["head.0.weight"] = np.abs(rng.standard_normal(architecture.hidden, dtype=np.float32))
    if architecture.match:
        tensors["match.factor"] = np.array([8.0], np.float32)
    return tensors


def reference(a: Architecture, tensors: dict[str, Array], pairs: Pairs) -> Array:
    """Logits in float64, as architecture.py defines them."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}

    def linear(name: str, x: Array) -> Array:
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    def rms(name: str, x: Array) -> Array:
        found: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + a.epsilon) * t[f"{name}.weight"]
        return found

    def norm(name: str, x: Array, epsilon: float = a.epsilon) -> Array:
        if a.norm == "rms" and not name.startswith("head."):
            return rms(name, x)
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        found: Array = scaled * t[f"{name}.weight"] + t.get(f"{name}.bias", 0)
        return found

    def turn(x: Array, rotary: Rotary) -> Array:
        angles = np.arange(x.shape[1])[:, None] * np.array(rotary.frequencies)
        c, s = rotary.scale * np.cos(angles), rotary.scale * np.sin(angles)
        left, right = np.split(x, 2, axis=-1)
        return np.concatenate([left * c - right * s, right * c + left * s], -1)

    def attention(layer: int, x: Array) -> Array:
        n = len(x)
        q, k, v = (
            linear(f"layer.{layer}.{name}", x).reshape(n, -1, a.head_size).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        if a.head_norms:
            q, k = rms(f"layer.{layer}.query_norm", q), rms(f"layer.{layer}.key_norm", k)
        if a.rotary:
            q, k = turn(q, a.rotary[layer]), turn(k, a.rotary[layer])
        k, v = (np.repeat(x, a.heads // a.key_value_heads, axis=0) for x in (k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(a.head_size)
        distance = np.abs(np.arange(n)[:, None] - np.arange(n))
        if isinstance(a.positions, Alibi):
            scores -= np.array(a.positions.slopes)[:, None, None] * distance
        window = a.windows[layer] if a.windows else None
        if window is not None:
            scores = np.where(distance <= window, scores, -np.inf)
        if a.causal:
            scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        context = powers / powers.sum(-1, keepdims=True) @ v
        return linear(f"layer.{layer}.attention_output", context.transpose(1, 0, 2).reshape(n, -1))

    def feed_forward(layer: int, x: Array) -> Array:
        inner = linear(f"layer.{layer}.intermediate", x)
        if a.gated:
            inner = inner * FUNCTIONS[a.activation](linear(f"layer.{layer}.gate", x))
        else:
            inner = FUNCTIONS[a.activation](inner)
        return linear(f"layer.{layer}.output", inner)

    def matched(match: Match, ids: Array, x: Array) -> float:
        ends = [i for i, token in enumerate(ids) if token == match.separator and 0 < i < len(ids) - 1]
        query, document = (x[1 : ends[0]], x[ends[0] + 2 : -1]) if ends else (x[:0], x[:0])
        if not len(query) or not len(document):
            return 0.0
        unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (query, document)]
        powers = np.exp(query @ t["match.query"])
        best = (unit[0] @ unit[1].T).max(1)
        return float(t["match.factor"][0] * (powers / powers.sum()) @ best)

    logits = []
    for ids, segments in pairs:
        matches = 0.0
        x = t["embedding.words.weight"][ids] * a.embedding_scale
        if a.segments:
            x = x + t["embedding.segments.weight"][segments]
        if isinstance(a.positions, Learned):
            counted = ids != a.positions.padding_id
            rows = np.where(counted, a.positions.first + np.cumsum(counted) - 1, a.positions.first - 1)
            x = x + t["embedding.positions.weight"][rows]
        if a.embedding_norm:
            x = norm("embedding.norm", x)
        if a.embedding != a.hidden:
            x = linear("embedding.projection", x)
        for layer in range(a.layers):
            first, second = f"layer.{layer}.attention_norm", f"layer.{layer}.output_norm"
            if a.norm_first:
                x = x + attention(layer, norm(first, x) if layer or a.first_norm else x)
                x = x + feed_forward(layer, norm(second, x))
            else:
                x = norm(first, x + attention(layer, x))
                x = norm(second, x + feed_forward(layer, x))
            if a.match and layer + 1 == a.match.layer:
                matches = matched(a.match, ids, x)
        if a.final_norm:
            x = norm("final_norm", x)
        pooled = {"first": x[0], "mean": x.mean(0), "last": x[-1]}[a.pooling]
        for number, step in enumerate(a.head):
            if isinstance(step, Dense):
                pooled = linear(f"head.{number}", pooled)
            elif isinstance(step, HeadNorm):
                pooled = norm(f"head.{number}", pooled, step.epsilon)
            else:
                pooled = FUNCTIONS[step.name](pooled)
        logits.append(pooled[0] + matches)
    return np.array(logits)


def random_pairs(a: Architecture, lengths: list[int], seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    pairs = [
        (
            rng.integers(0, a.vocabulary, n, dtype=np.int32),
            (np.arange(n) >= n // 3).astype(np.int32) if a.segments > 1 else np.zeros(n, np.int32),
        )
        for n in lengths
    ]
    if a.match:
        for ids, _ in pairs:
            ids[len(ids) // 3 :][:2] = ids[-1:] = a.match.separator
    return pairs


def engine(
    a: Architecture, tensors: dict[str, Array], precision: str, threads: int = 1, isa: str = ""
) -> native.Engine:
    flat = a.flat()
    return native.Engine(
        flat, native.prepare_weights(flat, tensors, precision, threads), precision, threads, isa
    )


def run(engine: native.Engine, pairs: Pairs, *, segments: bool = True) -> Array:
    offsets = np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int32)
    return engine.logits(
        np.concatenate([ids for ids, _ in pairs]),
        offsets,
        np.concatenate([segment for _, segment in pairs]) if segments else None,
    )


def score(engine: native.Engine, a: Architecture, pairs: Pairs) -> Array:
    return run(engine, pairs, segments=a.segments > 0)


LENGTHS = [1, 2, 31, 33, 41, 42, 64, 97, 129, 10]
LONG = [*LENGTHS, 600]


FEATURES = [
    "plain",
    "gated gelu",
    "gated silu",
    "relu",
    "projection",
    "alibi, windows",
    "modern",
    "decoder, windows",
    "decoder, one key head",
    "match",
    "large match",
]
"""Architectures that have all features of the kernels."""


class Case:
    """An architecture with random weights, and what its definition says of some pairs."""

    def __init__(self, name: str) -> None:
        self.architecture = ARCHITECTURES[name]
        self.tensors = weights(self.architecture)
        self.pairs = random_pairs(self.architecture, LONG)
        self.expected = reference(self.architecture, self.tensors, self.pairs)


@functools.cache
def case_of(name: str) -> Case:
    return Case(name)


def check_fp32(case: Case, isa: str) -> None:
    assert case.expected.std() > 0.05  # the comparison means something
    got = score(engine(case.architecture, case.tensors, "fp32", 2, isa), case.architecture, case.pairs)
    np.testing.assert_allclose(got, case.expected, atol=1e-4)


def check_lower(case: Case, precision: str, isa: str) -> None:
    got = score(engine(case.architecture, case.tensors, precision, 2, isa), case.architecture, case.pairs)
    worst = {"bf16": 0.12, "int8": 0.3}[precision] * max(1, case.expected.std())
    assert np.abs(got - case.expected).max() <= worst
    assert np.corrcoef(got, case.expected)[0, 1] > {"bf16": 0.99, "int8": 0.97}[precision]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fp32_is_what_the_architecture_says(name: str) -> None:
    check_fp32(case_of(name), "")


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("isa", ISAS[1:])
def test_fp32_is_the_same_on_every_instruction_set(name: str, isa: str) -> None:
    check_fp32(case_of(name), isa)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_are_close(name: str, precision: str) -> None:
    check_lower(case_of(name), precision, "")


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("isa", ISAS[1:])
def test_lower_precisions_are_close_on_every_instruction_set(name: str, precision: str, isa: str) -> None:
    check_lower(case_of(name), precision, isa)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_logit_does_not_depend_on_threads_or_on_its_pack(name: str, precision: str) -> None:
    """Bit for bit: alone on all threads, which share long pairs by tokens and short ones of a large model
    by outputs, and beside others on one thread.
    """
    case = case_of(name)
    a, pairs = case.architecture, case.pairs
    together = score(engine(a, case.tensors, precision, 1), a, pairs)
    for threads in (2, 3):
        many = engine(a, case.tensors, precision, threads)
        np.testing.assert_array_equal(score(many, a, pairs), together)
        alone = np.concatenate([score(many, a, [pair]) for pair in pairs])
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [3, 64, 300])
def test_windows_on_every_instruction_set_do_not_depend_on_the_pack(
    isa: str, precision: str, window: int
) -> None:
    narrow = replace(MODERN, hidden=64, heads=2, key_value_heads=2, embedding=64, head=head(64))
    a = replace(narrow, windows=(window, None, window))
    tensors = weights(a)
    pairs = random_pairs(a, [700, 513, 90, 33])
    together = score(engine(a, tensors, precision, 1, isa), a, pairs)
    many = engine(a, tensors, precision, 3, isa)
    np.testing.assert_array_equal(np.concatenate([score(many, a, [pair]) for pair in pairs]), together)


@pytest.mark.parametrize(
    "name", ["plain", "modern", "projection", "long head", "head that begins with a norm"]
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bias_that_is_not_there_is_zero(name: str, precision: str) -> None:
    a = ARCHITECTURES[name]
    tensors = weights(a, biases=False)
    zeros = {n: np.zeros(shape, np.float32) for n, shape in a.shapes() if n.endswith(".bias")}
    pairs = random_pairs(a, LENGTHS)
    got = score(engine(a, tensors, precision), a, pairs)
    np.testing.assert_array_equal(score(engine(a, tensors | zeros, precision), a, pairs), got)
    if precision == "fp32":
        np.testing.assert_allclose(got, reference(a, tensors, pairs), atol=1e-4)


def test_positions_far_from_the_first() -> None:
    """Angles are the product of two turns: they are exact beyond both tables."""
    kinds = (rotary(10_000.0, 32), rotary(160_000.0, 32))
    a = replace(MODERN, max_tokens=2000, layers=2, rotary=kinds, windows=(None, 64))
    tensors = weights(a)
    pairs = random_pairs(a, [1500, 129])
    got = score(engine(a, tensors, "fp32", 2), a, pairs)
    np.testing.assert_allclose(got, reference(a, tensors, pairs), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotary": [[1.0], [1.0]]}, "rotary has 1 frequencies; it must have 16"),
        ({"rotary_of_layer": [0, 1, 7]}, "rotary_of_layer has the index 7"),
        ({"rotary_scale": []}, "not of one length"),
        ({"windows": [1]}, "windows has 1 values; it must have one for each of 3 layers"),
        ({"alibi": [0.5]}, "alibi has 1 values; it must have one for each of 3 heads"),
        ({"alibi": [0.5, 0.1, -1.0]}, "alibi has the slope -1"),
        ({"activation": "swish"}, "activation is 'swish'; supported: gelu, gelu_tanh, relu, silu, tanh"),
        ({"pooling": "cls"}, "pooling is 'cls'; supported: first, mean, last"),
        ({"norm": "batch"}, "norm is 'batch'; supported: layer, rms"),
        ({"head_size": 31}, "head_size is 31; it must be even"),
        ({"key_value_heads": 2}, "3 heads do not divide among 2 heads of keys and values"),
        ({"key_value_heads": 6}, "key_value_heads is 6"),
        ({"head_norms": True, "rotary_of_layer": []}, "head_norms are for rotary positions"),
        ({"embedding_scale": math.nan}, "embedding_scale is nan"),
        ({"gated": "yes"}, "gated is not a truth value"),
        ({"hidden": "96"}, "hidden is not an integer"),
        ({"segments": -1}, "segments is -1"),
        ({"position_rows": 100, "first_position": 2}, "leave no room for 720 tokens"),
        ({"head": []}, "does not end in a dense step"),
        ({"head": [{"kind": "Dense", "inputs": 96, "outputs": 2}]}, "does not end in a dense step"),
        ({"head": [{"kind": "Dense", "inputs": 40, "outputs": 1}]}, "takes 40 values; it must take 96"),
        ({"head": [{"kind": "Pool"}]}, "kind is 'Pool'"),
        ({"head": [{"kind": "HeadNorm", "size": 96, "epsilon": math.inf}]}, "epsilon of the head is inf"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"match_layer": 3}, "match_layer is 3; it must be 0, or 1 to 2"),
        ({"match_layer": 1, "causal": True}, "whose attention is not causal"),
        ({"match_layer": 1}, "tensor 'match.query' is missing"),
    ],
)
def test_what_is_no_architecture_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        native.prepare_weights(MODERN.flat() | change, weights(MODERN), "fp32")


def test_a_part_that_is_missing_is_named() -> None:
    flat = MODERN.flat()
    del flat["windows"]
    with pytest.raises(ValueError, match="the architecture has no windows"):
        native.prepare_weights(flat, weights(MODERN), "fp32")
    for name in weights(MODERN, biases=False):
        tensors = weights(MODERN)
        del tensors[name]
        with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
            native.prepare_weights(MODERN.flat(), tensors, "int8")


def test_what_is_not_finite_is_named() -> None:
    a = replace(MODERN, embedding=40, head=ARCHITECTURES["long head"].head)
    for name, value in weights(a).items():
        broken = value.copy()
        broken.flat[-1] = np.nan
        with pytest.raises(ValueError, match=f"tensor '{name}' holds NaN or infinity"):
            native.prepare_weights(a.flat(), weights(a) | {name: broken}, "int8", 2)
