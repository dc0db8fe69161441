"""The adapters with two models: hits come in both models' order, whatever sorts them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import mteb
import pandas as pd
import pytest
from datasets import Dataset
from haystack import Document as HaystackDocument
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode
from torch.utils.data import DataLoader

from crossrank import Reranker
from crossrank.integrations.haystack import CrossRankRanker
from crossrank.integrations.langchain import CrossRankCompressor
from crossrank.integrations.llamaindex import CrossRankPostprocessor
from crossrank.integrations.mteb import CrossRankCrossEncoder
from crossrank.integrations.pyterrier import CrossRankTransformer
from crossrank.integrations.ranker import Ranker
from tests.integrations import DOCUMENTS, QUERY

OPTIONS: dict[str, Any] = {"first": "crossrank-mini", "keep": 2, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[Reranker]:
    with Reranker(folder, **OPTIONS) as reranker:
        yield reranker


def test_options_make_a_cascade(folder: Path, both: Reranker) -> None:
    expected = both.rank(QUERY, DOCUMENTS)
    assert [hit.model for hit in expected[:3]] == [folder.name] * 2 + ["crossrank-mini"]
    ranker = Ranker(folder, options=OPTIONS)
    assert ranker.sync.rank(QUERY, DOCUMENTS) == expected


def test_langchain(both: Reranker) -> None:
    expected = both.rank(QUERY, DOCUMENTS)
    found = CrossRankCompressor(both, top_n=None).compress_documents(
        [LangChainDocument(text) for text in DOCUMENTS], QUERY
    )
    assert [document.page_content for document in found] == [hit.text for hit in expected]
    assert [document.metadata["scored_by"] for document in found] == [hit.model for hit in expected]


def test_llamaindex(both: Reranker) -> None:
    expected = both.rank(QUERY, DOCUMENTS)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    found = CrossRankPostprocessor(both, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node.metadata["scored_by"] for node in found] == [hit.model for hit in expected]
    assert "scored_by" in found[0].node.excluded_llm_metadata_keys


def test_haystack(both: Reranker) -> None:
    expected = both.rank(QUERY, DOCUMENTS)
    documents = [HaystackDocument(content=text) for text in DOCUMENTS]
    found = CrossRankRanker(both, top_k=None).run(QUERY, documents)["documents"]
    assert [document.meta["scored_by"] for document in found] == [hit.model for hit in expected]


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")
def test_pyterrier_sorts_by_score(both: Reranker) -> None:
    expected = both.rank(QUERY, DOCUMENTS)
    frame = pd.DataFrame({"qid": "1", "query": QUERY, "docno": map(str, range(len(DOCUMENTS)))})
    found = CrossRankTransformer(both)(frame.assign(text=DOCUMENTS))
    order = found.sort_values("score", ascending=False)["docno"].tolist()
    assert order == [str(hit.index) for hit in expected]


class _Task:
    metadata: ClassVar[Any] = mteb.TaskMetadata.model_construct(prompt=None)


def test_mteb_sorts_by_score(both: Reranker) -> None:
    expected = both.rank(QUERY, DOCUMENTS)
    loaders = [
        DataLoader(Dataset.from_dict({"text": side}), batch_size=4)
        for side in ([QUERY] * len(DOCUMENTS), DOCUMENTS)
    ]
    task: Any = {"task_metadata": _Task.metadata, "hf_split": "test", "hf_subset": "default"}
    found = CrossRankCrossEncoder(both).predict(*loaders, **task)
    assert sorted(range(len(DOCUMENTS)), key=lambda i: -found[i]) == expected.indices
