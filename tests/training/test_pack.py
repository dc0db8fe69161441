import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crossrank.models.checkpoint import BLOCK
from training.pack import to_int4, to_int8


@given(st.integers(0, 2**32 - 1))
def test_int8_is_within_half_a_step_of_its_row(seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(5, 40)).astype(np.float32)
    values, scale = to_int8(matrix)
    assert values.dtype == np.int8
    assert np.abs(values).max() == 127
    error = np.abs(values * scale[:, None] - matrix)
    assert (error <= scale[:, None] * 0.5001).all()


def test_a_row_of_zeros_stays_zero() -> None:
    values, scale = to_int8(np.zeros((1, 8), np.float32))
    assert not (values * scale[:, None]).any()


@given(st.integers(0, 2**32 - 1))
def test_what_came_from_4_bits_goes_back_to_them_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nibbles = rng.integers(0, 16, (3, 2, BLOCK)).astype(np.uint8)
    nibbles[:, :, rng.integers(BLOCK)] = 0  # the extreme of a block is -8 times its scale
    scale = rng.uniform(0.001, 0.1, (3, 2)).astype(np.float16) * rng.choice([-1, 1], (3, 2))
    scale = scale.astype(np.float16)
    matrix = ((nibbles.astype(np.float32) - 8) * scale.astype(np.float32)[:, :, None]).reshape(3, -1)
    halves, halves_scale = to_int4(matrix)
    blocks = halves.reshape(3, 2, BLOCK // 2)
    values = np.concatenate([blocks & 15, blocks >> 4], axis=2).astype(np.float32)
    restored = (values - 8) * halves_scale.astype(np.float32)[:, :, None]
    np.testing.assert_array_equal(restored.reshape(3, -1), matrix)
