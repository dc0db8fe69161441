"""What docs/recipes.md says to set in other products makes them rank with CrossRank.

Each test takes a setting from the page, sends the request that the product's code makes of it, and reads the
answer as that code does. Clients that are run are in ``http/test_clients.py`` and ``http/test_litellm.py``.
"""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import yaml

from crossrank.server.http.app import create_app
from crossrank.server.settings import Settings
from tests.server.asgi import ask
from tests.server.http.test_litellm import PROVIDERS
from tests.server.serving import fake, registry, serve

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("recipes.md", "recipes.zh-CN.md")]
QUERY = 'capital of "France"'
# The longest text is best here.
TEXTS = ["Lyon is a city.", "Paris is the seat of the French government.", "Cats."]


def section(name: str) -> str:
    """What the page says of a product."""
    found = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGES[0].read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def variables(name: str) -> dict[str, str]:
    """The environment variables of a product."""
    return dict(line.split("=", 1) for line in blocks(section(name), "ini")[0].splitlines())


def form(name: str) -> dict[str, str]:
    """The fields of a product's form."""
    return dict(re.findall(r"^\| ([^|]+?) \| `?([^|`]+?)`? \|$", section(name), re.MULTILINE))


def post(url: str, body: Mapping[str, Any], key: str = "KEY") -> Any:
    """What a server answers that was started as the page says."""
    alias = re.search(r"--alias (\S+)", PAGES[0].read_text("utf-8"))
    assert alias is not None
    settings = Settings(aliases=[alias[1]], api_keys=["KEY"])
    place = urlsplit(url)
    assert (place.scheme, place.netloc) == ("http", "HOST:8080")

    async def main() -> Any:
        model = serve(fake(lambda ids: len(ids) / 8), "crossrank-mini")
        async with registry(model, aliases=settings.names_of_aliases()) as served:
            headers = {"authorization": f"Bearer {key}"}
            response = await ask(create_app(settings, served), place.path, dict(body), headers=headers)
            assert response.status == 200, response.content
            return response.json

    return asyncio.run(main())


def assert_ranked(scores: Mapping[int, float]) -> None:
    """The scores of the texts, by their indices, are there and right."""
    assert sorted(scores) == [0, 1, 2]
    assert sorted(scores, key=lambda index: -scores[index]) == [1, 0, 2]
    assert all(0 < score < 1 for score in scores.values())


def test_both_languages_have_the_same_settings() -> None:
    english, chinese = (page.read_text("utf-8") for page in PAGES)
    for language in ("sh", "ini", "json", "yaml", "python"):
        assert blocks(english, language) == blocks(chinese, language) != []
    urls = [re.findall(r"`(http://HOST[^`]*)`", text) for text in (english, chinese)]
    assert urls[0] == urls[1]


