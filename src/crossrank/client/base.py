"""The requests that both clients send."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx

from crossrank import __version__
from crossrank.cascade import KEEP, check_keep, choose, joined
from crossrank.client.answers import Answers
from crossrank.client.connection import Route
from crossrank.client.retries import Failure, Tries
from crossrank.errors import InputError, UnavailableError
from crossrank.inputs import Request, check_instruction, check_integer, check_number
from crossrank.pairs import Long, check_long
from crossrank.ranking import Scored
from crossrank.text.unicode import clean

if TYPE_CHECKING:
    from crossrank.reranker import Reranker

__all__ = ["BaseClient"]

_CONNECT_SECONDS = 5.0
"""A host that accepts no connection for this long counts as absent."""

Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Transport = TypeVar("Transport", httpx.BaseTransport, httpx.AsyncBaseTransport)


class BaseClient(Generic[Http, Transport]):
    """What both clients share: their options, the requests, and the meaning of answers."""

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
        long: Long | None = None,
        max_windows: int | None = None,
        first: str | os.PathLike[str] | Reranker | None = None,
        keep: float = KEEP,
        transport: Transport | None = None,
    ) -> None:
        check_number("timeout", timeout, lambda seconds: 0 < seconds < 1e9, "a number of seconds above 0")
        if not isinstance(model, str | None):
            raise InputError(f"model is {model!r}; it must be a name of the server's models, or None")
        check_integer("retries", retries, least=0)
        check_integer("concurrency", concurrency)
        check_integer("priority", priority, 0, 999)
        check_long("cut" if long is None else long, 1 if max_windows is None else max_windows)
        self._route = Route.of(base_url, direct=transport is not None)
        self._answers = Answers(str(self._route), model_is_named=model is not None)
        self._model = model
        self._timeout = timeout
        self._retries = retries
        self._priority = priority
        self._concurrency = concurrency
        read = {"long": long, "max_windows": max_windows}
        self._windows = {name: value for name, value in read.items() if value is not None}
        self._headers = {"user-agent": f"crossrank/{__version__}", "accept": "application/json"}
        # A small compressed answer could become a very large one.
        self._headers["accept-encoding"] = "identity"
        if api_key is not None:
            if not isinstance(api_key, str):
                raise InputError(f"api_key is a {type(api_key).__name__}; it must be a string")
            if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise InputError("the API key is empty, or has white space or characters beyond ASCII in it")
            self._headers["authorization"] = f"Bearer {api_key}"
        check_keep(keep)
        self._first, self._keep = _loaded(first), keep
        self._open(transport)

    def __repr__(self) -> str:
        # Not the key: a repr ends up in logs.
        model = "" if self._model is None else f", model {self._model!r}"
        return f"<{type(self).__name__} {self._route}{model}{', closed' if self._http.is_closed else ''}>"

    def _open(self, transport: Transport | None) -> None:
        raise NotImplementedError

    def _opened(self) -> Http:
        """The open connections.

        Raises:
            InputError: the client is closed.
        """
        if self._http.is_closed:
            raise InputError("this client is closed; make another one")
        return self._http

    def _thin(self, first: Reranker, request: Request) -> tuple[Scored, list[int]]:
        """What the model of this process says of the documents, and the places of those that are sent."""
        scored = first._score(request.query, request.texts, first.encoder.taken(request.instruction))
        return scored, choose(scored, request.texts, self._keep)

    def _joined(self, first: Reranker, thin: Scored, chosen: Sequence[int], found: Scored) -> Scored:
        """What both models say of the documents."""
        return joined(thin, chosen, found, (first.model.name, self._model or str(self._route)))

    def _tries(self) -> Tries:
        return Tries(self._timeout, self._retries)

    def _score_request(
        self,
        queries: str | Sequence[str],
        texts: Sequence[str],
        instruction: str | None,
        ranking: bool,
        seconds: float,
    ) -> httpx.Request:
        """Ask for scores; ``ranking``: they only serve to order the documents, as those of two models do."""
        body: dict[str, Any] = {
            "queries": clean(queries) if isinstance(queries, str) else [clean(query) for query in queries],
            "documents": [clean(text) for text in texts],
            "use_activation": False,
            **({"ranking": True} if ranking else {}),
            **self._windows,
            **_told(instruction),
        }
        return self._post("score", body, seconds)

    def _explain_request(
        self,
        query: str,
        text: str,
        instruction: str | None,
        max_sentences: int,
        window: tuple[int, int] | None,
        seconds: float,
    ) -> httpx.Request:
        check_integer("max_sentences", max_sentences)
        body: dict[str, Any] = {"query": clean(query), "document": clean(text)}
        body |= {"max_sentences": int(max_sentences), **_told(instruction)}
        body |= {"window": window} if window else {}
        return self._post("explain", body, seconds)

    def _info_request(self, seconds: float) -> httpx.Request:
        return self._request("GET", "info", seconds)

    def _post(self, path: str, body: dict[str, Any], seconds: float, *, named: bool = True) -> httpx.Request:
        """A request to a model, which the body names unless the API has no field for it."""
        if self._model is not None and named:
            body["model"] = self._model
        if self._priority:
            body["priority"] = self._priority
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        # A little less time for the server, so that its own error arrives before the client gives up.
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
            method, self._route.url + path, content=content, headers=headers, timeout=timeout
        )

    def _not_sent(self, error: httpx.HTTPError, tries: Tries) -> Failure:
        """The failure of a request that got no response."""
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return Failure(tries.over())
        reason = " ".join(str(error).split()) or type(error).__name__
        # Scoring changes nothing on the server, so a request may be sent again.
        way = f" through the proxy of {self._route.proxy.source}" if self._route.proxy else ""
        return Failure(UnavailableError(f"{self._route} does not answer{way}: {reason}", 1.0), retryable=True)


def _loaded(first: object) -> Reranker | None:
    """A model of this process."""
    if first is None:
        return None
    # Most clients need no engine.
    from crossrank.reranker import Reranker, checked_first

    return checked_first(Reranker(first) if isinstance(first, str | os.PathLike) else first)


def _told(instruction: str | None) -> dict[str, str]:
    """The field of a request that has an instruction."""
    check_instruction(instruction)
    return {} if instruction is None else {"instruction": clean(instruction)}
