"""Checks of numbers that callers give by name: a YAML file or a form may have made strings of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real

from crossrank.errors import InputError

__all__ = ["check_integer", "check_number"]


def check_integer(name: str, value: object, least: int = 1, most: float = math.inf, hint: str = "") -> None:
    """Raise InputError unless a value is an integer of ``least`` to ``most``, numpy's included.

    Args:
        hint: what else may be given, for the message.
    """
    # To Python, True is an integer.
    if not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most:
        return
    wanted = f"an integer of {least} or more" if most == math.inf else f"an integer from {least} to {most}"
    raise InputError(f"{name} is {value!r}; it must be {wanted}{hint}")


def check_number(name: str, value: object, allowed: Callable[[float], bool], wanted: str) -> None:
    """Raise InputError unless a value is a number that is allowed; ``wanted`` says in words which are."""
    if not isinstance(value, bool) and isinstance(value, Real) and allowed(float(value)):
        return
    raise InputError(f"{name} is {value!r}; it must be {wanted}")
