"""litellm works unchanged against a real server, with every provider whose API the server speaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossrank import Reranker
from tests.environments import run_in
from tests.server.process import serving

pytestmark = pytest.mark.full  # an environment of its own

QUERY = "中国的首都是哪里？"
DOCUMENTS = [
    "上海是中国最大的城市。",
    "首都机场位于北京市区东部。",
    "北京是中国的政治中心。",
    "Beijing is the capital of China.",
]
# Each is used with the dialect that is its own, all of them with one server; docs/recipes.md says so.
PROVIDERS = {
    "cohere": "/cohere",
    "hosted_vllm": "/vllm",
    "huggingface": "/tei",
    "infinity": "/infinity",
    "jina_ai": "/jina",
    "together_ai": "/vllm/v1",
    "voyage": "/voyage",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What litellm returns for each provider; asked once, since its import is slow."""
    with serving(tmp_path_factory.mktemp("server"), "--model", "crossrank-mini", "--threads", "1") as server:
        server.wait_until_ready()
        request = tmp_path_factory.mktemp("litellm") / "request.json"
        asked: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS, "model": "crossrank-mini"}
        asked["providers"] = {provider: server.url + path for provider, path in PROVIDERS.items()}
        request.write_text(json.dumps(asked), encoding="utf-8")
        # No proxy, and nothing is fetched or sent elsewhere.
        alone = {"NO_PROXY": "*", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        script = Path(__file__).with_name("litellm_clients.py")
        output = run_in(
            ".venv-litellm", "python", "-W", "ignore", script, request, variables=alone, timeout=600
        )
    found: dict[str, Any] = json.loads(output)
    return found


def test_every_provider_is_tried(answers: dict[str, Any]) -> None:
    assert list(answers) == list(PROVIDERS)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_gets_the_librarys_order_and_scores(provider: str, answers: dict[str, Any]) -> None:
    found = answers[provider]
    assert isinstance(found, list), found  # else what litellm raised
    # litellm has no number of results for huggingface, and asks Cohere's for no texts.
    ranking = Reranker(threads=1).rank(QUERY, DOCUMENTS, top_n=None if provider == "huggingface" else 3)
    assert [index for index, _, _ in found] == [hit.index for hit in ranking]
    assert [score for _, score, _ in found] == pytest.approx([hit.score for hit in ranking], abs=1e-3)
    if provider != "cohere":
        assert [text for _, _, text in found] == [hit.text for hit in ranking]
