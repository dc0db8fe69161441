"""MTEB: a cross-encoder for its reranking tasks (extra ``mteb``).

::

    import mteb
    from crossrank.integrations.mteb import CrossRankCrossEncoder

    results = mteb.evaluate(CrossRankCrossEncoder("crossrank-mini"), mteb.get_tasks(["SciDocsRR"]))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from operator import itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from mteb.models import ModelMeta

from crossrank.integrations.ranker import Model, Ranker, is_url
from crossrank.models import BUNDLED
from crossrank.reranker import Reranker

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader

__all__ = ["CrossRankCrossEncoder"]


class CrossRankCrossEncoder:
    """What MTEB takes for a cross-encoder (its ``CrossEncoderProtocol``).

    Args:
        model: a Reranker, a model's name or folder, or a server's URL.
        api_key: for a server that asks for one.
        options: more arguments of ``Reranker`` or ``Client``, by name.

    Attributes:
        mteb_model_meta: MTEB keeps results by its name and revision. The revision is made of the weights
            and the precision; of a server's model nothing is known but the name.

    Raises:
        InputError, ModelError, EngineError: as ``crossrank.integrations.ranker.Ranker``.
    """

    def __init__(
        self,
        model: Model = BUNDLED,
        *,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._ranker = Ranker(model, api_key=api_key, options=options)
        name = (options or {}).get("model", "server") if is_url(model) else self._ranker.name
        self.mteb_model_meta = _meta(name, self._ranker)

    def predict(
        self,
        inputs1: DataLoader[BatchedInput],
        inputs2: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,  # noqa: ARG002  texts are enough
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002  batch_size and the like: packs are planned by tokens
    ) -> npt.NDArray[np.float32]:
        """The logits of pairs: float32 (pairs,), input order.

        Args:
            inputs1, inputs2: batches whose ``text`` has the queries, and the documents.
            task_metadata, hf_split, hf_subset, prompt_type, kwargs: of MTEB's protocol; not used.

        Raises:
            CrossRankError: as ``Reranker.rank_many`` or ``Client.rank_many``.
        """
        pairs = zip(_texts(inputs1), _texts(inputs2), strict=True)
        # MTEB gives a query's pairs one after the other.
        requests = ((query, [text for _, text in group]) for query, group in groupby(pairs, itemgetter(0)))
        logits: list[float] = []
        for ranking in self._ranker.sync.rank_many(requests):
            logits += [hit.logit for hit in sorted(ranking, key=lambda hit: hit.index)]
        return np.array(logits, np.float32)


def _texts(batches: Iterable[BatchedInput]) -> Iterator[str]:
    return chain.from_iterable(batch["text"] for batch in batches)


def _meta(name: str, ranker: Ranker) -> ModelMeta:
    known: dict[str, Any] = {"model_type": ["cross-encoder"]}
    if isinstance(ranker.sync, Reranker):
        known["max_tokens"] = ranker.sync.max_length
        checkpoint, precision = ranker.sync.checkpoint, ranker.sync.engine.precision
        known["revision"] = f"{checkpoint.fingerprint()}-{precision}" if checkpoint else precision
    # MTEB wants "organisation/model".
    known["name"] = name if name.count("/") == 1 else f"crossrank/{PurePath(name).name}"
    return ModelMeta.create_empty(overwrites=known)
