"""PyTerrier: a transformer (extra ``pyterrier``).

::

    from crossrank.integrations.pyterrier import CrossRankTransformer

    pipeline = bm25 % 100 >> dataset.text_loader() >> CrossRankTransformer("crossrank-mini")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crossrank._extras import needs
from crossrank.errors import InputError
from crossrank.inputs import check_instruction
from crossrank.integrations.ranker import Model, Ranker
from crossrank.models.resolve import BUNDLED
from crossrank.ranking import RankedDocument, check_options

with needs("pyterrier", __name__):
    import pandas as pd
    import pyterrier as pt

__all__ = ["CrossRankTransformer"]


class CrossRankTransformer(pt.Transformer):  # type: ignore[misc]  # mypy does not follow PyTerrier
    """Rank the results of each query, best first; the pairs of all queries are packed together.

    Reads the columns ``qid``, ``query`` and the one with the text. Returns a new frame with all columns of
    the input and with ``score`` (the logit: PyTerrier sorts by it, and scores from 0 to 1 would tie at the
    top; minus the rank where two models have scored), ``rank`` (from 0, as usual in PyTerrier) and
    ``truncated`` (whether the text was truncated to fit the model's window). Existing columns of these names
    are replaced.

    Args:
        model: a Reranker, a model's name or folder, or a server's URL.
        text_field: the column that has the documents' texts.
        top_n: the maximum number of results per query, or None for all of them.
        threshold: the minimum score of a result (0 to 1), or None for no minimum.
        instruction: what the model is told to look for, if it takes an instruction; None: its default.
        api_key: the API key, for a server that requires one.
        options: further keyword arguments for ``Reranker`` or ``Client``.

    Raises:
        InputError: an argument is invalid.
        ModelError: the model cannot be loaded.
        EngineError: no engine can run the model.
    """

    def __init__(
        self,
        model: Model = BUNDLED,
        *,
        text_field: str = "text",
        top_n: int | None = None,
        threshold: float | None = None,
        instruction: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_options(top_n, threshold)
        check_instruction(instruction)
        self.text_field = text_field
        self.top_n = top_n
        self.threshold = threshold
        self.instruction = instruction
        self._ranker = Ranker(model, api_key=api_key, options=options)

    # PyTerrier expects an attribute for each argument of the constructor.

    @property
    def model(self) -> Model:
        return self._ranker.model

    @property
    def api_key(self) -> str | None:
        return self._ranker.api_key

    @property
    def options(self) -> Mapping[str, Any] | None:
        return self._ranker.options

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in ("top_n", "threshold", "instruction", "options")}
        more = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
        return f"CrossRankTransformer({self._ranker.name!r}{more})"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rank the results of every query.

        Raises:
            InputError: a text or a qid is missing.
            CrossRankError: as ``Reranker.rank_many`` or ``Client.rank_many``.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field])
        if inp["qid"].isna().any():
            raise InputError(f"row {int(inp['qid'].isna().argmax())} has no qid")
        queries = list(inp.groupby("qid", sort=False).indices.values())  # the row numbers of each query
        query_texts, texts = inp["query"].tolist(), inp[self.text_field].tolist()
        requests = ((query_texts[rows[0]], [texts[row] for row in rows]) for rows in queries)
        rankings = self._ranker.sync.rank_many(
            requests, instruction=self.instruction, top_n=self.top_n, threshold=self.threshold
        )
        positions: list[int] = []
        hits: list[RankedDocument] = []
        for rows, ranking in zip(queries, rankings, strict=True):
            positions += [rows[hit.index] for hit in ranking]
            hits += ranking
        found: pd.DataFrame = inp.iloc[positions].assign(
            score=np.array([hit.sort_value for hit in hits], np.float64),
            rank=np.array([hit.rank - 1 + pt.model.FIRST_RANK for hit in hits], np.int64),
            truncated=np.array([hit.truncated for hit in hits], np.bool_),
        )
        return found.reset_index(drop=True)
