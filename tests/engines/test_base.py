from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from crossrank import Reranker
from crossrank.engines import Engine
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.packing import Pack
from crossrank.pairs import PairEncoder


class Longest(Engine):
    """An engine that says as little of itself as it may."""

    name = "longest"

    def logits(self, pack: Pack) -> npt.NDArray[np.float32]:
        return pack.lengths.astype(np.float32)


def test_an_engine_of_ones_own_is_a_name_and_logits() -> None:
    engine = Longest()
    assert isinstance(engine, Engine)
    assert (engine.device, engine.precision, engine.lanes, engine.calls) == ("cpu", "fp32", 1, 1)
    reranker = Reranker.from_parts(PairEncoder(resolve(BUNDLED) / "tokenizer.json"), engine)
    assert reranker.rank("query", ["short", "somewhat longer"]).indices == [1, 0]
    found = list(reranker.rank_many([("query", ["short", "somewhat longer"])] * 3))
    assert [ranking.indices for ranking in found] == [[1, 0]] * 3


def test_an_engine_without_logits_is_refused() -> None:
    class Nothing(Engine):
        name = "nothing"

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]
