from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_classic.retrievers.document_compressors.cross_encoder import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import SecretStr, ValidationError
from sentence_transformers import CrossEncoder

from crossrank import CrossRankError, InputError, ModelNotFoundError, Reranker
from crossrank.integrations.langchain import CrossRankCompressor
from tests.integrations import DOCUMENTS, LONG, QUERY
from tests.server.process import Server


def documents() -> list[Document]:
    found = [Document(text, id=str(i), metadata={"page": [i]}) for i, text in enumerate([*DOCUMENTS, LONG])]
    return [*found[3:], *found[:3]]


class Retriever(BaseRetriever):  # type: ignore[misc]
    found: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.found


class SentenceTransformers(BaseCrossEncoder):  # type: ignore[misc]
    """As langchain-community's HuggingFaceCrossEncoder, which is no longer maintained."""

    def __init__(self, folder: Path) -> None:
        self.model = CrossEncoder(str(folder), device="cpu", local_files_only=True)

    def score(self, text_pairs: list[tuple[str, str]]) -> Any:
        return self.model.predict(text_pairs)


def test_the_order_is_langchains_own(folder: Path, reranker: Reranker) -> None:
    texts = [Document(text) for text in DOCUMENTS]
    model = SentenceTransformers(folder)
    theirs = CrossEncoderReranker(model=model, top_n=9).compress_documents(texts, QUERY)
    ours = CrossRankCompressor(reranker, top_n=9).compress_documents(texts, QUERY)
    assert [document.page_content for document in ours] == [document.page_content for document in theirs]
    scores = model.score([(QUERY, document.page_content) for document in ours])
    assert [document.metadata["relevance_score"] for document in ours] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("where", ["here", "served"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_in_a_compression_retriever(
    where: str, asynchronous: bool, reranker: Reranker, server: Server, key: str
) -> None:
    given = documents()
    before = copy.deepcopy(given)
    if where == "here":
        compressor = CrossRankCompressor(reranker, top_n=None)
    else:
        compressor = CrossRankCompressor(server.url, top_n=None, api_key=SecretStr(key))
    retriever = ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=Retriever(found=given)
    )
    found = asyncio.run(retriever.ainvoke(QUERY)) if asynchronous else retriever.invoke(QUERY)
    expected = reranker.rank(QUERY, [document.page_content for document in given])
    assert [(document.id, document.page_content) for document in found] == [
        (given[hit.index].id, hit.text) for hit in expected
    ]
    assert [document.metadata for document in found] == [
        {**given[hit.index].metadata, "relevance_score": hit.score, "truncated": hit.truncated}
        for hit in expected
    ]
    assert sum(document.metadata["truncated"] for document in found) == 1
    assert given == before


def test_top_n_and_threshold(reranker: Reranker) -> None:
    given = documents()
    scores = sorted(
        (hit.score for hit in reranker.rank(QUERY, [d.page_content for d in given])), reverse=True
    )
    assert len(CrossRankCompressor(reranker).compress_documents(given, QUERY)) == 3
    above = CrossRankCompressor(reranker, top_n=None, threshold=scores[4])
    assert [d.metadata["relevance_score"] for d in above.compress_documents(given, QUERY)] == scores[:5]
    assert above.compress_documents([], QUERY) == []
    drawn = CrossRankCompressor(reranker).compress_documents((d for d in given), QUERY)  # type: ignore[arg-type]
    assert drawn == CrossRankCompressor(reranker).compress_documents(given, QUERY)


def test_what_comes_back_shares_nothing_with_what_was_given(reranker: Reranker) -> None:
    given = documents()
    found = CrossRankCompressor(reranker, top_n=None).compress_documents(given, QUERY)
    for document in found:
        document.metadata["page"].append("changed")
    assert given == documents()


def test_metadata_that_cannot_be_copied_comes_back_as_it_is(reranker: Reranker) -> None:
    lock = threading.Lock()
    given = [Document(document.page_content, metadata={"lock": lock}) for document in documents()]
    found = CrossRankCompressor(reranker, top_n=None).compress_documents(given, QUERY)
    assert [document.metadata["lock"] for document in found] == [lock] * len(given)


def test_copied_and_pickled(folder: Path, reranker: Reranker) -> None:
    named = CrossRankCompressor(folder, options={"precision": "fp32", "threads": 1})
    expected = named.compress_documents(documents(), QUERY)
    for again in (
        copy.deepcopy(named),
        pickle.loads(pickle.dumps(named)),
        copy.deepcopy(CrossRankCompressor(reranker)),
    ):
        assert again.compress_documents(documents(), QUERY) == expected
    with pytest.raises(InputError, match="a Reranker object cannot be saved"):
        pickle.dumps(CrossRankCompressor(reranker))


def test_mistakes_are_errors(reranker: Reranker, key: str, server: Server) -> None:
    with pytest.raises(InputError, match="top_n is -1"):
        CrossRankCompressor(reranker, top_n=-1)
    with pytest.raises(ModelNotFoundError):
        CrossRankCompressor("./no-such-folder")
    with pytest.raises(CrossRankError, match="key"):
        CrossRankCompressor(server.url).compress_documents(documents(), QUERY)
    compressor = CrossRankCompressor(server.url, api_key=key)
    assert key not in repr(compressor)
    with pytest.raises(InputError, match="document 0 is a"):
        compressor.compress_documents([Document.model_construct(page_content=None)], QUERY)
    with pytest.raises((ValidationError, ValueError)):
        compressor.topn = 3
