"""Rerank with every provider of litellm; test_litellm.py runs this in litellm's own environment.

    python litellm_clients.py REQUEST.json

The request has "query", "documents", "model", and "providers": the base URL of each. Prints a JSON object
with the [index, score, text] triples of each provider, or what litellm raised.
"""

import json
import sys
from pathlib import Path
from typing import Any

import litellm

asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
providers: dict[str, str] = asked["providers"]
litellm.suppress_debug_info = True  # it goes to standard output


def rerank(provider: str) -> Any:
    try:
        answer: Any = litellm.rerank(
            model=f"{provider}/{asked['model']}",
            query=asked["query"],
            documents=asked["documents"],
            top_n=3,
            return_documents=True,
            api_base=providers[provider],
            api_key="a key",
        )
    except Exception as error:  # noqa: BLE001 - the test shows it
        return f"{type(error).__name__}: {error}"
    return [
        [hit["index"], hit["relevance_score"], (hit.get("document") or {}).get("text")]
        for hit in answer.results
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps({provider: rerank(provider) for provider in providers}))
