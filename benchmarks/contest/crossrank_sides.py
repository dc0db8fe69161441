"""CrossRank itself, on the same token ids as the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, by_prefix


class CrossRankInt8(Side):
    environment = ""
    precision: ClassVar[str] = "int8"
    shares: ClassVar[bool] = True
    """What comes before the documents is computed once."""

    def load(self) -> None:
        from crossrank.engines.native import NativeEngine
        from crossrank.models.checkpoint import Checkpoint

        self.engine = NativeEngine(
            Checkpoint(self.checkpoint), precision=self.precision, threads=self.threads
        )

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        from crossrank.packing import build_pack
        from crossrank.pairs import EncodedPair

        encoded = [
            EncodedPair(
                p.token_ids.astype(np.int32),
                None if self.decodes else p.segment_ids.astype(np.int32),
                False,
                prefix=p.prefix if self.shares else 0,
            )
            for p in batch
        ]
        return self.engine.logits(build_pack(encoded))

    def plan(self, pairs: Sequence[Pair], size: int) -> list[list[int]]:  # noqa: ARG002
        from crossrank.packing import plan_packs

        return [
            [group[i] for i in indices]
            for group in by_prefix(pairs)
            for indices in plan_packs(
                [len(pairs[i]) - pairs[i].prefix * self.shares for i in group], self.engine.batch_tokens
            )
        ]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return (0,)  # packs of its own token budget


class CrossRankInt8Whole(CrossRankInt8):
    shares = False


class CrossRankBf16(CrossRankInt8):
    precision = "bf16"


class CrossRankFp32(CrossRankInt8):
    precision = "fp32"
