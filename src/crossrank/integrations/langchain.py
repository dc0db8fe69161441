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
from crossrank.inputs import check_instruction
from crossrank.integrations.ranker import Model, Ranker, scored_by
from crossrank.models.resolve import BUNDLED
from crossrank.ranking import Ranking, check_options

with needs("langchain", __name__):
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, PrivateAttr, SecretStr

__all__ = ["CrossRankCompressor"]


class CrossRankCompressor(BaseDocumentCompressor):  # type: ignore[misc]  # mypy does not follow LangChain
    """Rank documents by how well they answer the query, best first.

    Returns copies of the documents. Their metadata has ``relevance_score`` (0 to 1) and ``truncated``, which
    says whether the document was truncated to fit the model's window, and with two models ``scored_by``, the
    name of the one that scored it; with ``long="windows"``, ``window`` says which characters of a long one
    the score is of. Existing fields of these names are replaced.

    Args:
        model: a Reranker, a model's name or folder, or a server's URL.
        top_n: the maximum number of documents to return, or None for all of them.
        threshold: the minimum score of a document (0 to 1), or None for no minimum.
        instruction: what the model is told to look for, if it takes an instruction; None: its default.
        api_key: the API key, for a server that requires one.
        options: further keyword arguments for ``Reranker`` or ``Client``.

    Raises:
        InputError: an argument is invalid.
        ModelError: the model cannot be loaded.
        EngineError: no engine can run the model.
    """

    model_config = ConfigDict(extra="forbid")

    top_n: int | None
    threshold: float | None
    instruction: str | None
    _ranker: Ranker = PrivateAttr()

    def __init__(
        self,
        model: Model = BUNDLED,
        *,
        top_n: int | None = 3,
        threshold: float | None = None,
        instruction: str | None = None,
        api_key: str | SecretStr | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        check_options(top_n, threshold)
        check_instruction(instruction)
        super().__init__(top_n=top_n, threshold=threshold, instruction=instruction)
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._ranker = Ranker(model, api_key=key, options=options)

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002  this compressor has no callbacks
    ) -> list[Document]:
        """Rank retrieved documents.

        Raises:
            CrossRankError: as ``Reranker.rank`` or ``Client.rank``.
        """
        documents = list(documents)
        texts = [document.page_content for document in documents]
        ranking = self._ranker.sync.rank(query, texts, **self._options())
        return _ranked(documents, ranking)

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """Like ``compress_documents``, without blocking the event loop."""
        documents = list(documents)
        texts = [document.page_content for document in documents]
        ranking = await self._ranker.rank(query, texts, **self._options())
        return _ranked(documents, ranking)

    def _options(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "top_n": self.top_n, "threshold": self.threshold}


def _ranked(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    found = []
    for hit in ranking:
        document = documents[hit.index]
        metadata = {name: _copied(value) for name, value in document.metadata.items()}
        metadata |= {"relevance_score": hit.score, "truncated": hit.truncated, **scored_by(hit)}
        found.append(document.model_copy(update={"metadata": metadata}))
    return found


def _copied(value: Any) -> Any:
    """A copy of a value, or the value itself if it cannot be copied, such as a lock or a connection."""
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever the value's own methods raise
        return value
