"""What an adapter ranks with: a Reranker in this process, or a server; the same to ask."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from crossrank.errors import InputError
from crossrank.inputs import Document
from crossrank.ranking import Ranking
from crossrank.reranker import Reranker

if TYPE_CHECKING:
    from crossrank.client import AsyncClient, Client

__all__ = ["NOT_SAVED", "Model", "Ranker", "check_arguments", "is_url"]

Model: TypeAlias = Reranker | str | os.PathLike[str]
"""A Reranker, a model's name or folder, or the URL of a server (http://, https:// or unix:/PATH)."""

NOT_SAVED = "a Reranker object cannot be saved; give its model's name, and what else it needs as options"

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


class Ranker:
    """A model, opened.

    A copy shares the model. What is pickled is the name or URL, the key and the options, of which it is
    opened again.

    Args:
        model: a Reranker; a model's name or folder, which is loaded; or a server's URL.
        api_key: for a server that asks for one.
        options: more arguments, by name: of ``Reranker`` (precision, max_length ...) for a name, of
            ``Client`` (model, timeout ...) for a URL.

    Attributes:
        model, api_key, options: what it was made of.
        name: of the model, or the URL.
        sync: what has ``rank`` and ``rank_many``, and is closed with this object; ``rank`` of this class is
            the one to await.

    Raises:
        InputError: an argument is not as described, an option is unknown, or does not go with the model.
        ModelError, EngineError: as ``Reranker``.
    """

    def __init__(
        self, model: Model, *, api_key: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        check_arguments(model, options)
        if not isinstance(api_key, str | None):
            raise InputError(f"api_key is a {type(api_key).__name__}; it must be a string")
        self.model, self.api_key, self.options = model, api_key, options
        options = dict(options or {})
        self.name = model_name(model)
        self.sync: Reranker | Client
        if is_url(model):
            from crossrank.client import Client  # needs the extra `client`

            _check(options, Client, but=("base_url", "api_key", "transport"))
            self._settings = {**options, "base_url": model, "api_key": api_key}
            self.sync = Client(**self._settings)
            weakref.finalize(self, self.sync.close)
            self._clients: dict[asyncio.AbstractEventLoop, tuple[object, AsyncClient]] = {}
        elif api_key is not None:
            raise InputError(f"api_key is for a server, and {self.name} is a model in this process")
        elif not isinstance(model, Reranker):
            _check(options, Reranker, but=("model",))
            self.sync = Reranker(model, **options)
        elif options:
            raise InputError(f"{', '.join(options)}: a Reranker has its options already; give them to it")
        else:
            self.sync = model

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranker:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.model, Reranker):
            raise InputError(NOT_SAVED)
        return _opened, (self.model, self.api_key, self.options)

    async def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """As ``Reranker.rank``; the event loop is free meanwhile.

        Raises:
            CrossRankError: as ``Reranker.rank`` or ``Client.rank``.
        """
        if isinstance(self.sync, Reranker):
            return await asyncio.to_thread(self.sync.rank, query, documents, top_n=top_n, threshold=threshold)
        client = await self._client()
        return await client.rank(query, documents, top_n=top_n, threshold=threshold)

    async def _client(self) -> AsyncClient:
        """The client of the event loop: connections belong to a loop, and are kept for the next call."""
        loop = asyncio.get_running_loop()
        held = self._clients.get(loop)
        if held is None:
            opened = self._open(loop)
            held = self._clients[loop] = (opened, await anext(opened))
        return held[1]

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[AsyncClient, None]:
        """A client that is closed with its event loop, which closes the generators that began in it."""
        from crossrank.client import AsyncClient

        async with AsyncClient(**self._settings) as client:
            try:
                yield client
            finally:
                self._clients.pop(loop, None)


def _opened(model: Model, api_key: str | None, options: Mapping[str, Any] | None) -> Ranker:
    """For pickle, which gives no arguments by name."""
    return Ranker(model, api_key=api_key, options=options)


def is_url(model: Model) -> bool:
    """Whether a server is meant."""
    return isinstance(model, str) and model.lower().startswith(("http://", "https://", "unix:/"))


def check_arguments(model: Model, options: Mapping[str, Any] | None) -> None:
    """Raise InputError if they cannot be a model and its options."""
    if not isinstance(model, Reranker | str | os.PathLike):
        raise InputError(f"model is {model!r}; it must be a Reranker, a name, a folder or a server's URL")
    if isinstance(model, str) and _HOST_AND_PORT.fullmatch(model) and not Path(model).exists():
        raise InputError(
            f"{model!r} is no model's name; a server's URL begins with http://: 'http://{model}'"
        )
    if not isinstance(options, Mapping | None):
        raise InputError(f"options is {options!r}; it must be a dictionary: arguments by name")


def model_name(model: Model) -> str:
    """What messages call it."""
    if isinstance(model, Reranker):
        return model.checkpoint.name if model.checkpoint else model.engine.name
    return os.fspath(model)


def _check(options: Mapping[str, Any], taker: type[Reranker | Client], *, but: Sequence[str]) -> None:
    known = [name for name in inspect.signature(taker).parameters if name not in but]
    wrong = [str(name) for name in options if name not in known]
    if wrong:
        raise InputError(f"{taker.__name__} has no option {', '.join(wrong)}; it has {', '.join(known)}")
