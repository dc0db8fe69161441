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
from crossrank.inputs import check_instruction
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
    """A cross-encoder for MTEB; implements its ``CrossEncoderProtocol``.

    Args:
        model: a Reranker, a model's name or folder, or a server's URL.
        instruction: what the model is told to look for, in place of the tasks' own prompts; see ``predict``.
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
        instruction: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_instruction(instruction)
        self._instruction = instruction
        self._ranker = Ranker(model, api_key=api_key, options=options)
        self._served = dict(options or {}).get("model")  # the name of the model on a server
        # Read now, because the model's files may change after loading.
        sync = self._ranker.sync
        if instruction is not None and isinstance(sync, Reranker) and sync.encoder.instruction is None:
            raise InputError(f"instruction is {instruction!r}, but {self._ranker.name} takes none")
        self._meta = _local_meta(self._ranker.name, sync, instruction) if isinstance(sync, Reranker) else None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The name and revision under which MTEB stores results.

        The revision identifies the weights, the engine, the precision and the settings that decide how
        texts are truncated. A server is asked on each access, since it may be restarted with other weights;
        its revision is made of its URL, its description of the model, and the time it loaded the model.

        Raises:
            ServiceError: the server does not answer, is not ready, or has no such model.
        """
        sync = self._ranker.sync
        if isinstance(sync, Reranker):
            return self._meta
        return _server_meta(self._ranker.name, sync, self._served, self._instruction)

    def predict(
        self,
        inputs1: DataLoader[BatchedInput],
        inputs2: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
        prompt_type: PromptType | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002  batch_size etc.; packs are planned by tokens
    ) -> npt.NDArray[np.float32]:
        """Score pairs, and log a warning if some were truncated.

        A model that takes an instruction gets the query's own, where the task has one for each query
        (``instruction`` and ``query`` instead of ``text``, in which MTEB joins them); otherwise the one that
        this object was given, or the task's prompt for queries.

        Args:
            inputs1: batches with the queries in ``text``.
            inputs2: batches with the documents in ``text``.
            task_metadata: has the task's prompt.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: not used.
            kwargs: not used.

        Returns:
            The logits, float32 (pairs,), in the order of the pairs; of two models, minus the rank.

        Raises:
            InputError: a batch has no texts, as in an image task.
            CrossRankError: as ``Reranker.rank_many`` or ``Client.rank_many``.
        """
        if self._takes_instruction():
            queries = _instructed(inputs1, self._instruction or _prompt(task_metadata))
        else:
            queries = ((text, None) for text in _texts(inputs1))
        pairs = zip(queries, _texts(inputs2), strict=True)
        # The pairs of a query are consecutive.
        requests = (
            (query, [text for _, text in group], instruction)
            for (query, instruction), group in groupby(pairs, itemgetter(0))
        )
        logits: list[float] = []
        truncated = 0
        for ranking in self._ranker.sync.rank_many(requests):
            logits += [hit.sort_value for hit in sorted(ranking, key=lambda hit: hit.index)]
            truncated += sum(hit.truncated or hit.query_truncated for hit in ranking)
        if truncated:  # MTEB's results have no field for this
            _logger.warning("%d of %d pairs were truncated to fit the model's window", truncated, len(logits))
        return np.array(logits, np.float32)

    def _takes_instruction(self) -> bool:
        """Whether the model takes an instruction."""
        sync = self._ranker.sync
        if isinstance(sync, Reranker):
            return sync.encoder.instruction is not None
        return _described(self._ranker.name, sync, self._served).get("instruction") is not None


def _prompt(task: TaskMetadata) -> str | None:
    """The task's prompt for queries; None: it has none."""
    prompt = task.prompt
    return prompt.get("query") if isinstance(prompt, dict) else prompt


def _instructed(batches: Iterable[BatchedInput], default: str | None) -> Iterator[tuple[str, str | None]]:
    """Each query, and its own instruction or the default."""
    for batch in batches:
        if "instruction" not in batch or "query" not in batch:
            yield from ((text, default) for text in _texts([batch]))
        else:
            own = zip(batch["query"], batch["instruction"], strict=True)
            yield from ((query, instruction or default) for query, instruction in own)


def _texts(batches: Iterable[BatchedInput]) -> Iterator[str]:
    for batch in batches:
        if "text" not in batch:
            raise InputError(
                f"a batch has {', '.join(map(str, batch))} and no text; CrossRank ranks texts only"
            )
        yield from batch["text"]


def _local_meta(name: str, reranker: Reranker, instruction: str | None) -> ModelMeta:
    checkpoint, engine, encoder = reranker.checkpoint, reranker.engine, reranker.encoder
    parts = [
        # A Reranker made of custom parts cannot be identified, so each one gets a new revision.
        checkpoint.fingerprint() if checkpoint else uuid.uuid4().hex,
        engine.name,
        engine.device.partition(":")[0],
        engine.precision,
        encoder.max_length,
        encoder.truncation,
        encoder.query_share,
    ]
    if encoder.long == "windows":
        parts.append(f"windows{encoder.max_windows}")
    if encoder.instruction is not None:
        told = f"{encoder.instruction}\0{instruction or ''}"
        parts.append(hashlib.sha256(told.encode()).hexdigest()[:8])
    return _meta(name, "-".join(map(str, parts)), encoder.max_length)


def _described(url: str, client: Client, model_name: str | None) -> dict[str, Any]:
    """What a server says of the model.

    Raises:
        ServiceError: it says nothing, or has no such model.
    """
    body = client.info()
    try:
        models = {model["name"]: model for model in body["models"]}
        model = models.get(model_name or next(iter(models)))
        if model is None:
            raise UnknownModelError(str(model_name), list(models))
        if model["state"] == "loading":
            raise UnavailableError(model["why"], 1.0)
    except (LookupError, TypeError, StopIteration):
        raise ServiceError(f"{url} does not describe its models; is it a CrossRank server?") from None
    return dict(model)


def _server_meta(url: str, client: Client, model_name: str | None, instruction: str | None) -> ModelMeta:
    model = _described(url, client, model_name)
    try:
        identity = [model[key] for key in ("source", "revision", "engine", "device", "created")]
        name, precision, max_length = model["name"], model["precision"], model["max_length"]
    except LookupError:
        raise ServiceError(f"{url} does not describe its models; is it a CrossRank server?") from None
    if model.get("long", "cut") != "cut":
        identity += [model["long"], model["max_windows"]]
    if model.get("instruction") is not None:
        identity += [model["instruction"], instruction]
    digest = hashlib.sha256(json.dumps([url, *identity]).encode()).hexdigest()[:16]
    return _meta(name, f"{digest}-{precision}-{max_length}", max_length)


def _meta(name: str, revision: str, max_tokens: int) -> ModelMeta:
    fields = {
        "model_type": ["cross-encoder"],
        # MTEB requires the form "organisation/model".
        "name": name if name.count("/") == 1 else f"crossrank/{PurePath(name).name}",
        "revision": revision,
        "max_tokens": max_tokens,
    }
    return ModelMeta.create_empty(overwrites=fields)
