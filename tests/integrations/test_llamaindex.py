from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from crossrank import CrossRankError, InputError, Reranker
from crossrank.integrations.llamaindex import CrossRankPostprocessor
from tests.integrations import DOCUMENTS, LONG, QUERY
from tests.server.process import Server


def nodes() -> list[NodeWithScore]:
    """With a title that is part of the text for embedding, and a page that is not."""
    texts = [*DOCUMENTS[3:], LONG, *DOCUMENTS[:3]]
    return [
        NodeWithScore(
            node=TextNode(
                text=text,
                id_=str(i),
                metadata={"title": f"title {i}", "page": [i]},
                excluded_embed_metadata_keys=["page"],
            ),
            score=None if i == 4 else 1 / (i + 1),
        )
        for i, text in enumerate(texts)
    ]


class Retriever(BaseRetriever):  # type: ignore[misc]
    def __init__(self, found: list[NodeWithScore]) -> None:
        super().__init__()
        self.found = found

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.found


def test_the_order_is_llamaindexs_own(folder: Path, reranker: Reranker) -> None:
    short = [node for node in nodes() if node.text != LONG]
    ours = CrossRankPostprocessor(reranker, top_n=9).postprocess_nodes(short, query_str=QUERY)
    # It reranks by the same texts, and changes the scores of what it is given: it comes second.
    own = SentenceTransformerRerank(model=str(folder), top_n=9, device="cpu", trust_remote_code=False)
    theirs = own.postprocess_nodes(short, query_str=QUERY)
    assert [node.node_id for node in ours] == [node.node_id for node in theirs]
    assert [node.score for node in ours] == pytest.approx([float(node.score) for node in theirs], abs=1e-4)


@pytest.mark.parametrize("where", ["here", "served"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_copies_with_new_scores(
    where: str, asynchronous: bool, reranker: Reranker, server: Server, key: str
) -> None:
    given = nodes()
    if where == "here":
        processor = CrossRankPostprocessor(reranker, top_n=None)
    else:
        processor = CrossRankPostprocessor(server.url, top_n=None, api_key=key)
    if asynchronous:
        found = asyncio.run(processor.apostprocess_nodes(given, query_str=QUERY))
    else:
        found = processor.postprocess_nodes(given, query_str=QUERY)
    expected = reranker.rank(QUERY, [f"title: title {i}\n\n{node.text}" for i, node in enumerate(given)])
    assert [(node.node_id, node.score) for node in found] == [(str(h.index), h.score) for h in expected]
    for node, hit in zip(found, expected, strict=True):
        before = given[hit.index].score
        assert node.metadata["truncated"] is hit.truncated is (hit.index == 12)
        assert node.metadata.get("retrieval_score") == before
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert node.get_content(mode) == given[hit.index].get_content(mode)
    assert given == nodes()


def test_in_a_query_engine(reranker: Reranker) -> None:
    engine = RetrieverQueryEngine(
        Retriever(nodes()),
        response_synthesizer=NoText(llm=MockLLM()),
        node_postprocessors=[CrossRankPostprocessor(reranker, top_n=4)],
    )
    expected = CrossRankPostprocessor(reranker, top_n=4).postprocess_nodes(nodes(), query_str=QUERY)
    assert engine.query(QUERY).source_nodes == expected
    assert asyncio.run(engine.aquery(QUERY)).source_nodes == expected
    assert len(expected) == 4


def test_llamaindex_is_told_of_the_reranking(reranker: Reranker) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    processor = CrossRankPostprocessor(reranker)
    processor.callback_manager = CallbackManager([debug])
    found = processor.postprocess_nodes(nodes(), query_str=QUERY)
    [(start, end)] = debug.get_event_pairs(CBEventType.RERANKING)
    assert start.payload[EventPayload.QUERY_STR] == QUERY
    assert start.payload[EventPayload.MODEL_NAME] == "tiny"
    assert end.payload[EventPayload.NODES] == found
    assert len(found) == start.payload[EventPayload.TOP_K] == 2


def test_saved_and_made_again(folder: Path, reranker: Reranker, server: Server, key: str) -> None:
    options: dict[str, Any] = {"precision": "fp32", "threads": 1}
    saved = CrossRankPostprocessor(folder, top_n=3, threshold=0.2, options=options).to_dict()
    again = CrossRankPostprocessor.from_dict(saved)
    expected = CrossRankPostprocessor(reranker, top_n=3, threshold=0.2).postprocess_nodes(
        nodes(), query_str=QUERY
    )
    assert again.postprocess_nodes(nodes(), query_str=QUERY) == expected
    assert key not in str(CrossRankPostprocessor(server.url, api_key=key).to_dict())


def test_what_comes_back_shares_nothing_with_what_was_given(reranker: Reranker) -> None:
    given = nodes()
    for node in CrossRankPostprocessor(reranker, top_n=None).postprocess_nodes(given, query_str=QUERY):
        node.metadata["page"].append("changed")
    assert given == nodes()


def test_a_second_pass_keeps_the_first_retrieval_score(reranker: Reranker) -> None:
    processor = CrossRankPostprocessor(reranker, top_n=None)
    once = processor.postprocess_nodes(nodes()[:4], query_str=QUERY)
    twice = processor.postprocess_nodes(once, query_str="another query")
    assert {node.node_id: node.metadata["retrieval_score"] for node in twice} == {
        node.node_id: node.score for node in nodes()[:4]
    }
    for node in twice:
        assert node.node.excluded_llm_metadata_keys == ["truncated", "retrieval_score"]
        assert node.node.excluded_embed_metadata_keys == ["page", "truncated", "retrieval_score"]


def test_copied_and_pickled(folder: Path, reranker: Reranker) -> None:
    named = CrossRankPostprocessor(folder, options={"precision": "fp32", "threads": 1})
    expected = named.postprocess_nodes(nodes(), query_str=QUERY)
    for again in (
        copy.deepcopy(named),
        pickle.loads(pickle.dumps(named)),
        copy.deepcopy(CrossRankPostprocessor(reranker)),
    ):
        assert again.postprocess_nodes(nodes(), query_str=QUERY) == expected


def test_a_reranker_object_is_not_saved(reranker: Reranker) -> None:
    processor = CrossRankPostprocessor(reranker)
    for save in (processor.to_dict, processor.to_json, lambda: pickle.dumps(processor)):
        with pytest.raises(InputError, match="a Reranker object cannot be saved"):
            save()


def test_mistakes_are_errors(reranker: Reranker, server: Server) -> None:
    with pytest.raises(InputError, match="threshold is 2"):
        CrossRankPostprocessor(reranker, threshold=2)
    with pytest.raises(InputError, match="no query"):
        CrossRankPostprocessor(reranker).postprocess_nodes(nodes())
    with pytest.raises(CrossRankError, match="key"):
        CrossRankPostprocessor(server.url).postprocess_nodes(nodes(), query_str=QUERY)
    assert CrossRankPostprocessor(reranker).postprocess_nodes([], query_str=QUERY) == []
