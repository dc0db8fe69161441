"""The example rag.py in Haystack: BM25 and vector retrievers, a joiner, and CrossRank in one pipeline.

pip install '.[haystack,rag]'
python examples/haystack_rag.py "成吉思汗的妻子被谁抢走了？"
"""

import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from haystack import Document, Pipeline, component
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import (
    InMemoryBM25Retriever,
    InMemoryEmbeddingRetriever,
)
from haystack.document_stores.in_memory import InMemoryDocumentStore
from rag import CANDIDATES, Passage, WordVectors, arguments, read_folder, run, show

from crossrank.integrations.haystack import CrossRankRanker
from crossrank.text.keywords import keywords


@component
class QueryVector:
    """A placeholder for your embedding model."""

    def __init__(self, embed: WordVectors) -> None:
        self._embed = embed

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    def run(self, query: str) -> dict[str, list[float]]:
        return {"embedding": self._embed([query])[0].tolist()}


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    passages = {passage.text: passage for passage in read_folder(options.folder)}
    embed = WordVectors(list(passages))
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.bm25_tokenizer = keywords
    store.write_documents(
        [
            Document(content=text, meta={"source": passage.source}, embedding=embed([text])[0].tolist())
            for text, passage in passages.items()
        ]
    )

    pipeline = Pipeline()
    pipeline.add_component("keywords", InMemoryBM25Retriever(store, top_k=CANDIDATES))
    pipeline.add_component("vector", QueryVector(embed))
    pipeline.add_component("vectors", InMemoryEmbeddingRetriever(store, top_k=CANDIDATES))
    pipeline.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=CANDIDATES))
    pipeline.add_component("ranker", CrossRankRanker(options.model, top_k=options.top))
    pipeline.connect("vector.embedding", "vectors.query_embedding")
    pipeline.connect("keywords.documents", "joiner.documents")
    pipeline.connect("vectors.documents", "joiner.documents")
    pipeline.connect("joiner.documents", "ranker.documents")

    def passages_of(found: list[Document]) -> list[Passage]:
        return [passages[document.content] for document in found]

    inputs = {name: {"query": options.question} for name in ("keywords", "vector", "ranker")}
    found = pipeline.run(inputs, include_outputs_from={"joiner"})
    after = found["ranker"]["documents"]
    scores = [document.score for document in after]
    show(
        options.question,
        passages_of(found["joiner"]["documents"]),
        list(zip(scores, passages_of(after), strict=True)),
    )


if __name__ == "__main__":
    run(main)
