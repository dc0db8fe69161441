"""A server's models from Python, with the library's own rankings.

::

    from crossrank.client import Client

    with Client("http://127.0.0.1:8080") as client:
        for hit in client.rank("capital of France", ["Lyon is a city.", "Paris is the seat of government."]):
            print(hit.rank, hit.index, hit.score, hit.text)

``Client`` ranks, scores and explains as ``Reranker`` does; ``AsyncClient`` has the same methods to await.
Both call /score, which returns each pair's logit and whether it was cut, whatever dialect the server speaks.
Scores and order are computed here, by the library's own code. Explanations come from /explain.
"""

from __future__ import annotations

from crossrank._extras import needs

with needs("client", "the client"):
    import httpx  # noqa: F401 - what the modules below need, too

from crossrank.client.asynchronous import AsyncClient
from crossrank.client.synchronous import Client

__all__ = ["AsyncClient", "Client"]
