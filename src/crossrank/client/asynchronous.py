"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from crossrank.client.base import BaseClient
from crossrank.client.retries import Failure
from crossrank.errors import UnknownModelError
from crossrank.explain import DEFAULT_SENTENCES, Explanation
from crossrank.inputs import Asked, Document, Request, each, read_one_of, read_pairs
from crossrank.ranking import Ranking, Scored, ScoredPair, check_options

__all__ = ["AsyncClient"]


class AsyncClient(BaseClient[httpx.AsyncClient, httpx.AsyncBaseTransport]):
    """``Client`` for asyncio: the same options, methods and errors.

    Cancelling a call closes its connection, and the server drops what it has not scored yet.
    """

    def _open(self, transport: httpx.AsyncBaseTransport | None) -> None:
        if transport is None:
            transport = httpx.AsyncHTTPTransport(**self._route.options())
        self._http = httpx.AsyncClient(headers=self._headers, transport=transport)

    async def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """As ``Client.rank``."""
        check_options(top_n, threshold)
        request = Request.read(query, documents, instruction)
        scored = await self._scores_of(request)
        return scored.rank(request, top_n=top_n, threshold=threshold)

    async def rank_many(
        self,
        requests: Iterable[Asked] | AsyncIterable[Asked],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> AsyncIterator[Ranking]:
        """As ``Client.rank_many``; requests may come from an asynchronous iterator, too."""
        check_options(top_n, threshold)
        sent: deque[tuple[Request, asyncio.Task[Scored]]] = deque()
        try:
            async for numbered in _numbered(requests):
                request = read_one_of(*numbered, instruction)
                task = asyncio.ensure_future(self._scores_of(request))
                sent.append((request, task))
                if len(sent) >= self._concurrency:
                    scored = await sent[0][1]
                    yield scored.rank(sent.popleft()[0], top_n=top_n, threshold=threshold)
            while sent:
                scored = await sent[0][1]
                yield scored.rank(sent.popleft()[0], top_n=top_n, threshold=threshold)
        finally:
            tasks = [task for _, task in sent]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def score(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> npt.NDArray[np.float32]:
        """As ``Client.score``."""
        return (await self._score(*read_pairs(pairs), instruction)).scores.astype(np.float32)

    async def logits(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> npt.NDArray[np.float32]:
        """As ``Client.logits``."""
        return (await self._score(*read_pairs(pairs), instruction)).logits

    async def score_pairs(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> list[ScoredPair]:
        """As ``Client.score_pairs``."""
        return (await self._score(*read_pairs(pairs), instruction)).pairs()

    async def explain(
        self,
        query: str,
        document: Document,
        *,
        instruction: str | None = None,
        max_sentences: int = DEFAULT_SENTENCES,
        window: tuple[int, int] | None = None,
    ) -> Explanation:
        """As ``Client.explain``."""
        (text,) = Request.read(query, [document], instruction).texts
        request = partial(self._explain_request, query, text, instruction, max_sentences, window)
        body = await self._call(request)
        if body is None:
            raise UnknownModelError(str(self._model), await self.models())
        return self._answers.explained(body, query, text)

    async def models(self) -> list[str]:
        """As ``Client.models``."""
        return self._answers.names(await self._call(self._models_request) or {})

    async def info(self) -> dict[str, Any]:
        """As ``Client.info``."""
        return await self._call(self._info_request) or {}

    async def _scores_of(self, request: Request) -> Scored:
        """The scores by which a request is ranked."""
        query, texts, first = request.query, request.texts, self._first
        if first is None:
            return await self._score(query, texts, request.instruction, ranking=True)
        thin, chosen = await asyncio.to_thread(self._thin, first, request)
        found = await self._score(query, [texts[i] for i in chosen], request.instruction)
        return self._joined(first, thin, chosen, found)

    async def _score(
        self,
        queries: str | Sequence[str],
        texts: Sequence[str],
        instruction: str | None,
        *,
        ranking: bool = False,
    ) -> Scored:
        if not texts:
            return Scored([])
        body = await self._call(partial(self._score_request, queries, texts, instruction, ranking))
        if body is None:
            raise UnknownModelError(str(self._model), await self.models())
        return self._answers.scored(body, len(texts))

    async def _call(self, request: Callable[[float], httpx.Request]) -> dict[str, Any] | None:
        tries = self._tries()
        while True:
            try:
                seconds = tries.seconds()
                try:
                    return self._answers.read(*await asyncio.wait_for(self._send(request(seconds)), seconds))
                except httpx.HTTPError as error:
                    raise self._not_sent(error, tries) from error
                except asyncio.TimeoutError:
                    raise tries.over() from None
            except Failure as failure:
                pause = tries.pause(failure)
            await asyncio.sleep(pause)

    async def _send(self, request: httpx.Request) -> tuple[httpx.Response, bytearray]:
        """Send a request: the response, and its body."""
        response = await self._opened().send(request, stream=True)
        try:
            limit, content = self._answers.max_bytes(response), bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > limit:
                    raise self._answers.too_large(limit)
        finally:
            await response.aclose()
        return response, content

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _numbered(
    requests: Iterable[Asked] | AsyncIterable[Asked],
) -> AsyncIterator[tuple[int, Asked]]:
    if isinstance(requests, AsyncIterable):
        number = 0
        async for request in requests:
            yield number, request
            number += 1
    else:
        for numbered in enumerate(each("requests", requests)):
            yield numbered
