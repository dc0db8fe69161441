"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx
import numpy as np
import numpy.typing as npt

from crossrank._ahead import map_ahead
from crossrank.client.base import BaseClient
from crossrank.client.connection import Deadline, Network
from crossrank.client.retries import Failure, Tries
from crossrank.errors import UnknownModelError
from crossrank.explain import DEFAULT_SENTENCES, Explanation
from crossrank.inputs import Asked, Document, Request, each, read_one_of, read_pairs
from crossrank.ranking import Ranking, Scored, ScoredPair, check_options

__all__ = ["Client"]

Own = TypeVar("Own", bound="Client")
Read = TypeVar("Read")


class Client(BaseClient[httpx.Client, httpx.BaseTransport]):
    """Calls a server. Safe to use from several threads at once; close it, or use it as a context manager.

    A request is retried if the server is busy (429) or not ready (503), or if the connection fails: after the
    seconds of the server's Retry-After header and some jitter, at most ``retries`` times, and only within
    ``timeout``.

    Args:
        base_url: where ``crossrank serve`` listens: "http://127.0.0.1:8080", or "unix:/run/crossrank.sock".
            A proxy that the environment names (HTTP_PROXY, ALL_PROXY ...) is used, though never to this
            machine itself.
        api_key: is sent as a bearer token.
        model: a served name; None: the server's first.
        timeout: seconds for a call, all its tries and pauses included, however slowly the answer comes.
            The server is told, and does not work on for nobody.
        retries: tries after the first; 0: none.
        priority: 0 to 999 of all requests; lower goes first.
        concurrency: requests that ``rank_many`` has on their way at a time.
        long: what becomes of a document that does not fit: "cut", or "windows", as ``Reranker``; None: the
            server's default.
        max_windows: as ``Reranker``; None: the server's default.
        first: a smaller model, in this process, that thins the candidates of ``rank`` and ``rank_many``: only
            the best are sent. A name, a folder or a ``Reranker``.
        keep: as ``Reranker``.
        transport: httpx' way to the server, in place of this class's own. ``timeout`` then bounds each
            read, and is checked between them.

    Raises:
        InputError: an option is out of range, the address is none, or a variable of the environment that
            says how to reach it (a proxy, SSL_CERT_FILE) cannot be used.
    """

    def _open(self, transport: httpx.BaseTransport | None) -> None:
        self._deadline = Deadline()
        if transport is None:
            transport = httpx.HTTPTransport(**self._route.options())
            pool = transport._pool  # httpx has no option for it; tests/test_client.py sees that it works
            pool._network_backend = Network(pool._network_backend, self._deadline)
        self._http = httpx.Client(headers=self._headers, transport=transport)

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """Order documents by how well they answer the query, best first; as ``Reranker.rank``.

        Args:
            query: a question or search phrase.
            documents: strings, or mappings with a "text" field whose other fields come back
                with the hit (they are not sent).
            instruction: what the model is told to look for; None: the server's default. A model that takes
                none ignores it, and a warning is logged.
            top_n: how many to return; None: all.
            threshold: leave out documents with a score below it.

        Raises:
            InputError: a document or an option is not as described, or beyond a limit of the server.
            OverloadedError: the server is busy, and was on every try.
            DeadlineError: there was no answer in time.
            UnknownModelError: it serves no such model.
            UnavailableError: it does not answer, or is not ready.
            ServiceError: it does not let this client in, or failed; the base of the four above.
        """
        check_options(top_n, threshold)
        request = Request.read(query, documents, instruction)
        return self._scores_of(request).rank(request, top_n=top_n, threshold=threshold)

    def rank_many(
        self,
        requests: Iterable[Asked],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[Ranking]:
        """Rank the documents of many queries: a ranking for each, in their order, as they are ready.

        ``concurrency`` requests are on their way at a time, whose pairs share the server's packs; they
        are drawn no further ahead than that.

        Args:
            requests: queries with their documents, as ``rank`` takes them: (query, documents), or
                (query, documents, instruction) where a query has an instruction of its own.
            instruction: as ``rank``, of the queries without one of their own.
            top_n: as ``rank``, for each query.
            threshold: as ``rank``, for each query.

        Raises:
            CrossRankError: as ``rank``, when the rankings are drawn.
        """
        check_options(top_n, threshold)
        read = (
            read_one_of(index, request, instruction)
            for index, request in enumerate(each("requests", requests))
        )

        many = self._concurrency
        for request, scored in map_ahead(
            self._scores_of, read, threads=many, ahead=many, name="crossrank-client"
        ):
            yield scored.rank(request, top_n=top_n, threshold=threshold)

    def score(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores between 0 and 1 of (query, document) pairs: float32 (len(pairs),), input order.

        Args:
            pairs: the pairs.
            instruction: as ``rank``, of all pairs.

        Raises:
            CrossRankError: as ``rank``.
        """
        return self._score(*read_pairs(pairs), instruction).scores.astype(np.float32)

    def logits(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits of (query, document) pairs: float32 (len(pairs),), input order, every bit as served.

        Args:
            pairs: the pairs.
            instruction: as ``rank``, of all pairs.

        Raises:
            CrossRankError: as ``rank``.
        """
        return self._score(*read_pairs(pairs), instruction).logits

    def score_pairs(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> list[ScoredPair]:
        """All that is known of each (query, document) pair: input order.

        Args:
            pairs: the pairs.
            instruction: as ``rank``, of all pairs.

        Raises:
            CrossRankError: as ``rank``.
        """
        return self._score(*read_pairs(pairs), instruction).pairs()

    def explain(
        self,
        query: str,
        document: Document,
        *,
        instruction: str | None = None,
        max_sentences: int = DEFAULT_SENTENCES,
        window: tuple[int, int] | None = None,
    ) -> Explanation:
        """What each sentence of a document does for its score; see ``Reranker.explain``.

        Args:
            query: what was asked.
            document: as ``rank`` takes one.
            instruction: as ``rank``.
            max_sentences: a longer document is explained up to this one; a server takes 1 to 1,000.
            window: which characters are explained, as the hit of a ranking has it; None: from the start.

        Raises:
            CrossRankError: as ``rank``.
        """
        (text,) = Request.read(query, [document], instruction).texts
        request = partial(self._explain_request, query, text, instruction, max_sentences, window)
        body = self._call(request, self._answers.read)
        if body is None:
            raise UnknownModelError(str(self._model), self.models())
        return self._answers.explained(body, query, text)

    def models(self) -> list[str]:
        """The served models; the first answers who names none.

        Raises:
            ServiceError: as ``rank``.
        """
        body = self._call(self._models_request, self._answers.read)
        return self._answers.names(body or {})

    def info(self) -> dict[str, Any]:
        """What GET /info says of the server and its models.

        Raises:
            ServiceError: as ``rank``.
        """
        body = self._call(self._info_request, self._answers.read)
        return body or {}

    def _scores_of(self, request: Request) -> Scored:
        """The scores by which a request is ranked."""
        query, texts, first = request.query, request.texts, self._first
        if first is None:
            return self._score(query, texts, request.instruction, ranking=True)
        thin, chosen = self._thin(first, request)
        found = self._score(query, [texts[i] for i in chosen], request.instruction)
        return self._joined(first, thin, chosen, found)

    def _score(
        self,
        queries: str | Sequence[str],
        texts: Sequence[str],
        instruction: str | None,
        *,
        ranking: bool = False,
    ) -> Scored:
        if not texts:
            return Scored([])
        request = partial(self._score_request, queries, texts, instruction, ranking)
        body = self._call(request, self._answers.read)
        if body is None:
            raise UnknownModelError(str(self._model), self.models())
        return self._answers.scored(body, len(texts))

    def _call(
        self,
        request: Callable[[float], httpx.Request],
        read: Callable[[httpx.Response, bytearray], Read],
    ) -> Read:
        """What ``read`` makes of the response."""
        tries = self._tries()
        while True:
            try:
                try:
                    return read(*self._send(request(tries.seconds()), tries))
                except httpx.HTTPError as error:
                    raise self._not_sent(error, tries) from error
            except Failure as failure:
                pause = tries.pause(failure)
            time.sleep(pause)

    def _send(self, request: httpx.Request, tries: Tries) -> tuple[httpx.Response, bytearray]:
        """Send a request: the response, and its body."""
        self._deadline.end = tries.end
        response = self._opened().send(request, stream=True)
        try:
            limit, content = self._answers.max_bytes(response), bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                tries.seconds()
                if len(content) > limit:
                    raise self._answers.too_large(limit)
        finally:
            response.close()
        return response, content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
