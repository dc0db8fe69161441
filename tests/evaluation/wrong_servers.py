"""Rerank servers that compute with crossrank-mini, each wrong in a way of its own, over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import uvicorn
from fastapi import FastAPI, Request, Response

from crossrank import Reranker
from crossrank.packing import build_pack
from crossrank.pairs import Cut, EncodedPair

__all__ = ["WINDOW", "Wrong", "serve", "sigmoid"]

Floats = npt.NDArray[np.float64]

WINDOW = 512


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


class Wrong:
    """A server's model. The attributes are what is done; the defaults are right.

    Attributes:
        read: texts to pairs of token ids.
        activate: logits to scores.
        shift: of logits, by how many tokens of padding a pair has.
        limit: a longer pair is an error, unless the request says to cut; None: it is cut.
        reverse: answers are worst first.
        forever: a request cannot ask for truncation either.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        read: Callable[[Reranker, str, Sequence[str]], list[EncodedPair]] | None = None,
        activate: Callable[[Floats], Floats] = sigmoid,
        shift: float = 0.0,
        limit: int | None = None,
        forever: bool = False,
        reverse: bool = False,
    ) -> None:
        self.reranker = reranker
        self.read = read or (lambda model, query, texts: model.encoder.encode(query, texts))
        self.activate = activate
        self.shift = shift
        self.limit = limit
        self.forever = forever
        self.reverse = reverse

    def scores(self, query: str, texts: Sequence[str], truncate: bool) -> Floats:
        if self.limit is not None and (self.forever or not truncate):
            self.reranker.encoder.encode(query, texts, Cut(pair=self.limit, allowed=False))
        pairs = self.read(self.reranker, query, texts)
        logits = self.reranker.engine.logits(build_pack(pairs))
        lengths = np.array([len(pair.token_ids) for pair in pairs])
        return self.activate(logits.astype(np.float64) + self.shift * (lengths.max() - lengths))


def app(wrong: Wrong, *, only: str | None = None) -> FastAPI:
    """The APIs of text-embeddings-inference, vLLM, Cohere and Ollama; ``only`` one of their paths."""
    made = FastAPI(openapi_url=None)

    async def rerank(request: Request) -> Response:
        body = await request.json()
        tei = "texts" in body
        texts = body.get("texts") if tei else body.get("documents")
        if texts is None:
            return Response('{"error": "missing documents"}', 422, media_type="application/json")
        truncate = bool(body.get("truncate") or "truncate_prompt_tokens" in body)
        try:
            scores = wrong.scores(body["query"], texts, truncate).tolist()
        except Exception as error:  # noqa: BLE001 - as servers do
            return Response(json.dumps({"error": str(error)}), 413, media_type="application/json")
        order = np.argsort(scores, kind="stable")
        name = "score" if tei else "relevance_score"
        rows: list[Any] = [
            {"index": int(i), name: scores[i]} for i in (order if wrong.reverse else order[::-1])
        ]
        # As FastAPI would not, and many servers do: NaN.
        return Response(json.dumps(rows if tei else {"results": rows}), media_type="application/json")

    async def score(request: Request) -> Response:
        body = await request.json()
        scores = wrong.scores(body["text_1"], body["text_2"], False).tolist()
        data = [{"index": i, "object": "score", "score": each} for i, each in enumerate(scores)]
        return Response(json.dumps({"data": data}), media_type="application/json")

    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/api/rerank", "/score"):
        if only in (None, path):
            made.add_api_route(path, score if path == "/score" else rerank, methods=["POST"])
    return made


@contextmanager
def serve(made: FastAPI) -> Iterator[str]:
    """Serve an application while the block runs; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(made, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        # The socket listens already, so that nothing need be waited for.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
