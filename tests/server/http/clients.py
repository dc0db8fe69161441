"""Reranks with every client; run by test_clients.py in the clients' own environment.

    python clients.py URL JINA_URL INFINITY_URL REQUEST.json

The request holds "query", "documents" and "model". Prints a JSON object: for each client, the
[index, score] pairs that it gave; and under "errors", what the clients raised.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cohere
import infinity_client
import infinity_client.api.default.models
import infinity_client.api.default.rerank
import infinity_client.models
import langchain_community.document_compressors.jina_rerank as langchain_jina
import xinference_client
from haystack import Document as HaystackDocument
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from langchain_cohere import CohereRerank as LangchainCohere
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohere
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.xinference_rerank import XinferenceRerank

url, jina_url, infinity_url, request = sys.argv[1:]
asked: dict[str, Any] = json.loads(Path(request).read_text(encoding="utf-8"))
query, documents, model = asked["query"], asked["documents"], asked["model"]
key = "a key"


def of_results(results: Any) -> list[list[Any]]:
    return [[result.index, result.relevance_score] for result in results]


def cohere_v1() -> Any:
    client = cohere.Client(key, base_url=url)
    answer = client.rerank(model=model, query=query, documents=documents, return_documents=True)
    assert [result.document.text for result in answer.results] == [
        documents[result.index] for result in answer.results
    ]
    assert answer.meta.api_version.version == "1"
    return of_results(answer.results)


def cohere_v1_objects() -> Any:
    client = cohere.Client(key, base_url=url)
    objects = [{"text": document, "page": i} for i, document in enumerate(documents)]
    answer = client.rerank(
        model=model,
        query=query,
        documents=objects,
        rank_fields=["text"],
        top_n=2,
        return_documents=True,
    )
    assert [result.document.page for result in answer.results] == [r.index for r in answer.results]
    return of_results(answer.results)


def cohere_v2() -> Any:
    answer = cohere.ClientV2(key, base_url=url).rerank(
        model=model, query=query, documents=documents, max_tokens_per_doc=4096, priority=3
    )
    assert answer.id
    return of_results(answer.results)


def cohere_v2_async() -> Any:
    client = cohere.AsyncClientV2(key, base_url=url)
    answer = asyncio.run(client.rerank(model=model, query=query, documents=documents, top_n=2))
    return of_results(answer.results)


def langchain_cohere() -> Any:
    client = LangchainCohere(model=model, base_url=url, cohere_api_key=key)
    return [[hit["index"], hit["relevance_score"]] for hit in client.rerank(documents, query, top_n=None)]


def of_langchain(found: Any) -> list[list[Any]]:
    return [[each.metadata["index"], each.metadata["relevance_score"]] for each in found]


def langchain_documents() -> list[Document]:
    return [Document(document, metadata={"index": i}) for i, document in enumerate(documents)]


def langchain_jina_rerank() -> Any:
    langchain_jina.JINA_API_URL = f"{jina_url}/v1/rerank"
    client = langchain_jina.JinaRerank(jina_api_key=key, model=model, top_n=3)
    return of_langchain(client.compress_documents(langchain_documents(), query))


def langchain_infinity() -> Any:
    client = InfinityRerank(client=infinity_client.Client(base_url=url), model=model, top_n=3)
    return of_langchain(client.compress_documents(langchain_documents(), query))


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(documents)]


def of_llama(postprocessor: Any) -> list[list[Any]]:
    found = postprocessor.postprocess_nodes(nodes(), query_bundle=QueryBundle(query))
    return [[int(each.node.node_id), each.score] for each in found]


def llama_cohere() -> Any:
    return of_llama(LlamaCohere(model=model, api_key=key, base_url=url, top_n=3))


def llama_tei() -> Any:
    return of_llama(TextEmbeddingInference(base_url=url, top_n=4))


def llama_xinference() -> Any:
    return of_llama(XinferenceRerank(base_url=url, model=model, top_n=4))


def haystack_cohere() -> Any:
    ranker = CohereRanker(model=model, api_key=Secret.from_token(key), api_base_url=url, top_k=3)
    given = [HaystackDocument(content=text, meta={"index": i}) for i, text in enumerate(documents)]
    return [[each.meta["index"], each.score] for each in ranker.run(query, given)["documents"]]


def infinity() -> Any:
    answer = infinity_client.api.default.rerank.sync(
        client=infinity_client.Client(base_url=infinity_url),
        body=infinity_client.models.RerankInput(
            query=query, documents=documents, return_documents=True, raw_scores=True
        ),
    )
    assert [result.document for result in answer.results] == [
        documents[result.index] for result in answer.results
    ]
    return of_results(answer.results)


def infinity_models() -> Any:
    found = infinity_client.api.default.models.sync(client=infinity_client.Client(base_url=url))
    return [each.id for each in found.data]


def xinference() -> Any:
    client = xinference_client.RESTfulClient(url, api_key=key)
    assert list(client.list_models()) == [model]
    answer = client.get_model(model).rerank(documents, query, top_n=4, return_documents=True)
    assert [hit["document"]["text"] for hit in answer["results"]] == [
        documents[hit["index"]] for hit in answer["results"]
    ]
    return [[hit["index"], hit["relevance_score"]] for hit in answer["results"]]


def errors() -> dict[str, Any]:
    client = cohere.ClientV2(key, base_url=url)
    v1 = cohere.Client(key, base_url=url)
    calls: dict[str, Callable[[], Any]] = {
        "unknown model": lambda: client.rerank(model="no-such", query=query, documents=documents),
        "no documents": lambda: client.rerank(model=model, query=query, documents=[]),
        "negative top_n": lambda: v1.rerank(model=model, query=query, documents=documents, top_n=-1),
    }
    return {name: raised(call) for name, call in calls.items()}


def raised(call: Callable[[], Any]) -> Any:
    try:
        call()
    except cohere.core.ApiError as error:
        return [type(error).__name__, error.status_code, error.body["message"]]
    return None


CLIENTS = [
    cohere_v1,
    cohere_v1_objects,
    cohere_v2,
    cohere_v2_async,
    langchain_cohere,
    langchain_jina_rerank,
    langchain_infinity,
    llama_cohere,
    llama_tei,
    llama_xinference,
    haystack_cohere,
    infinity,
    infinity_models,
    xinference,
    errors,
]

if __name__ == "__main__":
    sys.stdout.write(json.dumps({client.__name__: client() for client in CLIENTS}))
