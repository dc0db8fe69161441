"""A server's models from Python, with the library's own rankings.

::

    from crossrank.client import Client

    with Client("http://127.0.0.1:8080") as client:
        for hit in client.rank("capital of France", ["Lyon is a city.", "Paris is the seat of government."]):
            print(hit.rank, hit.index, hit.score, hit.text)

``Client`` ranks, scores and explains as ``Reranker`` does; ``AsyncClient`` the same to await. They ask
/score, which has every pair's logit and whether it was cut, in every dialect that a server may be set to;
order and scores are made of them here, as the library does. Explanations come from /explain as they are.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from crossrank import __version__
from crossrank._ahead import map_ahead
from crossrank._extras import needs
from crossrank.errors import (
    CrossRankError,
    DeadlineError,
    InputError,
    OverloadedError,
    ServiceError,
    UnavailableError,
    UnknownModelError,
)
from crossrank.explain import DEFAULT_SENTENCES, ExplainedSentence, Explanation
from crossrank.inputs import Document, Request, check_integer, check_number, each, read_one_of, read_pairs
from crossrank.models.network import Proxy, environment_fault, proxy_of
from crossrank.ranking import Ranking, Scored, ScoredPair, check_options
from crossrank.text.unicode import clean

with needs("client", "the client"):
    import httpcore
    import httpx

__all__ = ["AsyncClient", "Client"]

_CONNECT_SECONDS = 5.0
"""A host that does not take a connection for so long is not there."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
"""Seconds between tries where the server does not say: the first, then twice as long each, and the most."""

_LEAST_ANSWER, _ANSWER_SHARE = 1 << 20, 32
"""An answer has at most so many bytes, and so many more for each byte of the request."""

_WRITE = 64 << 10
"""Bytes that are written at a time."""

_JITTER = 0.25
"""Pauses are longer by up to this share, so that those who were refused together do not come back so."""


class _Failure(Exception):  # noqa: N818 - what it holds is the error
    """A try that failed. ``again``: another may not; after ``after`` seconds, None: nobody said when."""

    def __init__(self, error: CrossRankError, *, again: bool = False, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.after = after


class _Tries:
    """The tries of one call: how much time is left, and how long to wait before the next."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._timeout = timeout
        self.end = time.monotonic() + timeout
        self._left = retries
        self._pause = _FIRST_PAUSE

    def seconds(self) -> float:
        """What is left of the call's time.

        Raises:
            DeadlineError: nothing.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise self.over()
        return left

    def over(self) -> DeadlineError:
        return DeadlineError(f"the server did not answer within {self._timeout:g} s (timeout)")

    def pause(self, failure: _Failure) -> float:
        """Seconds to wait before the next try.

        Raises:
            CrossRankError: there is none: it would not help, or there have been enough, or the wait
                is longer than the time that is left.
        """
        if not failure.again or not self._left:
            raise failure.error
        self._left -= 1
        wait = self._pause if failure.after is None else failure.after
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        wait *= 1 + _JITTER * random.random()  # noqa: S311 - no secret
        if time.monotonic() + wait >= self.end:
            raise failure.error
        return wait


class _Deadline(threading.local):
    """When this thread's call must end; httpx knows only how long each read and write may take."""

    end = math.inf

    def least(self, timeout: float | None) -> float | None:
        """Seconds for the next read or write."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the call's time is over")
        return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection that keeps to a deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.least(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE):
            self._stream.write(buffer[start : start + _WRITE], self._deadline.least(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.least(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Opens connections that keep to a deadline."""

    def __init__(self, backend: httpcore.NetworkBackend, deadline: _Deadline) -> None:
        self._backend = backend
        self._deadline = deadline

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        left = self._deadline.least(timeout)
        return _Stream(self._backend.connect_tcp(host, port, left, *args, **kwargs), self._deadline)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, *args: Any, **kwargs: Any
    ) -> httpcore.NetworkStream:
        left = self._deadline.least(timeout)
        return _Stream(self._backend.connect_unix_socket(path, left, *args, **kwargs), self._deadline)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Transport = TypeVar("Transport", httpx.BaseTransport, httpx.AsyncBaseTransport)


