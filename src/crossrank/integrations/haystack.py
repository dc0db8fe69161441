"""Haystack: a ranker component (extra ``haystack``).

::

    from haystack import Pipeline
    from crossrank.integrations.haystack import CrossRankRanker

    pipeline.add_component("ranker", CrossRankRanker("crossrank-mini", top_k=3))
    pipeline.connect("retriever.documents", "ranker.documents")
    Pipeline.loads(pipeline.dumps(), allowed_modules=["crossrank.*"])  # Haystack 2: without allowed_modules
"""

# There is no `from __future__ import annotations`, because Haystack needs the types of run as objects.
import asyncio
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import inf
from typing import Any

from crossrank._extras import needs
from crossrank.errors import InputError
from crossrank.inputs import check_instruction
from crossrank.integrations.ranker import NOT_SAVED, Model, Ranker, check_arguments, is_url, scored_by
from crossrank.models.resolve import BUNDLED
from crossrank.ranking import Ranking, check_options
from crossrank.reranker import Reranker

with needs("haystack", __name__):
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret, deserialize_secrets_inplace

__all__ = ["CrossRankRanker"]

_NAMES = ("top_k", "score_threshold")
_ENVIRONMENT = Secret.from_env_var("CROSSRANK_API_KEY", strict=False)


@component
class CrossRankRanker:
    """Rank documents by how well they answer the query, best first.

    Returns copies of the documents with new scores (0 to 1). Their meta has ``truncated``, which says
    whether the document was truncated to fit the model's window, and with two models ``scored_by``, the name
    of the one that scored it; with ``long="windows"``, ``window`` says which characters of a long one the
    score is of. Existing fields of these names are replaced. If documents have the same id,
    only the one with the highest score is ranked.

    Args:
        model: a Reranker, a model's name or folder, or a server's URL. A Reranker cannot be saved.
        top_k: the maximum number of documents to return, or None for all of them.
        score_threshold: the minimum score of a document (0 to 1), or None for no minimum.
        instruction: what the model is told to look for, if it takes an instruction; None: its default.
        api_key: the API key, for a server that requires one. It is resolved only if the model is a URL.
        meta_fields_to_embed: fields of the meta to put before the content.
        embedding_separator: the text between these fields and the content.
        options: further keyword arguments for ``Reranker`` or ``Client``.

    Raises:
        InputError: an argument is invalid or out of range.
    """

    def __init__(
        self,
        model: Model = BUNDLED,
        *,
        top_k: int | None = 10,
        score_threshold: float | None = None,
        instruction: str | None = None,
        api_key: Secret | None = _ENVIRONMENT,
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
        options: dict[str, Any] | None = None,
    ) -> None:
        check_arguments(model, options)
        check_options(top_k, score_threshold, _NAMES)
        check_instruction(instruction)
        if not isinstance(api_key, Secret | None):
            raise InputError(
                f"api_key is of type {type(api_key).__name__}; it must be a haystack.utils.Secret"
            )
        fields = meta_fields_to_embed
        if isinstance(fields, str) or not isinstance(fields, Sequence) or not all(map(_is_text, fields)):
            raise InputError(f"meta_fields_to_embed is {fields!r}; it must be a list of strings")
        if not _is_text(embedding_separator):
            raise InputError(f"embedding_separator is {embedding_separator!r}; it must be a string")
        self.model = model
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.instruction = instruction
        self.api_key = api_key
        self.meta_fields_to_embed = list(fields)
        self.embedding_separator = embedding_separator
        self.options = options
        self._ranker: Ranker | None = None

    def warm_up(self) -> None:
        """Load the model. Otherwise the first run loads it.

        Raises:
            InputError: an argument is invalid.
            ModelError: the model cannot be loaded.
            EngineError: no engine can run the model.
        """
        self._load()

    def _load(self) -> Ranker:
        if self._ranker is None:
            key = self.api_key.resolve_value() if self.api_key and is_url(self.model) else None
            self._ranker = Ranker(self.model, api_key=key, options=self.options)
        return self._ranker

    def to_dict(self) -> dict[str, Any]:
        """Serialise the component as a dictionary.

        Raises:
            InputError: the model is a Reranker object.
            ValueError: the API key is a token; use a secret from an environment variable instead.
        """
        if isinstance(self.model, Reranker):
            raise InputError(NOT_SAVED)
        saved: dict[str, Any] = default_to_dict(
            self,
            model=os.fspath(self.model),
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            instruction=self.instruction,
            api_key=self.api_key.to_dict() if self.api_key else None,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            options=self.options,
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CrossRankRanker":
        """Create the component from the dictionary of ``to_dict``."""
        parameters = dict(data.get("init_parameters", {}))
        deserialize_secrets_inplace(parameters, ["api_key"])
        made: CrossRankRanker = default_from_dict(cls, data | {"init_parameters": parameters})
        return made

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents, best first.

        Args:
            query: the query.
            documents: the candidates.
            top_k: replaces the component's own value.
            score_threshold: replaces the component's own value.
            instruction: replaces the component's own value.

        Raises:
            CrossRankError: as ``Reranker.rank`` or ``Client.rank``.
        """
        unique, texts = self._read(documents)
        options = self._options(top_k, score_threshold, instruction)
        ranking = self._load().sync.rank(query, texts, **options)
        return {"documents": _ranked(unique, ranking)}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
    ) -> dict[str, list[Document]]:
        """Like ``run``, without blocking the event loop."""
        unique, texts = self._read(documents)
        options = self._options(top_k, score_threshold, instruction)
        ranker = await asyncio.to_thread(self._load)
        ranking = await ranker.rank(query, texts, **options)
        return {"documents": _ranked(unique, ranking)}

    def _options(
        self, top_k: int | None, score_threshold: float | None, instruction: str | None
    ) -> dict[str, Any]:
        """The options of ``rank``: those of a run, or the component's own."""
        top_k = self.top_k if top_k is None else top_k
        score_threshold = self.score_threshold if score_threshold is None else score_threshold
        instruction = self.instruction if instruction is None else instruction
        check_options(top_k, score_threshold, _NAMES)
        return {"top_n": top_k, "threshold": score_threshold, "instruction": instruction}

    def _read(self, documents: Sequence[Document]) -> tuple[list[Document], list[str]]:
        """Remove documents with duplicate ids, and return the documents and their texts."""
        best: dict[str, Document] = {}
        for document in documents:
            if document.id not in best or _score(document) > _score(best[document.id]):
                best[document.id] = document
        return list(best.values()), [self._text(document) for document in best.values()]

    def _text(self, document: Document) -> str:
        values = [*(document.meta.get(name) for name in self.meta_fields_to_embed), document.content]
        # A document without content, such as an image, has the empty text, which ranks last.
        return self.embedding_separator.join(str(value) for value in values if value is not None)


def _score(document: Document) -> float:
    return -inf if document.score is None else float(document.score)


def _ranked(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    return [
        replace(
            documents[hit.index],
            score=hit.score,
            meta=deepcopy(documents[hit.index].meta) | {"truncated": hit.truncated, **scored_by(hit)},
        )
        for hit in ranking
    ]


def _is_text(value: object) -> bool:
    return isinstance(value, str)
