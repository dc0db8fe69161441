"""LangChain: a document compressor (extra ``langchain``).

::

    from langchain_classic.retrievers import ContextualCompressionRetriever
    from crossrank.integrations.langchain import CrossRankCompressor

    retriever = ContextualCompressionRetriever(
        base_compressor=CrossRankCompressor("crossrank-mini", top_n=3), base_retriever=retriever
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from crossrank._extras import needs
from crossrank.integrations.ranker import Model, Ranker
from crossrank.models.resolve import BUNDLED
from crossrank.ranking import Ranking, check_options

with needs("langchain", __name__):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, PrivateAttr, SecretStr

__all__ = ["CrossRankCompressor"]


class CrossRankCompressor(BaseDocumentCompressor):  # type: ignore[misc]  # mypy does not follow LangChain
    """Documents in the order in which they answer the query, best first.

    What comes back are copies, whose metadata has ``relevance_score`` (0 to 1) and ``truncated``
    (whether the document was cut to fit the model's window); fields of these names are replaced.

    Args:
        model: a Reranker, a model's name or folder, or a server's URL.
        top_n: how many documents to return; None: all.
        threshold: leave out documents with a score below it.
        api_key: for a server that asks for one.
        options: more arguments of ``Reranker`` or ``Client``, by name.

    Raises:
        InputError, ModelError, EngineError: as ``crossrank.integrations.ranker.Ranker``.
    """

    model_config = ConfigDict(extra="forbid")

    top_n: int | None
    threshold: float | None
    _ranker: Ranker = PrivateAttr()

    def __init__(
        self,
        model: Model = BUNDLED,
        *,
        top_n: int | None = 3,
        threshold: float | None = None,
        api_key: str | SecretStr | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_options(top_n, threshold)
        super().__init__(top_n=top_n, threshold=threshold)
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._ranker = Ranker(model, api_key=key, options=options)

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002  it calls nobody
    ) -> list[Document]:
        """Rank retrieved documents.

        Raises:
            CrossRankError: as ``Reranker.rank`` or ``Client.rank``.
        """
        documents = list(documents)
        texts = [document.page_content for document in documents]
        ranking = self._ranker.sync.rank(query, texts, top_n=self.top_n, threshold=self.threshold)
        return _ranked(documents, ranking)

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """As ``compress_documents``; the event loop is free meanwhile."""
        documents = list(documents)
        texts = [document.page_content for document in documents]
        ranking = await self._ranker.rank(query, texts, top_n=self.top_n, threshold=self.threshold)
        return _ranked(documents, ranking)


def _ranked(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    found = []
    for hit in ranking:
        document = documents[hit.index]
        metadata = deepcopy(document.metadata) | {"relevance_score": hit.score, "truncated": hit.truncated}
        found.append(document.model_copy(update={"metadata": metadata}))
    return found
