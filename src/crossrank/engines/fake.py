"""An engine without a model, for tests of this package and of code that uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from crossrank.engines.base import Engine
from crossrank.packing import Pack

__all__ = ["FakeEngine"]


class FakeEngine(Engine):
    """Gives each pair the logit that a function computes from its token ids.

    It can be slow, fail or block, so that tests can check what the code around an engine does then.

    Args:
        logit: function from one pair's token ids, int32 (T,), to its logit, which may be NaN. Its errors are
            raised by ``logits``. The default is minus the number of tokens.
        batch_tokens: tokens of the largest pack.
        fill_tokens: tokens of the smallest pack that keeps the engine busy; None means ``batch_tokens``.
        lanes: pairs that a real engine would compute in parallel.
        calls: calls of ``logits`` that it takes at the same time.
        seconds: time that a pack takes.
        seconds_per_token: additional time for each token of a pack.

    Attributes:
        packs: every pack that was given, in order.
        fail: an error that the next pack raises; later packs work again.
        gate: packs wait while this event is cleared.
    """

    name = "fake"

    def __init__(
        self,
        logit: Callable[[npt.NDArray[np.int32]], float] = lambda ids: -float(len(ids)),
        batch_tokens: int = 1024,
        *,
        fill_tokens: int | None = None,
        lanes: int = 1,
        calls: int = 1,
        seconds: float = 0.0,
        seconds_per_token: float = 0.0,
    ) -> None:
        self._logit = logit
        self.batch_tokens = batch_tokens
        self.fill_tokens = fill_tokens or batch_tokens
        self.lanes = lanes
        self.calls = calls
        self.seconds = seconds
        self.seconds_per_token = seconds_per_token
        self.packs: list[Pack] = []
        self.fail: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        self.packs.append(pack)
        self.gate.wait()
        pause = self.seconds + self.seconds_per_token * len(pack.token_ids)
        if pause:
            time.sleep(pause)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        whole = pack.whole()
        pairs = np.split(whole.token_ids, whole.offsets[1:-1]) if len(whole) else []
        return np.asarray([self._logit(pair) for pair in pairs], np.float32)
