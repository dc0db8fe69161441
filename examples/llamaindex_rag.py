"""The example rag.py in LlamaIndex: a retriever fuses keywords and vectors, CrossRank reranks.

pip install '.[llamaindex,rag]'
python examples/llamaindex_rag.py "成吉思汗的妻子被谁抢走了？"
"""

from __future__ import annotations

from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from rag import CANDIDATES, Passage, WordVectors, arguments, read_folder, run, show

from crossrank.integrations.llamaindex import CrossRankPostprocessor
from crossrank.text.keywords import KeywordIndex


class Keywords(BaseRetriever):  # type: ignore[misc]
    """A BM25 retriever of nodes."""

    def __init__(self, nodes: list[TextNode]) -> None:
        super().__init__()
        self._nodes = nodes
        self._index = KeywordIndex([node.text for node in nodes])

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        scores = self._index.scores(query_bundle.query_str)
        found = [i for i in self._index.order(query_bundle.query_str)[:CANDIDATES] if scores[i] > 0]
        return [NodeWithScore(node=self._nodes[i], score=float(scores[i])) for i in found]


class Vectors(BaseEmbedding):  # type: ignore[misc]
    """A placeholder for your embedding model."""

    _embed: WordVectors = PrivateAttr()

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._embed = WordVectors(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in self._embed(texts)]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    passages = read_folder(options.folder)
    texts = [passage.text for passage in passages]
    nodes = [TextNode(text=text, id_=str(number)) for number, text in enumerate(texts)]
    index = VectorStoreIndex(nodes, embed_model=Vectors(texts))
    llm = MockLLM()  # your LLM writes the answer
    retriever = QueryFusionRetriever(
        [Keywords(nodes), index.as_retriever(similarity_top_k=CANDIDATES)],
        llm=llm,
        mode=FUSION_MODES.RECIPROCAL_RANK,
        num_queries=1,
        similarity_top_k=CANDIDATES,
        use_async=False,
    )
    engine = RetrieverQueryEngine(
        retriever,
        response_synthesizer=NoText(llm=llm),
        node_postprocessors=[CrossRankPostprocessor(options.model, top_n=options.top)],
    )

    def passages_of(found: list[NodeWithScore]) -> list[Passage]:
        return [passages[int(node.node_id)] for node in found]

    after: list[Any] = engine.query(options.question).source_nodes
    scores = [node.score for node in after]
    show(
        options.question,
        passages_of(retriever.retrieve(options.question)),
        list(zip(scores, passages_of(after), strict=True)),
    )


if __name__ == "__main__":
    run(main)
