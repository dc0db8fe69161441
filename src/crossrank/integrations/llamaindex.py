"""LlamaIndex: a node postprocessor (extra ``llamaindex``).

::

    from crossrank.integrations.llamaindex import CrossRankPostprocessor

    engine = index.as_query_engine(
        similarity_top_k=30, node_postprocessors=[CrossRankPostprocessor("crossrank-mini", top_n=3)]
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from crossrank._extras import needs
from crossrank.errors import InputError
from crossrank.inputs import check_instruction
from crossrank.integrations.ranker import NOT_SAVED, Model, Ranker, scored_by
from crossrank.models.resolve import BUNDLED
from crossrank.ranking import Ranking, check_options
from crossrank.reranker import Reranker

with needs("llamaindex", __name__):
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

__all__ = ["CrossRankPostprocessor"]


class CrossRankPostprocessor(BaseNodePostprocessor):  # type: ignore[misc]  # mypy does not follow LlamaIndex
    """Rank nodes by how well they answer the query, best first.

    The model reads the text that LlamaIndex would embed (``MetadataMode.EMBED``). Returns copies of the
    nodes with new scores (0 to 1). Their metadata has more fields, which are hidden from LLMs and embedding
    models:

    - ``truncated`` says whether the text was truncated to fit the model's window; an existing field of that
      name is replaced.
    - ``scored_by``, with two models, is the name of the one that scored the node.
    - ``window``, with ``long="windows"``, says which characters of a long text the score is of.
    - ``retrieval_score`` is the score that the retriever gave, if it gave one; an existing field of that
      name is kept.

    Args:
        model: a Reranker, a model's name or folder, or a server's URL. A Reranker cannot be saved.
        top_n: the maximum number of nodes to return, or None for all of them.
        threshold: the minimum score of a node (0 to 1), or None for no minimum.
        instruction: what the model is told to look for, if it takes an instruction; None: its default.
        api_key: the API key, for a server that requires one.
        options: further keyword arguments for ``Reranker`` or ``Client``.

    Raises:
        InputError: an argument is invalid.
        ModelError: the model cannot be loaded.
        EngineError: no engine can run the model.
    """

    model: str = Field(description="The model's name, or the server's URL.")
    top_n: int | None = Field(description="The maximum number of nodes to return.")
    threshold: float | None = Field(description="The minimum score of a node.")
    instruction: str | None = Field(default=None, description="What the model is told to look for.")
    options: dict[str, Any] = Field(description="Further keyword arguments for Reranker or Client.")
    _ranker: Ranker = PrivateAttr()

    def __init__(
        self,
        model: Model = BUNDLED,
        *,
        top_n: int | None = 2,
        threshold: float | None = None,
        instruction: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_options(top_n, threshold)
        check_instruction(instruction)
        ranker = Ranker(model, api_key=api_key, options=options)
        super().__init__(
            model=ranker.name,
            top_n=top_n,
            threshold=threshold,
            instruction=instruction,
            options=dict(options or {}),
        )
        self._ranker = ranker

    @classmethod
    def class_name(cls) -> str:
        """The name of this class in serialised form."""
        return "CrossRankPostprocessor"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Serialise the postprocessor as a dictionary, without the API key.

        Raises:
            InputError: the model is a Reranker object.
        """
        self._check_can_be_saved()
        saved: dict[str, Any] = super().to_dict(**kwargs)
        return saved

    def __getstate__(self) -> dict[str, Any]:
        self._check_can_be_saved()  # LlamaIndex would silently drop the model
        state: dict[str, Any] = super().__getstate__()
        return state

    def _check_can_be_saved(self) -> None:
        if isinstance(self._ranker.model, Reranker):
            raise InputError(NOT_SAVED)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _read(nodes, query_bundle)
        with self.callback_manager.event(CBEventType.RERANKING, self._payload(nodes, query)) as event:
            ranking = self._ranker.sync.rank(query, texts, **self._options())
            found = _ranked(nodes, ranking)
            event.on_end({EventPayload.NODES: found})
        return found

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, texts = _read(nodes, query_bundle)
        with self.callback_manager.event(CBEventType.RERANKING, self._payload(nodes, query)) as event:
            ranking = await self._ranker.rank(query, texts, **self._options())
            found = _ranked(nodes, ranking)
            event.on_end({EventPayload.NODES: found})
        return found

    def _options(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "top_n": self.top_n, "threshold": self.threshold}

    def _payload(self, nodes: Sequence[NodeWithScore], query: str) -> dict[EventPayload, Any]:
        return {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }


def _read(nodes: Sequence[NodeWithScore], query_bundle: QueryBundle | None) -> tuple[str, list[str]]:
    if query_bundle is None:
        raise InputError("there is no query to rank the nodes by; give query_bundle or query_str")
    return query_bundle.query_str, [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]


def _ranked(nodes: Sequence[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
    found = []
    for hit in ranking:
        given = nodes[hit.index]
        ours: dict[str, Any] = {"truncated": hit.truncated, **scored_by(hit)}
        if given.score is not None and "retrieval_score" not in given.node.metadata:
            ours["retrieval_score"] = given.score
        hidden = ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
        node = given.node.model_copy(
            update={
                "metadata": deepcopy(given.node.metadata) | ours,
                **{name: list(dict.fromkeys([*getattr(given.node, name), *ours])) for name in hidden},
            }
        )
        found.append(NodeWithScore(node=node, score=hit.score))
    return found
