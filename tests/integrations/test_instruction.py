"""Each adapter tells a model with a prompt what to look for."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from datasets import Dataset
from haystack import Document as HaystackDocument
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from torch.utils.data import DataLoader

from crossrank import InputError, Reranker
from crossrank.client import AsyncClient, Client
from crossrank.engines.fake import FakeEngine
from crossrank.integrations.haystack import CrossRankRanker
from crossrank.integrations.langchain import CrossRankCompressor
from crossrank.integrations.llamaindex import CrossRankPostprocessor
from crossrank.integrations.mteb import CrossRankCrossEncoder
from crossrank.integrations.pyterrier import CrossRankTransformer
from tests.integrations import DOCUMENTS, QUERY
from tests.prompted import prompted_encoder

OWN = "Find what contradicts the query"


def small(ids: npt.NDArray[np.int32]) -> float:
    """A logit that tells sequences apart, and whose sigmoid does, too."""
    return float((ids.astype(np.int64) * np.arange(1, len(ids) + 1)).sum() % 997) / 200


@pytest.fixture(scope="module")
def prompted() -> Reranker:
    return Reranker.from_parts(prompted_encoder(), FakeEngine(small))


def scores(reranker: Reranker, instruction: str | None) -> list[float]:
    """Best first."""
    return [hit.score for hit in reranker.rank(QUERY, DOCUMENTS, instruction=instruction)]


def test_langchain(prompted: Reranker) -> None:
    documents = [Document(text) for text in DOCUMENTS]
    for told in (None, OWN):
        compressor = CrossRankCompressor(prompted, top_n=None, instruction=told)
        assert compressor.instruction == told
        found = compressor.compress_documents(documents, QUERY)
        assert [each.metadata["relevance_score"] for each in found] == scores(prompted, told)
        again = asyncio.run(compressor.acompress_documents(documents, QUERY))
        assert [each.page_content for each in again] == [each.page_content for each in found]


def test_llamaindex(prompted: Reranker) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    for told in (None, OWN):
        postprocessor = CrossRankPostprocessor(prompted, top_n=None, instruction=told)
        assert postprocessor.instruction == told
        found = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
        assert [node.score for node in found] == scores(prompted, told)


def test_haystack(prompted: Reranker) -> None:
    documents = [HaystackDocument(content=text) for text in DOCUMENTS]
    ranker = CrossRankRanker(prompted, top_k=None, instruction=OWN)
    found = ranker.run(QUERY, documents)["documents"]
    assert [document.score for document in found] == scores(prompted, OWN)
    # A run may have another.
    found = ranker.run(QUERY, documents, instruction="Find the opposite")["documents"]
    assert [document.score for document in found] == scores(prompted, "Find the opposite")
    found = asyncio.run(CrossRankRanker(prompted, top_k=None).run_async(QUERY, documents))["documents"]
    assert [document.score for document in found] == scores(prompted, None)
    saved = CrossRankRanker("crossrank-mini", instruction=OWN).to_dict()
    assert CrossRankRanker.from_dict(saved).instruction == OWN


def test_pyterrier(prompted: Reranker) -> None:
    frame = pd.DataFrame(
        [
            {"qid": "1", "query": QUERY, "docno": str(i), "text": text, "score": 0.0, "rank": i}
            for i, text in enumerate(DOCUMENTS)
        ]
    )
    for told in (None, OWN):
        transformer = CrossRankTransformer(prompted, instruction=told)
        logits = [hit.logit for hit in prompted.rank(QUERY, DOCUMENTS, instruction=told)]
        assert transformer.transform(frame)["score"].tolist() == logits
    assert repr(transformer).endswith(f"instruction={OWN!r})")


class Task:
    """What a task says of its queries."""

    def __init__(self, prompt: str | dict[str, str] | None) -> None:
        self.prompt = prompt


def predicted(model: CrossRankCrossEncoder, prompt: Any, **columns: list[Any]) -> list[float]:
    queries = Dataset.from_dict({"text": [QUERY, QUERY], **columns})
    documents = Dataset.from_dict({"text": DOCUMENTS[:2]})
    task: Any = Task(prompt)
    found = model.predict(
        DataLoader(queries, batch_size=2),
        DataLoader(documents, batch_size=2),
        task_metadata=task,
        hf_split="test",
        hf_subset="default",
    )
    logits: list[float] = found.tolist()
    return logits


@pytest.mark.parametrize(
    ("own", "prompt", "told"),
    [
        (None, None, None),
        (None, "Find the task's", "Find the task's"),
        (None, {"query": "Find the task's"}, "Find the task's"),
        (None, {"document": "of documents"}, None),
        (OWN, "Find the task's", OWN),
    ],
)
def test_mteb_has_the_tasks_prompt(
    prompted: Reranker, own: str | None, prompt: Any, told: str | None
) -> None:
    wanted = prompted.logits([(QUERY, text) for text in DOCUMENTS[:2]], instruction=told).tolist()
    assert predicted(CrossRankCrossEncoder(prompted, instruction=own), prompt) == wanted


def test_mteb_has_each_querys_own(prompted: Reranker) -> None:
    # MTEB joins the two in "text" for models that take no instruction.
    columns = {"text": ["q a", "q "], "query": ["q", "q"], "instruction": ["a", ""]}
    found = predicted(CrossRankCrossEncoder(prompted), "Find the task's", **columns)
    pairs = [("q", text) for text in DOCUMENTS[:2]]
    told = ("a", "Find the task's")
    assert found == [prompted.logits([pair], instruction=x)[0] for pair, x in zip(pairs, told, strict=True)]
    plain = Reranker(device="cpu")
    found = predicted(CrossRankCrossEncoder(plain), "Find the task's", **columns)
    assert found == plain.logits([("q a", DOCUMENTS[0]), ("q ", DOCUMENTS[1])]).tolist()


def test_mteb_keeps_results_by_the_instruction(prompted: Reranker) -> None:
    with pytest.raises(InputError, match="but crossrank-mini takes none"):
        CrossRankCrossEncoder("crossrank-mini", instruction=OWN)
    ends = {
        CrossRankCrossEncoder(prompted, instruction=told).mteb_model_meta.revision.rpartition("-")[2]
        for told in (None, OWN, "another")
    }
    assert len(ends) == 3


@pytest.mark.parametrize("adapter", [CrossRankCompressor, CrossRankPostprocessor, CrossRankTransformer])
def test_an_instruction_is_a_string(adapter: Any, prompted: Reranker) -> None:
    with pytest.raises(InputError, match="instruction is a int; it must be a string"):
        adapter(prompted, instruction=3)


# --- the client, which servers tell of what they ignore ---


class Server:
    """Answers as /score and /explain do, and keeps what it was asked."""

    def __init__(self, *warnings: str) -> None:
        self.asked: list[Any] = []
        self._warnings = list(warnings)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        answer: dict[str, Any] = {"meta": {"warnings": self._warnings}} if self._warnings else {}
        if request.url.path == "/explain":
            names = ("score", "logit", "truncated", "read", "sentences_left_out", "query_truncated")
            return httpx.Response(200, json=answer | dict.fromkeys(names, 0) | {"sentences": []})
        data = [{"index": i, "score": float(i)} for i in range(len(body["documents"]))]
        return httpx.Response(200, json=answer | {"data": data})


def test_a_client_sends_it_with_every_request() -> None:
    server = Server()
    with Client("http://x", transport=httpx.MockTransport(server)) as client:
        client.rank("q", ["a"], instruction=OWN)
        list(client.rank_many([("q", ["a"]), ("q", ["a"], "own")], instruction=OWN))
        for ask in (client.score, client.logits, client.score_pairs):
            ask([("q", "a")], instruction=OWN)
        client.explain("q", "a", instruction=OWN)
        assert [body["instruction"] for body in server.asked].count(OWN) == 6
        assert sorted(body["instruction"] for body in server.asked[1:3]) == [OWN, "own"]
        client.rank("q", ["a"])
        assert "instruction" not in server.asked[-1]
        with pytest.raises(InputError, match="instruction is a int"):
            client.rank("q", ["a"], instruction=3)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="instruction is a int"):
            client.logits([("q", "a")], instruction=3)  # type: ignore[arg-type]


def test_an_asynchronous_client_does_too() -> None:
    server = Server()

    async def main() -> None:
        async with AsyncClient("http://x", transport=httpx.MockTransport(server)) as client:
            await client.rank("q", ["a"], instruction=OWN)
            async for _ in client.rank_many([("q", ["a"], "own"), ("q", ["a"])], instruction=OWN):
                pass
            for ask in (client.score, client.logits, client.score_pairs):
                await ask([("q", "a")], instruction=OWN)
            await client.explain("q", "a", instruction=OWN)

    asyncio.run(main())
    told = [body["instruction"] for body in server.asked]
    assert (told.count(OWN), told.count("own")) == (6, 1)


def test_what_a_server_ignores_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Server("plain takes no instruction: it was ignored")
    with (
        caplog.at_level(logging.WARNING),
        Client("http://x", transport=httpx.MockTransport(server)) as client,
    ):
        client.rank("q", ["a"], instruction=OWN)
        client.explain("q", "a", instruction=OWN)
    assert caplog.messages == ["http://x/: plain takes no instruction: it was ignored"]
