"""Prefixes in the native engine: pairs that begin alike have the logits that they have as whole sequences."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crossrank import _native as native
from crossrank.models.architecture import Alibi, Architecture, alibi_slopes
from tests.engines.test_native_architectures import (
    ARCHITECTURES,
    DECODER,
    ISAS,
    LARGE_DECODER,
    reference,
    weights,
)

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]
"""A prefix, and what follows it."""

MODELS: dict[str, Architecture] = {
    "decoder": DECODER,
    "windows": replace(DECODER, windows=(20, None, 300)),
    "large": LARGE_DECODER,
    "one key head": ARCHITECTURES["decoder, one key head"],
    "one layer": replace(DECODER, layers=1, rotary=DECODER.rotary[:1]),
    "alibi": replace(
        DECODER, rotary=(), head_norms=False, positions=Alibi(alibi_slopes(DECODER.heads)), key_value_heads=6
    ),
}
PRECISIONS = ["fp32", "bf16", "int8"]
TEMPLATE = 25
"""Tokens that all prefixes begin with."""


@functools.cache
def tensors(name: str) -> dict[str, Array]:
    return weights(MODELS[name])


def engine(name: str, precision: str, threads: int = 1, isa: str = "", **settings: Any) -> native.Engine:
    flat = MODELS[name].flat()
    prepared = native.prepare_weights(flat, tensors(name), precision)
    return native.Engine(flat, prepared, precision, threads, isa, **settings)


def tokens(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, DECODER.vocabulary, count, dtype=np.int32)


def pairs_of(prefixes: Sequence[int], tails: Sequence[int]) -> list[Pair]:
    """Each prefix with each tail; lengths are in tokens. Prefixes begin with one template."""
    template = tokens(TEMPLATE, 0)
    return [
        (np.concatenate([template, tokens(max(0, before - TEMPLATE), before)])[:before], tokens(after, after))
        for before in prefixes
        for after in tails
    ]


def whole(engine: native.Engine, pairs: Sequence[Pair]) -> Array:
    """Their logits as sequences without prefixes."""
    sequences = [np.concatenate(pair) for pair in pairs]
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int32)
    return engine.logits(np.concatenate(sequences), offsets)


def shared(engine: native.Engine, pairs: Sequence[Pair]) -> Array:
    """Their logits as a pack with prefixes."""
    groups: dict[bytes, int] = {}
    prefixes: list[Array] = []
    prefix_of = []
    for prefix, _ in pairs:
        if prefix.tobytes() not in groups:
            groups[prefix.tobytes()] = len(prefixes)
            prefixes.append(prefix)
        prefix_of.append(groups[prefix.tobytes()])
    return engine.logits(
        np.concatenate([tail for _, tail in pairs]),
        np.cumsum([0, *(len(tail) for _, tail in pairs)], dtype=np.int32),
        None,
        np.concatenate(prefixes),
        np.cumsum([0, *map(len, prefixes)], dtype=np.int32),
        np.array(prefix_of, np.int32),
    )


def check(got: Array, expected: Array, precision: str) -> None:
    assert np.isfinite(expected).all()
    assert expected.std() > 0.01
    if precision == "fp32":
        np.testing.assert_allclose(got, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(got, expected)


PREFIXES = [30, 1, 64, 77, 530]
TAILS = [1, 2, 31, 66, 9]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_logits_are_those_of_whole_sequences(name: str, precision: str, threads: int) -> None:
    """Prefixes shorter than a panel of keys and longer than a block of them, tails of one token, several
    prefixes in a pack; from an empty cache and from a full one; alone and together.
    """
    pairs = pairs_of(PREFIXES, TAILS)
    expected = whole(engine(name, precision), pairs)
    sharing = engine(name, precision, threads)
    for _ in range(2):
        check(shared(sharing, pairs), expected, precision)
    alone = np.concatenate([shared(sharing, [pair]) for pair in pairs])
    check(alone, expected, precision)


@pytest.mark.parametrize("name", ["windows", "one key head"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("isa", ISAS[1:])
def test_logits_are_the_same_on_every_instruction_set(name: str, precision: str, isa: str) -> None:
    pairs = pairs_of([30, 530], [1, 40])
    check(
        shared(engine(name, precision, 2, isa), pairs),
        whole(engine(name, precision, 1, isa), pairs),
        precision,
    )


def test_fp32_is_what_the_architecture_says() -> None:
    pairs = pairs_of([77, 530], [1, 66])
    segments = np.zeros(0, np.int32)
    expected = reference(DECODER, tensors("decoder"), [(np.concatenate(pair), segments) for pair in pairs])
    np.testing.assert_allclose(shared(engine("decoder", "fp32", 2), pairs), expected, atol=1e-4)


def test_an_empty_prefix_is_none() -> None:
    pairs = pairs_of([0, 40], [5, 30])
    check(shared(engine("decoder", "int8"), pairs), whole(engine("decoder", "int8"), pairs), "int8")


def test_a_prefix_is_computed_once() -> None:
    sharing = engine("decoder", "int8", 2)
    for tails in ([5, 6, 7], [8], [9, 10]):
        shared(sharing, pairs_of([60], tails))
        assert sharing.prefix_tokens == 60


def test_what_prefixes_begin_with_is_computed_once() -> None:
    """From one pack to the next, and within the first one."""
    sharing = engine("decoder", "int8", 2)
    shared(sharing, pairs_of([60], [5]))
    shared(sharing, pairs_of([70, 80], [5]))
    assert sharing.prefix_tokens == 60 + (70 - TEMPLATE) + (80 - TEMPLATE)

    sharing = engine("decoder", "int8", 2)
    lengths = [60, 61, 62, 63, 64]
    shared(sharing, pairs_of(lengths, [5]))
    assert sharing.prefix_tokens == TEMPLATE + sum(length - TEMPLATE for length in lengths)


def test_a_prefix_of_a_prefix_is_taken_over() -> None:
    sharing = engine("decoder", "int8")
    longer = pairs_of([60], [5, 9])
    shorter = [(prefix[:40], tail) for prefix, tail in longer]
    shared(sharing, longer)
    check(
        np.concatenate([shared(sharing, longer + shorter), shared(sharing, shorter)]),
        whole(engine("decoder", "int8"), longer + shorter + shorter),
        "int8",
    )
    assert sharing.prefix_tokens == 60


def test_the_cache_is_bounded() -> None:
    sharing = engine("decoder", "int8", 2)
    shared(sharing, pairs_of([60], [5]))
    one = sharing.prefix_bytes
    assert one > 0

    # Room for two of that length: the one that was used least recently goes.
    pairs = {length: pairs_of([length], [5, 31]) for length in (60, 59, 58)}
    expected = {length: whole(engine("decoder", "int8"), some) for length, some in pairs.items()}
    sharing = engine("decoder", "int8", 2, prefix_bytes=2 * one)
    computed = 0
    for length, new in [(60, 60), (59, 34), (60, 0), (58, 33), (60, 0), (59, 34), (58, 33)]:
        check(shared(sharing, pairs[length]), expected[length], "int8")
        computed += new
        assert sharing.prefix_tokens == computed
        assert sharing.prefix_bytes <= 2 * one

    # A pack with more of them than have room is computed in parts.
    together = [pair for some in pairs.values() for pair in some]
    check(shared(sharing, together), np.concatenate(list(expected.values())), "int8")
    assert sharing.prefix_bytes <= 2 * one


@pytest.mark.parametrize("room", [0, 1000])
def test_without_room_nothing_is_kept(room: int) -> None:
    sharing = engine("decoder", "int8", 2, prefix_bytes=room)
    pairs = pairs_of([60, 70], [5, 31])
    check(shared(sharing, pairs), whole(engine("decoder", "int8"), pairs), "int8")
    assert sharing.prefix_bytes == 0


def test_calls_side_by_side() -> None:
    """Packs with the same prefixes and with others, from several threads, with room for few of them."""
    packs = [pairs_of([40 + i % 3, 50 + i % 4], [1 + i, 20, 33]) for i in range(12)]
    alone = engine("decoder", "int8")
    expected = [whole(alone, pack) for pack in packs]
    for room in (1 << 28, 200_000):
        sharing = engine("decoder", "int8", 2, prefix_bytes=room)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                for got, wanted in zip(
                    pool.map(functools.partial(shared, sharing), packs), expected, strict=True
                ):
                    np.testing.assert_array_equal(got, wanted)
        assert sharing.prefix_bytes <= room


def test_what_is_not_finite_does_not_become_a_number() -> None:
    broken = dict(tensors("decoder"))
    words = broken["embedding.words.weight"].copy()
    words[7] = np.nan
    flat = DECODER.flat()
    prepared = native.prepare_weights(flat, broken, "int8")
    prepared["embedding.words"] = words
    sharing = native.Engine(flat, prepared, "int8", 2)
    good, bad = np.array([3, 4, 5, 6], np.int32), np.array([3, 4, 7, 6], np.int32)
    for _ in range(2):
        got = shared(sharing, [(good, good), (bad, good), (good, bad)])
        assert [math.isfinite(logit) for logit in got] == [True, False, False]


def test_a_wrong_pack_is_refused() -> None:
    sharing = engine("decoder", "int8", 2)

    def logits(
        prefix_ids: Sequence[int] = (1, 2, 3, 4),
        prefix_offsets: Sequence[int] = (0, 4),
        prefix_of: Sequence[int] = (0, 0),
        tails: int = 3,
    ) -> Array:
        return sharing.logits(
            np.full(2 * tails, 5, np.int32),
            np.array([0, tails, 2 * tails], np.int32),
            None,
            *(np.array(values, np.int32) for values in (prefix_ids, prefix_offsets, prefix_of)),
        )

    assert np.isfinite(logits()).all()
    with pytest.raises(ValueError, match="prefix_offsets go from 0 to 3"):
        logits(prefix_offsets=(0, 3))
    with pytest.raises(ValueError, match="prefix_offsets is empty"):
        logits(prefix_offsets=())
    with pytest.raises(ValueError, match="prefix_offsets do not rise: prefix 1 ends at 4"):
        logits(prefix_offsets=(0, 5, 4))
    with pytest.raises(ValueError, match="pair 1 has the prefix 1; there are 1"):
        logits(prefix_of=(0, 1))
    with pytest.raises(ValueError, match="pair 0 has the prefix -1"):
        logits(prefix_of=(-1, 0))
    with pytest.raises(ValueError, match="prefix_of has 1 elements; it must have 2, as pairs"):
        logits(prefix_of=(0,))
    with pytest.raises(ValueError, match="prefix 0 has the token id 300"):
        logits(prefix_ids=(1, 300, 3, 4))
    with pytest.raises(ValueError, match="pair 0 has 717 tokens behind a prefix of 4; it must have 1 to 716"):
        logits(tails=717)
    with pytest.raises(ValueError, match="belong together"):
        sharing.logits(np.array([5], np.int32), np.array([0, 1], np.int32), None, np.array([5], np.int32))
    assert np.isfinite(logits()).all()


@pytest.mark.parametrize("name", ["plain", "decoder, mean", "causal"])
def test_other_models_take_no_prefixes(name: str) -> None:
    a = ARCHITECTURES[name]
    flat = a.flat()
    without = native.Engine(flat, native.prepare_weights(flat, weights(a), "int8"), "int8", 1)
    with pytest.raises(ValueError, match="prefixes are for models with causal attention"):
        shared(without, pairs_of([4], [3]))
