"""The kernels of crossrank._native, each instruction set of this machine, against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from crossrank import _native
from crossrank import _native_test as native

ISAS = _native.isas()
SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (13, 31, 33),
    (14, 32, 64),
    (15, 33, 66),
    (29, 70, 130),
    (128, 96, 384),
    (0, 8, 8),
]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32)


def to_int8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row to integers in -127..127 and the row's scale."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    return np.rint(x * (np.float32(127) / largest)), largest / 127


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel().tolist()]).reshape(x.shape)


def test_there_is_always_portable_code() -> None:
    assert ISAS[-1] == "portable"
    assert _native.isa() in ISAS


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_fp32(isa: str, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    rows, outputs, inputs = shape
    x, w, b = normal(rng, rows, inputs), normal(rng, outputs, inputs), normal(rng, outputs)
    expected = x.astype(np.float64) @ w.T + b
    np.testing.assert_allclose(
        native.linear(x, w, b, "fp32", isa=isa), expected, atol=1e-5 * math.sqrt(inputs)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_bf16(isa: str, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    rows, outputs, inputs = shape
    x, w, b = normal(rng, rows, inputs), normal(rng, outputs, inputs), normal(rng, outputs)
    expected = to_bf16(x).astype(np.float64) @ to_bf16(w).T + b
    np.testing.assert_allclose(
        native.linear(x, w, b, "bf16", isa=isa), expected, atol=1e-5 * math.sqrt(inputs)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_int8(isa: str, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    rows, outputs, inputs = shape
    x, w, b = normal(rng, rows, inputs), normal(rng, outputs, inputs), normal(rng, outputs)
    if rows == 0:
        assert native.linear(x, w, b, "int8", isa=isa).shape == (0, outputs)
        return
    (xq, x_scale), (wq, w_scale) = to_int8(x), to_int8(w)
    expected = (xq.astype(np.float64) @ wq.T) * x_scale * w_scale.T + b
    np.testing.assert_allclose(native.linear(x, w, b, "int8", isa=isa), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("precision", "largest"), [("fp32", 5e-6), ("bf16", 3e-4), ("int8", 3e-4)])
def test_linear_with_gelu(isa: str, precision: str, largest: float, rng: np.random.Generator) -> None:
    x, w, b = normal(rng, 20, 33), normal(rng, 50, 33) / 4, normal(rng, 50)
    plain = native.linear(x, w, b, precision, isa=isa)
    np.testing.assert_allclose(
        native.linear(x, w, b, precision, gelu=True, isa=isa), gelu(plain), atol=largest
    )


@pytest.mark.parametrize("sign", [-1, 1])
def test_int8_sums_do_not_saturate(isa: str, sign: int) -> None:
    """The largest products there are: 4,096 inputs of +-127 each, exact in int32 and then in fp32."""
    x, w = np.full((17, 4096), 127, np.float32), np.full((40, 4096), 127 * sign, np.float32)
    y = native.linear(x, w, None, "int8", isa=isa)
    np.testing.assert_allclose(y, np.full((17, 40), sign * 127.0 * 127 * 4096), rtol=3e-7)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_row_does_not_depend_on_the_rows_beside_it(
    isa: str, precision: str, rng: np.random.Generator
) -> None:
    x, w, b = normal(rng, 45, 200), normal(rng, 64, 200), normal(rng, 64)
    together = native.linear(x, w, b, precision, gelu=True, isa=isa)
    for rows in (slice(0, 1), slice(7, 9), slice(3, 30)):
        np.testing.assert_array_equal(
            native.linear(x[rows], w, b, precision, gelu=True, isa=isa), together[rows]
        )


def test_zero_rows_and_zero_weights_are_quantised_to_zero(isa: str, rng: np.random.Generator) -> None:
    x, w = normal(rng, 3, 32), normal(rng, 4, 32)
    x[1] = 0
    w[2] = 0
    y = native.linear(x, w, None, "int8", isa=isa)
    assert (y[1] == 0).all()
    assert (y[:, 2] == 0).all()
    assert np.isfinite(y).all()


@pytest.mark.parametrize("n", [1, 3, 16, 17, 384, 1023])
def test_layer_norm(isa: str, n: int, rng: np.random.Generator) -> None:
    x, gamma, beta = 3 + 5 * normal(rng, n), normal(rng, n), normal(rng, n)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5) * gamma + beta
    np.testing.assert_allclose(native.layer_norm(x, gamma, beta, 1e-5, isa=isa), expected, atol=5e-6)


@pytest.mark.parametrize("n", [1, 5, 16, 100, 1023])
def test_quantise(isa: str, n: int, rng: np.random.Generator) -> None:
    x = normal(rng, n)
    q, scale, total = native.quantise(x, isa=isa)
    assert scale == pytest.approx(np.abs(x).max() / 127, rel=1e-6)
    assert total == q.astype(np.int64).sum()
    assert q.shape == ((n + 3) // 4 * 4,)
    assert (q[n:] == 0).all()
    assert np.abs(q).max() <= 127
    assert np.abs(q[:n] * np.float64(scale) - x).max() <= 0.501 * scale


def hadamard(size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Sylvester's: H(2n) = [[H, H], [H, -H]]."""
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return h


