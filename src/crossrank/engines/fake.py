"""An engine without a model, for tests: of this package and of code that uses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from crossrank.packing import Pack

__all__ = ["FakeEngine"]


class FakeEngine:
    """Gives each pair the logit that a function of its token ids returns.

    Args:
        logit: int32 (T,) token ids of one pair -> its logit. Default: minus its length.
        batch_tokens: tokens of a pack.

    Attributes:
        packs: every pack it was given, in order.
    """

    name = "fake"
    device = "cpu"
    precision = "fp32"

    def __init__(
        self,
        logit: Callable[[npt.NDArray[np.int32]], float] = lambda ids: -float(len(ids)),
        batch_tokens: int = 1024,
    ) -> None:
        self._logit = logit
        self.batch_tokens = batch_tokens
        self.packs: list[Pack] = []

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        self.packs.append(pack)
        pairs = np.split(pack.token_ids, pack.offsets[1:-1]) if len(pack) else []
        return np.asarray([self._logit(pair) for pair in pairs], np.float32)
