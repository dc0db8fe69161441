"""The engine on the CPU: C++ in native/. Arrays are C-contiguous; wrong arguments are a ValueError."""

from typing import Any

import numpy as np
import numpy.typing as npt

_Precision = str
_Float = npt.NDArray[Any]
_Int = npt.NDArray[np.int32]

LAYOUT: int
"""The version of prepared weights."""

class Engine:
    """A model on prepared tensors, which it keeps and does not copy; see ``Architecture.flat``."""

    def __init__(
        self,
        architecture: dict[str, Any],
        tensors: dict[str, npt.NDArray[Any]],
        precision: _Precision,
        threads: int,
        isa: str = "",
        words_file: int = -1,
        words_start: int = 0,
        prefix_bytes: int = ...,
    ) -> None: ...
    def logits(
        self,
        token_ids: _Int,
        offsets: _Int,
        segment_ids: _Int | None = None,
        prefix_ids: _Int | None = None,
        prefix_offsets: _Int | None = None,
        prefix_of: _Int | None = None,
    ) -> _Float: ...
    @property
    def isa(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def prefix_bytes(self) -> int: ...
    @property
    def prefix_tokens(self) -> int: ...

def prepare_weights(
    architecture: dict[str, Any],
    tensors: dict[str, npt.NDArray[Any]],
    precision: _Precision,
    threads: int = 1,
) -> dict[str, npt.NDArray[Any]]: ...

class MapGuard:
    """While it lives, what is missing in a file's map is read as zeros, and does not end the process."""

    def __init__(self, address: int, size: int) -> None: ...
    @property
    def damaged(self) -> bool: ...

def isas() -> list[str]: ...
def isa() -> str: ...
def has_fast(precision: _Precision, isa: str = "") -> bool: ...