@pytest.mark.parametrize(
    ("n", "block"),
    [(128, 128), (384, 128), (64, 64), (96, 32), (40, 8), (6, 2), (7, 1), (12288, 128), (16512, 1)],
)
def test_quantise_rotated(isa: str, n: int, block: int, rng: np.random.Generator) -> None:
    """Each block times a Hadamard matrix; an outlier is spread over its block."""
    x = normal(rng, n)
    x[n // 2] = 100
    rotated = (x.astype(np.float64).reshape(-1, block) @ hadamard(block)).ravel()
    q, scale, total = native.quantise(x, rotated=True, isa=isa)
    assert scale == pytest.approx(np.abs(rotated).max() / 127, rel=1e-5)
    assert total == q.astype(np.int64).sum()
    assert np.abs(q[:n] * np.float64(scale) - rotated).max() <= 0.51 * scale


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rotation_keeps_what_is_not_finite(isa: str, bad: float) -> None:
    x = np.ones(256, np.float32)
    x[200] = bad
    assert np.isnan(native.quantise(x, rotated=True, isa=isa)[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 36])
def test_what_is_not_finite_does_not_become_a_number(
    isa: str, bad: float, place: int, rng: np.random.Generator
) -> None:
    x, w = normal(rng, 3, 37), normal(rng, 5, 37)
    x[1, place] = bad
    for precision in ("fp32", "bf16", "int8"):
        y = native.linear(x, w, None, precision, isa=isa)
        assert not np.isfinite(y[1]).any()
        assert np.isfinite(y[[0, 2]]).all()


def test_gelu(isa: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 60_001), [0.0, 1e-30, -1e-30, 100, -100]]).astype(np.float32)
    y = native.gelu(x, isa=isa)
    expected = gelu(x)
    inner = np.abs(x) < 6
    assert np.abs(y - expected)[inner].max() <= 2e-6
    erf = 2 * y[inner & (x != 0)].astype(np.float64) / x[inner & (x != 0)] - 1
    exact = 2 * expected[inner & (x != 0)] / x[inner & (x != 0)] - 1
    assert np.abs(erf - exact).max() <= 1e-6
    assert np.abs(y - expected).max() <= 5e-5


def test_exp2(isa: str) -> None:
    x = -np.concatenate([np.linspace(0, 120, 100_001), [0.0, 1e-10, 200, 1e30]]).astype(np.float32)
    y = native.exp2(x, isa=isa)
    np.testing.assert_allclose(y, np.exp2(x.astype(np.float64)), rtol=3e-7, atol=2.0**-126)


@pytest.mark.parametrize(
    ("queries", "keys", "dim"),
    [
        (1, 1, 2),
        (1, 300, 64),
        (5, 7, 6),
        (33, 33, 32),
        (130, 129, 64),
        (60, 1100, 64),
        (57, 513, 40),
        (3, 512, 96),
    ],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_attention(isa: str, queries: int, keys: int, dim: int, bf16: bool, rng: np.random.Generator) -> None:
    q, k, v = normal(rng, queries, dim) / math.sqrt(dim) * 3, normal(rng, keys, dim), normal(rng, keys, dim)
    y = native.attention(q, k, v, bf16, isa=isa)
    if bf16:
        q, k, v = to_bf16(q), to_bf16(k), to_bf16(v)
    scores = q.astype(np.float64) @ k.T  # of powers of two
    weights = np.exp2(scores - scores.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True) @ v
    np.testing.assert_allclose(y, expected, atol=1e-2 if bf16 else 1e-5)


def test_attention_survives_large_scores(isa: str) -> None:
    """Maxima that grow and shrink from block to block, far beyond what exp can represent."""
    keys = np.zeros((1600, 2), np.float32)
    keys[100] = keys[700] = 300
    keys[1500] = -300
    q, v = np.ones((2, 2), np.float32), np.arange(3200, dtype=np.float32).reshape(1600, 2)
    y = native.attention(q, keys, v, isa=isa)
    np.testing.assert_allclose(y[0], (v[100] + v[700]) / 2, rtol=1e-5)


def test_wrong_names_and_shapes_are_refused() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"isa|instruction set"):
        native.linear(x, x, None, "fp32", isa="sse9")
    with pytest.raises(ValueError, match=r"precision"):
        native.linear(x, x, None, "fp8")
    with pytest.raises(ValueError, match=r"do not fit"):
        native.linear(x, np.zeros((2, 4), np.float32), None, "fp32")


def test_sums_that_do_not_fit_into_32_bits_are_refused() -> None:
    x = np.zeros((1, 65_537), np.float32)
    with pytest.raises(ValueError, match="65537 values where at most 65536"):
        native.linear(x, x, None, "int8")
    with pytest.raises(ValueError, match="65537 values where at most 65536"):
        native.quantise(x[0])
    with pytest.raises(ValueError, match="at most 65536"):
        native.time_linear(1, 1, 65_537, "int8", 1)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRANK_ISA", "portable")
    assert _native.isa() == "portable"
    monkeypatch.setenv("CROSSRANK_ISA", "nonsense")
    with pytest.raises(ValueError, match=r"CROSSRANK_ISA.*nonsense"):
        _native.isa()
