"""The example rag.py in LangChain: an EnsembleRetriever fuses keywords and vectors, CrossRank reranks.

pip install '.[langchain,rag]' langchain-classic
python examples/langchain_rag.py "成吉思汗的妻子被谁抢走了？"
"""

from __future__ import annotations

from langchain_classic.retrievers import ContextualCompressionRetriever, EnsembleRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ConfigDict
from rag import CANDIDATES, Passage, WordVectors, arguments, read_folder, run, show

from crossrank.integrations.langchain import CrossRankCompressor
from crossrank.text.keywords import KeywordIndex


class Keywords(BaseRetriever):  # type: ignore[misc]
    """A BM25 retriever of documents."""

    documents: list[Document]
    index: KeywordIndex

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002
    ) -> list[Document]:
        scores = self.index.scores(query)
        found = [i for i in self.index.order(query)[:CANDIDATES] if scores[i] > 0]
        return [self.documents[i] for i in found]


class Vectors(Embeddings):  # type: ignore[misc]
    """A placeholder for your embedding model."""

    def __init__(self, texts: list[str]) -> None:
        self._embed = WordVectors(texts)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in self._embed(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    passages = {passage.text: passage for passage in read_folder(options.folder)}
    documents = [Document(text, metadata={"source": passage.source}) for text, passage in passages.items()]
    store = InMemoryVectorStore(Vectors(list(passages)))
    store.add_documents(documents)
    fused = EnsembleRetriever(
        retrievers=[
            Keywords(documents=documents, index=KeywordIndex(list(passages))),
            store.as_retriever(search_kwargs={"k": CANDIDATES}),
        ],
        weights=[0.5, 0.5],
    )
    retriever = fused | (lambda found: found[:CANDIDATES])  # fused returns the results of both retrievers
    reranked = ContextualCompressionRetriever(
        base_retriever=retriever, base_compressor=CrossRankCompressor(options.model, top_n=options.top)
    )

    def passages_of(found: list[Document]) -> list[Passage]:
        return [passages[document.page_content] for document in found]

    after = reranked.invoke(options.question)
    scores = [document.metadata["relevance_score"] for document in after]
    show(
        options.question,
        passages_of(retriever.invoke(options.question)),
        list(zip(scores, passages_of(after), strict=True)),
    )


if __name__ == "__main__":
    run(main)
