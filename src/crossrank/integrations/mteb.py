"""MTEB: a cross-encoder for its reranking tasks (extra ``mteb``).

::

    import mteb
    from crossrank.integrations.mteb import CrossRankCrossEncoder

    results = mteb.evaluate(CrossRankCrossEncoder("crossrank-mini"), mteb.get_tasks(["SciDocsRR"]))
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crossrank._extras import needs
from crossrank.errors import InputError, ServiceError, UnavailableError, UnknownModelError
from crossrank.integrations.ranker import Model, Ranker
from crossrank.models.resolve import BUNDLED
from crossrank.reranker import Reranker

with needs("mteb", __name__):
    from mteb.models import ModelMeta

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader

    from crossrank.client import Client

__all__ = ["CrossRankCrossEncoder"]

_logger = logging.getLogger(__name__)


class CrossRankCrossEncoder:
    """What MTEB takes for a cross-encoder (its ``CrossEncoderProtocol``).

    Args:
        model: a Reranker, a model's name or folder, or a server's URL.
        api_key: for a server that asks for one.
        options: more arguments of ``Reranker`` or ``Client``, by name.

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
        self._served = dict(options or {}).get("model")  # of a server: the model that is asked
        # Taken when it is loaded: the files may change later.
        sync = self._ranker.sync
        self._meta = _meta_here(self._ranker.name, sync) if isinstance(sync, Reranker) else None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """MTEB keeps results by its name and revision.

        The revision is made of the weights, the engine, the precision and what decides where texts are
        cut. A server is asked each time, and its revision is made of its URL, what it says of the
        model, and when it loaded it: it may be started anew with other weights.

        Raises:
            ServiceError: the server does not answer, is not ready, or has no such model.
        """
        sync = self._ranker.sync
        if isinstance(sync, Reranker):
            return self._meta
        return _meta_there(self._ranker.name, sync, self._served)

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
        """The logits of pairs: float32 (pairs,), input order. A warning is logged if some were cut.

        Args:
            inputs1, inputs2: batches whose ``text`` has the queries, and the documents.
            task_metadata, hf_split, hf_subset, prompt_type, kwargs: of MTEB's protocol; not used.

        Raises:
            InputError: a batch has no texts, as of a task of images.
            CrossRankError: as ``Reranker.rank_many`` or ``Client.rank_many``.
        """
        pairs = zip(_texts(inputs1), _texts(inputs2), strict=True)
        # MTEB gives a query's pairs one after the other.
        requests = ((query, [text for _, text in group]) for query, group in groupby(pairs, itemgetter(0)))
        logits: list[float] = []
        cut = 0
        for ranking in self._ranker.sync.rank_many(requests):
            logits += [hit.logit for hit in sorted(ranking, key=lambda hit: hit.index)]
            cut += sum(hit.truncated for hit in ranking)
        if cut:  # MTEB has no place for it
            _logger.warning("%d of %d pairs were cut to fit the model's window", cut, len(logits))
        return np.array(logits, np.float32)


def _texts(batches: Iterable[BatchedInput]) -> Iterator[str]:
    for batch in batches:
        if "text" not in batch:
            raise InputError(f"a batch has {', '.join(map(str, batch))} and no text; CrossRank ranks texts")
        yield from batch["text"]


def _meta_here(name: str, reranker: Reranker) -> ModelMeta:
    checkpoint, engine, encoder = reranker.checkpoint, reranker.engine, reranker.encoder
    parts = [
        # Of parts of the user's own nobody knows what is in them: no revision twice.
        checkpoint.fingerprint() if checkpoint else uuid.uuid4().hex,
        engine.name,
        engine.device.partition(":")[0],
        engine.precision,
        encoder.max_length,
        encoder.truncation,
        encoder.query_share,
    ]
    return _meta(name, "-".join(map(str, parts)), encoder.max_length)


def _meta_there(url: str, client: Client, wanted: str | None) -> ModelMeta:
    body = client.info()
    try:
        models = {model["name"]: model for model in body["models"]}
        model = models.get(wanted or next(iter(models)))
        if model is None:
            raise UnknownModelError(str(wanted), list(models))
        if model["state"] == "loading":
            raise UnavailableError(model["why"], 1.0)
        known = [model[key] for key in ("source", "revision", "engine", "device", "created")]
        name, precision, max_length = model["name"], model["precision"], model["max_length"]
    except (LookupError, TypeError, StopIteration):
        raise ServiceError(f"{url} does not say what model it serves; is it CrossRank?") from None
    digest = hashlib.sha256(json.dumps([url, *known]).encode()).hexdigest()[:16]
    return _meta(name, f"{digest}-{precision}-{max_length}", max_length)


def _meta(name: str, revision: str, max_tokens: int) -> ModelMeta:
    known = {
        "model_type": ["cross-encoder"],
        # MTEB wants "organisation/model".
        "name": name if name.count("/") == 1 else f"crossrank/{PurePath(name).name}",
        "revision": revision,
        "max_tokens": max_tokens,
    }
    return ModelMeta.create_empty(overwrites=known)
