"""Rerank with every provider of litellm; test_litellm.py runs this in litellm's own environment.

    python litellm_clients.py REQUEST.json

The request has "query", "documents", "model", and "servers": the URL of each dialect. Prints a JSON object
with the [index, score, text] triples of each provider, or what litellm raised.
"""

import json
import sys
from pathlib import Path
from typing import Any

import litellm

asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
servers = asked["servers"]
litellm.suppress_debug_info = True  # it goes to standard output

# The dialect of the server that each provider is used with, and the path in its base URL.
PROVIDERS = {
    "cohere": ("cohere", ""),
    "hosted_vllm": ("vllm", ""),
    "huggingface": ("cohere", ""),
    "infinity": ("infinity", ""),
    "jina_ai": ("cohere", ""),
    "together_ai": ("vllm", "/v1"),
    "voyage": ("voyage", ""),
}


def rerank(provider: str) -> Any:
    dialect, path = PROVIDERS[provider]
    try:
        answer: Any = litellm.rerank(
            model=f"{provider}/{asked['model']}",
            query=asked["query"],
            documents=asked["documents"],
            top_n=3,
            return_documents=True,
            api_base=servers[dialect] + path,
            api_key="a key",
        )
    except Exception as error:  # noqa: BLE001 - the test shows it
        return f"{type(error).__name__}: {error}"
    return [
        [hit["index"], hit["relevance_score"], (hit.get("document") or {}).get("text")]
        for hit in answer.results
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps({provider: rerank(provider) for provider in PROVIDERS}))
