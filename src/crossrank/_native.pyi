"""The C++ module (native/module.cpp)."""

from typing import Any

import numpy as np
import numpy.typing as npt

class Engine:
    def __init__(
        self,
        config: dict[str, Any],
        tensors: dict[str, npt.NDArray[Any]],
        precision: str,
        threads: int,
        isa: str = "",
    ) -> None: ...
    def logits(
        self,
        token_ids: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int32],
        segment_ids: npt.NDArray[np.int32] | None = None,
    ) -> npt.NDArray[np.float32]: ...
    @property
    def isa(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...

def pack_weights(
    config: dict[str, Any],
    tensors: dict[str, npt.NDArray[Any]],
    precision: str,
    threads: int = 1,
    smooth: float = 0.0,
) -> dict[str, npt.NDArray[Any]]: ...
def isas() -> list[str]: ...
def isa() -> str: ...
def has_fast(precision: str, isa: str = "") -> bool: ...
def linear(
    x: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    precision: str,
    gelu: bool = False,
    isa: str = "",
) -> npt.NDArray[np.float32]: ...
def attention(
    q: npt.NDArray[np.float32],
    k: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    bf16: bool = False,
    isa: str = "",
) -> npt.NDArray[np.float32]: ...
def layer_norm(
    x: npt.NDArray[np.float32],
    gamma: npt.NDArray[np.float32],
    beta: npt.NDArray[np.float32],
    epsilon: float,
    isa: str = "",
) -> npt.NDArray[np.float32]: ...
def quantise(
    x: npt.NDArray[np.float32], smooth: npt.NDArray[np.float32] | None = None, isa: str = ""
) -> tuple[npt.NDArray[np.int8], float, int]: ...
def gelu(x: npt.NDArray[np.float32], isa: str = "") -> npt.NDArray[np.float32]: ...
def exp2(x: npt.NDArray[np.float32], isa: str = "") -> npt.NDArray[np.float32]: ...
def peak_int8(repeats: int = 100000, isa: str = "") -> float: ...
def time_linear(
    rows: int, outputs: int, inputs: int, precision: str, repeats: int = 10, isa: str = ""
) -> float: ...
