"""The adapters with documents that are read in windows: hits say which part of the text won."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from haystack import Document as HaystackDocument
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode

from crossrank import Reranker
from crossrank.client import Client
from crossrank.integrations.haystack import CrossRankRanker
from crossrank.integrations.langchain import CrossRankCompressor
from crossrank.integrations.llamaindex import CrossRankPostprocessor
from crossrank.integrations.ranker import Ranker
from tests.integrations import QUERY

OPTIONS: dict[str, Any] = {"long": "windows", "max_length": 64, "device": "cpu", "threads": 1}
TEXTS = ["short", " ".join(f"Sentence {i} has the number {i * i}." for i in range(50))]


@pytest.fixture(scope="module")
def reader(folder: Path) -> Iterator[Reranker]:
    with Reranker(folder, **OPTIONS) as reranker:
        yield reranker


def windows(reader: Reranker) -> list[list[int] | None]:
    found = [list(hit.window) if hit.window else None for hit in reader.rank(QUERY, TEXTS)]
    assert sum(window is not None for window in found) == 1
    return found


def test_options_go_to_the_model_and_to_the_server(folder: Path, reader: Reranker) -> None:
    assert Ranker(folder, options=OPTIONS).sync.rank(QUERY, TEXTS) == reader.rank(QUERY, TEXTS)
    client = Ranker("http://127.0.0.1:9", options={"long": "windows", "max_windows": 3}).sync
    assert isinstance(client, Client)
    assert client._windows == {"long": "windows", "max_windows": 3}


def test_langchain(reader: Reranker) -> None:
    documents = [LangChainDocument(text) for text in TEXTS]
    found = CrossRankCompressor(reader, top_n=None).compress_documents(documents, QUERY)
    assert [document.metadata.get("window") for document in found] == windows(reader)


def test_llamaindex(reader: Reranker) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    found = CrossRankPostprocessor(reader, top_n=None).postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node.metadata.get("window") for node in found] == windows(reader)


def test_haystack(reader: Reranker) -> None:
    documents = [HaystackDocument(content=text) for text in TEXTS]
    found = CrossRankRanker(reader, top_k=None).run(QUERY, documents)["documents"]
    assert [document.meta.get("window") for document in found] == windows(reader)