class _Base(Generic[Http, Transport]):
    """What both clients share: all but the waiting."""

    _http: Http

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        priority: int = 0,
        concurrency: int = 8,
        transport: Transport | None = None,
    ) -> None:
        check_number("timeout", timeout, lambda seconds: 0 < seconds < 1e9, "a number of seconds above 0")
        if not isinstance(model, str | None):
            raise InputError(f"model is {model!r}; it must be a name of the server's models, or None")
        check_integer("retries", retries, least=0)
        check_integer("concurrency", concurrency)
        check_integer("priority", priority, 0, 999)
        self._url, self._socket = _checked(base_url)
        self._shown = f"unix:{self._socket}" if self._socket else self._url
        self._proxy: Proxy | None = None
        self._model = model
        self._timeout = timeout
        self._retries = retries
        self._priority = priority
        self._concurrency = concurrency
        self._headers = {"user-agent": f"crossrank/{__version__}", "accept": "application/json"}
        # What is small when it comes stays so.
        self._headers["accept-encoding"] = "identity"
        if api_key is not None:
            if not isinstance(api_key, str):
                raise InputError(f"api_key is a {type(api_key).__name__}; it must be a string")
            if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise InputError("the API key is empty, or has white space or characters beyond ASCII in it")
            self._headers["authorization"] = f"Bearer {api_key}"
        self._open(transport)

    def _open(self, transport: Transport | None) -> None:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """The options of httpx' transports; what is on the way to the server is decided here.

        Raises:
            InputError: a variable of the environment that says how to reach it cannot be used.
        """
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to load certificates takes a while
        if self._socket:
            return {"uds": self._socket, "verify": plain}
        if fault := environment_fault(self._url):
            raise InputError(fault)
        self._proxy = proxy_of(self._url)
        secure = "https:" in (self._url[:6].lower(), self._proxy.url[:6].lower() if self._proxy else "")
        return {
            "verify": httpx.create_ssl_context() if secure else plain,
            "proxy": self._proxy.url if self._proxy else None,
        }

    def _opened(self) -> Http:
        """The connections.

        Raises:
            InputError: they were closed.
        """
        if self._http.is_closed:
            raise InputError("this client is closed; make another one")
        return self._http

    def _tries(self) -> _Tries:
        return _Tries(self._timeout, self._retries)

    def _score_request(
        self, queries: str | Sequence[str], texts: Sequence[str], seconds: float
    ) -> httpx.Request:
        body: dict[str, Any] = {
            "queries": clean(queries) if isinstance(queries, str) else [clean(query) for query in queries],
            "documents": [clean(text) for text in texts],
            "use_activation": False,
        }
        return self._post("score", body, seconds)

    def _explain_request(self, query: str, text: str, max_sentences: int, seconds: float) -> httpx.Request:
        check_integer("max_sentences", max_sentences)
        body = {"query": clean(query), "document": clean(text), "max_sentences": int(max_sentences)}
        return self._post("explain", body, seconds)

    def _info_request(self, seconds: float) -> httpx.Request:
        return self._request("GET", "info", seconds)

    def _post(self, path: str, body: dict[str, Any], seconds: float) -> httpx.Request:
        """A request that the model answers."""
        if self._model is not None:
            body["model"] = self._model
        if self._priority:
            body["priority"] = self._priority
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        # The server is to say itself that the time is over, before nobody listens any more.
        headers = {
            "content-type": "application/json",
            "x-request-timeout": f"{seconds - min(0.5, 0.1 * seconds):.3f}",
        }
        return self._request("POST", path, seconds, content, headers)

    def _models_request(self, seconds: float) -> httpx.Request:
        return self._request("GET", "v1/models", seconds)

    def _request(
        self,
        method: str,
        path: str,
        seconds: float,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        timeout = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        return self._http.build_request(
            method, self._url + path, content=content, headers=headers, timeout=timeout
        )

    def _not_sent(self, error: httpx.HTTPError, tries: _Tries) -> _Failure:
        """What it means that there is no response."""
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return _Failure(tries.over())
        reason = " ".join(str(error).split()) or type(error).__name__
        # Scoring changes nothing on the server, so that a request may be sent again.
        way = f" through the proxy of {self._proxy.source}" if self._proxy else ""
        return _Failure(UnavailableError(f"{self._shown} does not answer{way}: {reason}", 1.0), again=True)

    def _most(self, response: httpx.Response) -> int:
        """Bytes that an answer may have.

        Raises:
            _Failure: it is compressed, though no compression was asked for.
        """
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise _Failure(ServiceError(f"{self._shown} gave an answer in the encoding {encoding[:40]!r}"))
        return _LEAST_ANSWER + _ANSWER_SHARE * int(response.request.headers.get("content-length", 0))

    def _too_large(self, most: int) -> _Failure:
        return _Failure(
            ServiceError(f"{self._shown} gave an answer of more than {most} bytes; is it CrossRank?")
        )

    def _read(self, response: httpx.Response, content: bytes | bytearray) -> dict[str, Any] | None:
        """The body of a good answer; None: there is no such model.

        Raises:
            _Failure: it is not a good one.
        """
        status, body = response.status_code, _body(content)
        if status == 200:
            return body
        if status == 404 and self._model is not None and "error" in body:
            return None
        message = _message(body) or f"{self._shown} answered {status} {response.reason_phrase}".strip()
        after = _retry_after(response.headers.get("retry-after"))
        later = 1.0 if after is None else after
        if status == 429:
            raise _Failure(OverloadedError(message, later), again=True, after=after)
        if status in (502, 503):  # 502: a proxy whose server restarts
            raise _Failure(UnavailableError(message, later), again=True, after=after)
        if status in (408, 504):
            raise _Failure(DeadlineError(message))
        if status in (400, 413, 422):
            raise _Failure(InputError(message))
        if response.is_redirect:
            message = f"{self._shown} points to {response.headers.get('location')}; use that address"
        raise _Failure(ServiceError(message))

    def _scored(self, body: dict[str, Any], count: int) -> Scored:
        """The scores of an answer.

        Raises:
            ServiceError: it has none, or not so many.
            NonFiniteLogitError: a logit is no number.
        """
        try:
            data = sorted(body["data"], key=lambda each: int(each["index"]))
            logits = np.array([float(each["score"]) for each in data], np.float32)
            truncated = [bool(each.get("truncated")) for each in data]
        except (LookupError, TypeError, ValueError, AttributeError):
            data = None
        if data is None or [each["index"] for each in data] != list(range(count)):
            raise ServiceError(f"{self._shown} gave an answer without {count} scores; is it CrossRank?")
        return Scored(logits, truncated)

    def _explained(self, body: dict[str, Any], query: str, text: str) -> Explanation:
        """The explanation of an answer.

        Raises:
            ServiceError: it has none.
        """
        try:
            # What was sent is what it was made of, lone surrogates apart, which have the same places.
            sentences = tuple(
                ExplainedSentence(**each | {"text": text[each["start"] : each["end"]]})
                for each in body["sentences"]
            )
            names = ("score", "logit", "truncated", "read", "sentences_left_out")
            return Explanation(query, text, sentences=sentences, **{name: body[name] for name in names})
        except (LookupError, TypeError):
            raise ServiceError(
                f"{self._shown} gave an answer without an explanation; is it CrossRank?"
            ) from None

    def _names(self, body: dict[str, Any]) -> list[str]:
        try:
            return [str(model["id"]) for model in body["data"]]
        except (LookupError, TypeError):
            raise ServiceError(f"{self._shown} gave an answer without models; is it CrossRank?") from None


class Client(_Base[httpx.Client, httpx.BaseTransport]):
    """Asks a server. Safe to use from many threads at once; close it, or use it as a context.

    A request that is refused because the server is busy (429) or not ready (503), or whose connection
    fails, is sent again: after as long as the server's Retry-After says, with some jitter, as often as
    ``retries`` and only within ``timeout``.

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
        transport: httpx' way to the server, in place of this class's own. ``timeout`` then bounds each
            read, and is checked between them.

    Raises:
        InputError: an option is out of range, the address is none, or a variable of the environment that
            says how to reach it (a proxy, SSL_CERT_FILE) cannot be used.
    """

    def _open(self, transport: httpx.BaseTransport | None) -> None:
        self._deadline = _Deadline()
        if transport is None:
            transport = httpx.HTTPTransport(**self._options())
            pool = transport._pool  # httpx has no option for it; tests/test_client.py sees that it works
            pool._network_backend = _Network(pool._network_backend, self._deadline)
        self._http = httpx.Client(headers=self._headers, transport=transport)

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """Order documents by how well they answer the query, best first; as ``Reranker.rank``.

        Args:
            query: a question or search phrase.
            documents: strings, or mappings with a "text" field whose other fields come back
                with the hit (they are not sent).
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
        request = Request.read(query, documents)
        return self._score(query, request.texts).rank(request, top_n=top_n, threshold=threshold)

    def rank_many(
        self,
        requests: Iterable[tuple[str, Sequence[Document]]],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[Ranking]:
        """Rank the documents of many queries: a ranking for each, in their order, as they are ready.

        ``concurrency`` requests are on their way at a time, whose pairs share the server's packs; they
        are drawn no further ahead than that.

        Args:
            requests: queries with their documents, as ``rank`` takes them.
            top_n: as ``rank``, for each query.
            threshold: as ``rank``, for each query.

        Raises:
            CrossRankError: as ``rank``, when the rankings are drawn.
        """
        check_options(top_n, threshold)
        read = (read_one_of(*numbered) for numbered in enumerate(each("requests", requests)))

        def scored_of(request: Request) -> Scored:
            return self._score(request.query, request.texts)

        for request, scored in map_ahead(
            scored_of, read, threads=self._concurrency, ahead=self._concurrency, name="crossrank-client"
        ):
            yield scored.rank(request, top_n=top_n, threshold=threshold)

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Scores between 0 and 1 of (query, document) pairs: float32 (len(pairs),), input order.

        Raises:
            CrossRankError: as ``rank``.
        """
        return self._score(*read_pairs(pairs)).scores.astype(np.float32)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of (query, document) pairs: float32 (len(pairs),), input order, every bit as served.

        Raises:
            CrossRankError: as ``rank``.
        """
        return self._score(*read_pairs(pairs)).logits

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[ScoredPair]:
        """All that is known of each (query, document) pair: input order.

        Raises:
            CrossRankError: as ``rank``.
        """
        return self._score(*read_pairs(pairs)).pairs()

    def explain(
        self, query: str, document: Document, *, max_sentences: int = DEFAULT_SENTENCES
    ) -> Explanation:
        """What each sentence of a document does for its score; see ``Reranker.explain``.

        Args:
            query: what was asked.
            document: as ``rank`` takes one.
            max_sentences: a longer document is explained up to this one; a server takes 1 to 1,000.

        Raises:
            CrossRankError: as ``rank``.
        """
        (text,) = Request.read(query, [document]).texts
        body = self._call(partial(self._explain_request, query, text, max_sentences))
        if body is None:
            raise UnknownModelError(str(self._model), self.models())
        return self._explained(body, query, text)

    def models(self) -> list[str]:
        """The served models; the first answers who names none.

        Raises:
            ServiceError: as ``rank``.
        """
        return self._names(self._call(self._models_request) or {})

    def info(self) -> dict[str, Any]:
        """What GET /info says of the server and its models.

        Raises:
            ServiceError: as ``rank``.
        """
        return self._call(self._info_request) or {}

    def _score(self, queries: str | Sequence[str], texts: Sequence[str]) -> Scored:
        if not texts:
            return Scored([])
        body = self._call(partial(self._score_request, queries, texts))
        if body is None:
            raise UnknownModelError(str(self._model), self.models())
        return self._scored(body, len(texts))

    def _call(self, request: Callable[[float], httpx.Request]) -> dict[str, Any] | None:
        tries = self._tries()
        while True:
            try:
                try:
                    return self._read(*self._send(request(tries.seconds()), tries))
                except httpx.HTTPError as error:
                    raise self._not_sent(error, tries) from error
            except _Failure as failure:
                pause = tries.pause(failure)
            time.sleep(pause)

    def _send(self, request: httpx.Request, tries: _Tries) -> tuple[httpx.Response, bytearray]:
        """Send a request: the response, and its body."""
        self._deadline.end = tries.end
        response = self._opened().send(request, stream=True)
        try:
            most, content = self._most(response), bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                tries.seconds()
                if len(content) > most:
                    raise self._too_large(most)
        finally:
            response.close()
        return response, content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base[httpx.AsyncClient, httpx.AsyncBaseTransport]):
    """``Client`` for asyncio: the same options, methods and errors.

    Cancelling a call closes its connection, and the server drops what it has not scored yet.
    """

    def _open(self, transport: httpx.AsyncBaseTransport | None) -> None:
        if transport is None:
            transport = httpx.AsyncHTTPTransport(**self._options())
        self._http = httpx.AsyncClient(headers=self._headers, transport=transport)

    async def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """As ``Client.rank``."""
        check_options(top_n, threshold)
        request = Request.read(query, documents)
        scored = await self._score(query, request.texts)
        return scored.rank(request, top_n=top_n, threshold=threshold)

    async def rank_many(
        self,
        requests: Iterable[tuple[str, Sequence[Document]]] | AsyncIterable[tuple[str, Sequence[Document]]],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> AsyncIterator[Ranking]:
        """As ``Client.rank_many``; requests may come from an asynchronous iterator, too."""
        check_options(top_n, threshold)
        sent: deque[tuple[Request, asyncio.Task[Scored]]] = deque()
        try:
            async for numbered in _numbered(requests):
                request = read_one_of(*numbered)
                task = asyncio.ensure_future(self._score(request.query, request.texts))
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

    async def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """As ``Client.score``."""
        return (await self._score(*read_pairs(pairs))).scores.astype(np.float32)

    async def logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """As ``Client.logits``."""
        return (await self._score(*read_pairs(pairs))).logits

    async def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[ScoredPair]:
        """As ``Client.score_pairs``."""
        return (await self._score(*read_pairs(pairs))).pairs()

    async def explain(
        self, query: str, document: Document, *, max_sentences: int = DEFAULT_SENTENCES
    ) -> Explanation:
        """As ``Client.explain``."""
        (text,) = Request.read(query, [document]).texts
        body = await self._call(partial(self._explain_request, query, text, max_sentences))
        if body is None:
            raise UnknownModelError(str(self._model), await self.models())
        return self._explained(body, query, text)

    async def models(self) -> list[str]:
        """As ``Client.models``."""
        return self._names(await self._call(self._models_request) or {})

    async def info(self) -> dict[str, Any]:
        """As ``Client.info``."""
        return await self._call(self._info_request) or {}

    async def _score(self, queries: str | Sequence[str], texts: Sequence[str]) -> Scored:
        if not texts:
            return Scored([])
        body = await self._call(partial(self._score_request, queries, texts))
        if body is None:
            raise UnknownModelError(str(self._model), await self.models())
        return self._scored(body, len(texts))

    async def _call(self, request: Callable[[float], httpx.Request]) -> dict[str, Any] | None:
        tries = self._tries()
        while True:
            try:
                seconds = tries.seconds()
                try:
                    return self._read(*await asyncio.wait_for(self._send(request(seconds)), seconds))
                except httpx.HTTPError as error:
                    raise self._not_sent(error, tries) from error
                except asyncio.TimeoutError:
                    raise tries.over() from None
            except _Failure as failure:
                pause = tries.pause(failure)
            await asyncio.sleep(pause)

    async def _send(self, request: httpx.Request) -> tuple[httpx.Response, bytearray]:
        """Send a request: the response, and its body."""
        response = await self._opened().send(request, stream=True)
        try:
            most, content = self._most(response), bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > most:
                    raise self._too_large(most)
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


def _checked(base_url: str) -> tuple[str, str]:
    """The address with a slash at its end, and without a /v1 there; and the Unix socket, if it is one."""
    if isinstance(base_url, str) and base_url.startswith("unix:"):
        path = base_url.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path:
            raise InputError(f"{base_url!r} is not an address; write it as unix:/PATH/TO/SOCKET")
        return "http://localhost/", path
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InputError(f"{base_url!r} is not an address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InputError(f"{base_url!r} is not an address; write it as http://HOST:PORT")
    # Other services' addresses end so.
    return str(url).rstrip("/").removesuffix("/v1") + "/", ""


def _body(content: bytes | bytearray) -> dict[str, Any]:
    """The JSON object of an answer; what is none is an empty one."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _message(body: Mapping[str, Any]) -> str:
    """What the server says of an error; "": nothing."""
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _retry_after(header: str | None) -> float | None:
    """Seconds of a header Retry-After, which is a number or a date; None: there is none that is either."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


async def _numbered(
    requests: Iterable[tuple[str, Sequence[Document]]] | AsyncIterable[tuple[str, Sequence[Document]]],
) -> AsyncIterator[tuple[int, tuple[str, Sequence[Document]]]]:
    if isinstance(requests, AsyncIterable):
        number = 0
        async for request in requests:
            yield number, request
            number += 1
    else:
        for numbered in enumerate(each("requests", requests)):
            yield numbered
