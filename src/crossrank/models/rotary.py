"""Rotary positions: how a config's fields become the angle by which values are turned.

The formulas are transformers' (modeling_rope_utils) and, for "ntk", those of gte's new-impl, which is from
https://kexue.fm/archives/9706.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crossrank.models.architecture import Rotary
from crossrank.models.reader import Config, UndescribedError

__all__ = ["read_rotary"]


def read_rotary(parameters: Config, theta: float, size: int, config: Config) -> Rotary:
    """Frequencies of a head of ``size`` values; ``parameters`` is what scales them."""
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    if kind == "default":
        return Rotary(_frequencies(theta, exponents))
    factor = parameters.number("factor", 1.0)
    if kind == "linear":
        return Rotary(_frequencies(theta, exponents, factor))
    if kind == "ntk" and parameters.values.get("mixed_b") is None and factor > 1:
        return Rotary(_frequencies(theta * factor, exponents, factor ** (2 / size)))
    if kind == "yarn" and not parameters.values.keys() & {"mscale", "mscale_all_dim"}:
        return _yarn(parameters, theta, size, factor, config)
    if kind == "llama3":
        return _llama3(parameters, theta, size, factor, config)
    raise UndescribedError(f"its rotary positions are scaled by {kind}")


def _frequencies(theta: float, exponents: Any, divisor: float = 1.0) -> tuple[float, ...]:
    found = 1.0 / (np.float32(theta) ** exponents * np.float32(divisor))
    return tuple(float(value) for value in found)


def _llama3(parameters: Config, theta: float, size: int, factor: float, config: Config) -> Rotary:
    """Llama 3.1's: slow pairs of values are interpolated, and those between slow and fast ones partly."""
    length = _original_length(parameters, config)
    low, high = parameters.number("low_freq_factor", 1.0), parameters.number("high_freq_factor", 4.0)
    plain = np.asarray(_frequencies(theta, np.arange(0, size, 2, dtype=np.float32) / np.float32(size)))
    turns = length * plain / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1) if high > low else (turns >= low).astype(float)
    mixed = plain / factor * (1 - kept) + plain * kept
    return Rotary(tuple(float(np.float32(value)) for value in mixed))


def _original_length(parameters: Config, config: Config) -> int:
    """Positions before they were scaled."""
    return parameters.integer(
        "original_max_position_embeddings", config.integer("max_position_embeddings", 8192, most=1 << 24)
    )


def _yarn(parameters: Config, theta: float, size: int, factor: float, config: Config) -> Rotary:
    """YaRN (arXiv 2309.00071): slow pairs of values are interpolated, fast ones are left as they are."""
    length = _original_length(parameters, config)

    def place(rotations: float) -> float:
        """The pair of values that turns so often within the original length."""
        return size * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = place(parameters.number("beta_fast", 32.0))
    high = place(parameters.number("beta_slow", 1.0))
    if parameters.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = np.clip((np.arange(size // 2) - low) / (max(high - low, 0.001)), 0, 1)
    fast = np.asarray(_frequencies(theta, np.arange(0, size, 2, dtype=np.float32) / np.float32(size)))
    mixed = fast / factor * ramp + fast * (1 - ramp)
    scale = parameters.number("attention_factor", 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return Rotary(tuple(float(np.float32(value)) for value in mixed), scale)
