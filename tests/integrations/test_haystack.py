from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from haystack_integrations.components.rankers.sentence_transformers import (
    SentenceTransformersSimilarityRanker,
)

from crossrank import CrossRankError, InputError, ModelNotFoundError, Reranker
from crossrank.integrations.haystack import CrossRankRanker
from tests.integrations import DOCUMENTS, LONG, QUERY
from tests.server.process import Server


def documents() -> list[Document]:
    texts = [*DOCUMENTS[3:], LONG, *DOCUMENTS[:3]]
    return [
        Document(id=str(i), content=text, meta={"title": f"title {i}", "pages": [i]}, score=0.5)
        for i, text in enumerate(texts)
    ]


def test_the_order_is_haystacks_own(folder: Path, reranker: Reranker) -> None:
    given = [document for document in documents() if document.content != LONG]
    own = SentenceTransformersSimilarityRanker(model=str(folder), meta_fields_to_embed=["title"], token=None)
    own.warm_up()
    theirs = own.run(query=QUERY, documents=given)["documents"]
    ours = CrossRankRanker(reranker, meta_fields_to_embed=["title"]).run(QUERY, given)["documents"]
    assert [document.id for document in ours] == [document.id for document in theirs]
    assert [document.score for document in ours] == pytest.approx([d.score for d in theirs], abs=1e-4)
    assert len(ours) == 10


@pytest.mark.parametrize("where", ["here", "served"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_copies_with_new_scores(
    where: str,
    asynchronous: bool,
    reranker: Reranker,
    server: Server,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CROSSRANK_API_KEY", key)
    given = documents()
    before = copy.deepcopy(given)
    ranker = CrossRankRanker(reranker if where == "here" else server.url, top_k=None)
    if asynchronous:
        found = asyncio.run(ranker.run_async(QUERY, given))["documents"]
    else:
        found = ranker.run(QUERY, given)["documents"]
    expected = reranker.rank(QUERY, [document.content for document in given])
    assert [(document.id, document.score) for document in found] == [
        (str(h.index), h.score) for h in expected
    ]
    assert [document.meta for document in found] == [
        {"title": f"title {hit.index}", "pages": [hit.index], "truncated": hit.index == 12}
        for hit in expected
    ]
    for document in found:
        document.meta["pages"].append("changed")
    assert given == before


def test_saved_to_yaml_and_loaded_again(folder: Path, tmp_path: Path) -> None:
    store = InMemoryDocumentStore()
    store.write_documents(documents())
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=8))
    ranker = CrossRankRanker(
        folder, top_k=3, score_threshold=0.01, options={"precision": "fp32", "threads": 1}
    )
    pipeline.add_component("ranker", ranker)
    pipeline.connect("retriever.documents", "ranker.documents")
    with (tmp_path / "pipeline.yaml").open("w") as file:
        pipeline.dump(file)
    with (tmp_path / "pipeline.yaml").open() as file:
        loaded = Pipeline.load(file, allowed_modules=["crossrank.*"])
    loaded.get_component("retriever").document_store.write_documents(documents(), policy="skip")
    asked = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}
    first, again = pipeline.run(asked), loaded.run(asked)
    assert first == again
    assert len(first["ranker"]["documents"]) == 3
    fewer = loaded.run({"retriever": {"query": QUERY}, "ranker": {"query": QUERY, "top_k": 1}})
    assert fewer["ranker"]["documents"] == first["ranker"]["documents"][:1]
    later = asyncio.run(loaded.run_async(asked))
    assert later == first


def test_a_key_is_saved_by_the_name_of_its_variable_only(
    server: Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    ranker = CrossRankRanker(server.url, api_key=Secret.from_env_var("MY_KEY"))
    saved = ranker.to_dict()
    assert saved["init_parameters"]["api_key"]["env_vars"] == ["MY_KEY"]
    assert key not in str(saved)
    again = CrossRankRanker.from_dict(saved)
    assert again.to_dict() == saved
    assert len(again.run(QUERY, documents())["documents"]) == 10
    with pytest.raises(ValueError, match="Cannot serialize token-based secret"):
        CrossRankRanker(server.url, api_key=Secret.from_token(key)).to_dict()


def test_top_k_and_threshold(reranker: Reranker) -> None:
    ranker = CrossRankRanker(reranker, top_k=5)
    given = documents()
    found = ranker.run(QUERY, given)["documents"]
    assert len(found) == 5
    low = found[2].score
    assert ranker.run(QUERY, given, score_threshold=low)["documents"] == found[:3]
    assert ranker.run(QUERY, given, top_k=2)["documents"] == found[:2]
    assert ranker.run(QUERY, [])["documents"] == []


def test_documents_of_one_id_are_ranked_once(reranker: Reranker) -> None:
    given = documents()
    once = CrossRankRanker(reranker).run(QUERY, given)
    assert CrossRankRanker(reranker).run(QUERY, [*given, *documents()]) == once


def test_of_documents_of_one_id_the_best_is_ranked(reranker: Reranker) -> None:
    given = [
        Document(id="a", content=f"text {i}", score=score)
        for i, score in enumerate([None, 0.3, 0.9, 0.9, 0.1])
    ]
    [found] = CrossRankRanker(reranker).run(QUERY, given)["documents"]
    assert found.content == "text 2"


def test_the_model_is_loaded_by_warm_up(tmp_path: Path) -> None:
    ranker = CrossRankRanker(tmp_path / "none")
    with pytest.raises(ModelNotFoundError):
        ranker.warm_up()
    with pytest.raises(ModelNotFoundError):
        asyncio.run(ranker.run_async(QUERY, documents()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": "3"}, "top_k is '3'"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"score_threshold": "x"}, "score_threshold is 'x'"),
        ({"model": None}, "model is None"),
        ({"options": [1]}, r"options is \[1\]"),
        ({"model": "http://127.0.0.1:9", "api_key": "abc"}, "api_key is of type "),
        ({"meta_fields_to_embed": "title"}, "meta_fields_to_embed is 'title'"),
        ({"meta_fields_to_embed": [5]}, r"meta_fields_to_embed is \[5\]"),
        ({"meta_fields_to_embed": None}, "meta_fields_to_embed is None"),
        ({"embedding_separator": 5}, "embedding_separator is 5"),
    ],
)
def test_wrong_types_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrossRankRanker(**arguments)


def test_wrong_types_of_one_run_are_errors(reranker: Reranker) -> None:
    wrong: list[dict[str, Any]] = [{"top_k": 2.5}, {"score_threshold": "x"}]
    for options in wrong:
        with pytest.raises(InputError, match=f"^{next(iter(options))} is .*; it must be a"):
            CrossRankRanker(reranker).run(QUERY, documents(), **options)


def test_a_document_without_content_ranks_last(reranker: Reranker) -> None:
    given = [Document(id="picture"), *documents()]
    found = CrossRankRanker(reranker, top_k=len(given)).run(QUERY, given)["documents"]
    assert {document.id for document in found} == {document.id for document in given}
    assert found[-1].id == "picture"


def test_mistakes_are_errors(reranker: Reranker, server: Server) -> None:
    with pytest.raises(InputError, match="top_k is -1"):
        CrossRankRanker(reranker, top_k=-1)
    with pytest.raises(InputError, match="a Reranker object cannot be saved"):
        CrossRankRanker(reranker).to_dict()
    with pytest.raises(CrossRankError, match="key"):
        CrossRankRanker(server.url).run(QUERY, documents())