def test_open_webui() -> None:
    told = variables("Open WebUI")
    assert told["RAG_RERANKING_ENGINE"] == "external"
    body = {"model": told["RAG_RERANKING_MODEL"], "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)}
    data = post(told["RAG_EXTERNAL_RERANKER_URL"], body, told["RAG_EXTERNAL_RERANKER_API_KEY"])
    ordered = sorted(data["results"], key=lambda result: result["index"])
    assert_ranked(dict(enumerate(result["relevance_score"] for result in ordered)))


def test_dify() -> None:
    told = form("Dify")
    body = {"model": told["Model name"], "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)}
    data = post(f"{told['API endpoint URL'].rstrip('/')}/rerank", body, told["API key"])
    assert_ranked({item.get("index", 0): item.get("relevance_score", 0.0) for item in data["results"]})


def test_dify_by_xinference() -> None:
    [url] = re.findall(r"server URL `([^`]+)`", section("Dify"))
    [model] = re.findall(r"model UID\s`([^`]+)`", section("Dify"))
    body: dict[str, Any] = {"model": model, "documents": TEXTS, "query": QUERY, "top_n": 3}
    body |= {"max_chunks_per_doc": None, "return_documents": True, "return_len": None, "kwargs": "{}"}
    results = post(f"{url}/v1/rerank", body)["results"]
    assert [result["document"]["text"] for result in results] == [TEXTS[hit["index"]] for hit in results]
    assert_ranked({result["index"]: result["relevance_score"] for result in results})


def test_ragflow() -> None:
    told = form("RAGFlow")
    body = {"model": told["Model UID"], "query": QUERY, "documents": TEXTS}
    body |= {"return_documents": "true", "return_len": "true"}
    data = post(urljoin(told["Base URL"], "/v1/rerank"), body, told["API key"])
    assert_ranked({result["index"]: result["relevance_score"] for result in data["results"]})


def test_ragflow_by_an_openai_compatible_api() -> None:
    told = form("RAGFlow")
    body = {"model": told["Model UID"], "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)}
    data = post(urljoin(told["Base URL"], "/rerank"), body, told["API key"])
    assert_ranked({result["index"]: result["relevance_score"] for result in data["results"]})


def test_fastgpt() -> None:
    told = json.loads(blocks(section("FastGPT"), "json")[0])
    body = {"model": told["model"], "query": QUERY, "documents": TEXTS}
    data = post(told["requestUrl"], body, told["requestAuth"])
    assert data["meta"]["tokens"]["input_tokens"] > 0
    # It keeps the first of several results of a document, and so counts on their order.
    assert [result["index"] for result in data["results"]] == [1, 0, 2]
    assert_ranked({result["index"]: result["relevance_score"] for result in data["results"]})


def test_librechat() -> None:
    told = variables("LibreChat")
    search = yaml.safe_load(blocks(section("LibreChat"), "yaml")[0])["webSearch"]
    assert search["rerankerType"] == "jina"
    body = {
        "model": "jina-reranker-v2-base-multilingual",
        "query": QUERY,
        "top_n": 3,
        "documents": TEXTS,
        "return_documents": True,
    }
    url, key = (Template(search[name]).substitute(told) for name in ("jinaApiUrl", "jinaApiKey"))
    data = post(url, body, key)
    assert data["model"] == "crossrank-mini"
    assert data["usage"]["total_tokens"] > 0
    texts = {result["document"]["text"]: result["relevance_score"] for result in data["results"]}
    assert_ranked({TEXTS.index(text): score for text, score in texts.items()})


def test_litellm() -> None:
    text = section("LiteLLM")
    shown = re.findall(r"^\| `(\w+)` \| `http://HOST:8080([^`]*)` \|$", text, re.MULTILINE)
    assert dict(shown) == PROVIDERS  # which are tried
    [told] = yaml.safe_load(blocks(text, "yaml")[0])["model_list"]
    provider, _, model = told["litellm_params"]["model"].partition("/")
    assert told["litellm_params"]["api_base"] == f"http://HOST:8080{PROVIDERS[provider]}"
    assert model == "crossrank-mini"


def test_milvus() -> None:
    call = ast.parse(blocks(section("Milvus"), "python")[0]).body[1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    [params] = [ast.literal_eval(each.value) for each in call.value.keywords if each.arg == "params"]
    assert (params["reranker"], params["provider"]) == ("model", "tei")
    assert urlsplit(params["endpoint"]).path == ""  # it puts its own in that place
    body = {"query": QUERY, "texts": TEXTS, "truncate": params["truncate"]}
    items = post(f"{params['endpoint']}/rerank", body)
    assert_ranked({item["index"]: item["score"] for item in items})


@pytest.mark.parametrize("extra", [{}, {"return_text": True, "top_n": 3}])
def test_elasticsearch(extra: dict[str, Any]) -> None:
    line, told = blocks(section("Elasticsearch"), "json")[0].split("\n", 1)
    name = line.removeprefix("PUT _inference/rerank/")
    settings = json.loads(told)
    assert settings["service"] == "hugging_face"
    url, key = (settings["service_settings"][field] for field in ("url", "api_key"))
    items = post(url, {"texts": TEXTS, "query": QUERY, **extra}, key)
    # A field that it does not know is an error there.
    assert all(set(item) == {"index", "score"} | ({"text"} if extra else set()) for item in items)
    assert_ranked({item["index"]: item["score"] for item in items})
    search = json.loads(blocks(section("Elasticsearch"), "json")[1].split("\n", 1)[1])
    assert search["retriever"]["text_similarity_reranker"]["inference_id"] == name


def test_opensearch() -> None:
    trust, told, pipeline = (
        json.loads(block.split("\n", 1)[1]) for block in blocks(section("OpenSearch"), "json")
    )
    [action] = told["actions"]
    pattern = trust["persistent"]["plugins.ml_commons.trusted_connector_endpoints_regex"][0]
    assert re.fullmatch(pattern, action["url"])
    # Parameters are put into the body as they are: texts escaped, lists as JSON.
    parameters = told["parameters"] | {"query": json.dumps(QUERY)[1:-1], "documents": json.dumps(TEXTS)}
    sent = re.sub(r"\$\{parameters\.(\w+)\}", lambda found: parameters[found[1]], action["request_body"])
    key = action["headers"]["Authorization"].replace("${credential.key}", told["credential"]["key"])
    results = post(action["url"], json.loads(sent), key.removeprefix("Bearer "))["results"]
    assert_ranked({result["index"]: result["relevance_score"] for result in results})
    assert "rerank" in pipeline["response_processors"][0]
