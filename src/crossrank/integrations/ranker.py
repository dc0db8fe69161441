"""The common base of the adapters: one interface to a Reranker in this process or to a server."""

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
from crossrank.ranking import RankedDocument, Ranking
from crossrank.reranker import Reranker

if TYPE_CHECKING:
    from crossrank.client import AsyncClient, Client

__all__ = ["NOT_SAVED", "Model", "Ranker", "check_arguments", "is_url", "scored_by"]

Model: TypeAlias = Reranker | str | os.PathLike[str]
"""A Reranker, the name or folder of a model, or the URL of a server (http://, https:// or unix:/PATH)."""

NOT_SAVED = "a Reranker object cannot be saved; give its model's name, and its other arguments as options"
"""The message of the error raised when an adapter with a Reranker is pickled or serialised."""

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


class Ranker:
    """A loaded model, or a client of a server.

    A copy shares the model. A pickle contains the name or URL, the API key and the options, and the model
    is loaded from them again.

    Args:
        model: a Reranker, the name or folder of a model, or the URL of a server. A named model is loaded.
        api_key: the API key, for a server that requires one.
        options: further keyword arguments for ``Reranker`` (precision, max_length ...) if the model is a
            name or folder, or for ``Client`` (model, timeout ...) if it is a URL.

    Attributes:
        model: the argument ``model``.
        api_key: the argument ``api_key``.
        options: the argument ``options``.
        name: the name of the model, or the URL.
        sync: the ``Reranker`` or ``Client``, for synchronous calls of ``rank`` and ``rank_many``. A client
            is closed together with this object.

    Raises:
        InputError: an argument is invalid, or an option is unknown or cannot be used with the model.
        ModelError: the model cannot be loaded.
        EngineError: no engine can run the model.
    """

    def __init__(
        self, model: Model, *, api_key: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        check_arguments(model, options)
        if not isinstance(api_key, str | None):
            raise InputError(f"api_key is of type {type(api_key).__name__}; it must be a string")
        self.model, self.api_key, self.options = model, api_key, options
        options = dict(options or {})
        self.name = model_name(model)
        self.sync: Reranker | Client
        if is_url(model):
            from crossrank.client import Client  # needs the extra `client`

            _check_options(options, Client, excluded=("base_url", "api_key", "transport"))
            self._settings = {**options, "base_url": model, "api_key": api_key}
            self.sync = Client(**self._settings)
            weakref.finalize(self, self.sync.close)
            self._clients: dict[asyncio.AbstractEventLoop, tuple[object, AsyncClient]] = {}
        elif api_key is not None:
            raise InputError(f"api_key is for a server, but {self.name} is a model in this process")
        elif not isinstance(model, Reranker):
            _check_options(options, Reranker, excluded=("model",))
            self.sync = Reranker(model, **options)
        elif options:
            raise InputError(f"{', '.join(options)}: a Reranker takes no options here; create it with them")
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
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """Like ``Reranker.rank``, without blocking the event loop.

        Raises:
            CrossRankError: as ``Reranker.rank`` or ``Client.rank``.
        """
        options: dict[str, Any] = {"instruction": instruction, "top_n": top_n, "threshold": threshold}
        if isinstance(self.sync, Reranker):
            return await asyncio.to_thread(self.sync.rank, query, documents, **options)
        client = await self._client()
        return await client.rank(query, documents, **options)

    async def _client(self) -> AsyncClient:
        """The client of the running event loop; connections belong to a loop, and later calls reuse them."""
        loop = asyncio.get_running_loop()
        entry = self._clients.get(loop)
        if entry is None:
            opened = self._open(loop)
            entry = self._clients[loop] = (opened, await anext(opened))
        return entry[1]

    async def _open(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[AsyncClient, None]:
        """Yield a client that is closed with its event loop; the loop closes its asynchronous generators."""
        from crossrank.client import AsyncClient

        async with AsyncClient(**self._settings) as client:
            try:
                yield client
            finally:
                self._clients.pop(loop, None)


def _opened(model: Model, api_key: str | None, options: Mapping[str, Any] | None) -> Ranker:
    """Create a Ranker; pickle needs a function with positional arguments, and stores its name."""
    return Ranker(model, api_key=api_key, options=options)


def is_url(model: Model) -> bool:
    """Whether the model is the URL of a server."""
    return isinstance(model, str) and model.lower().startswith(("http://", "https://", "unix:/"))


def check_arguments(model: Model, options: Mapping[str, Any] | None) -> None:
    """Raise InputError if the arguments cannot be a model and its options."""
    if not isinstance(model, Reranker | str | os.PathLike):
        raise InputError(f"model is {model!r}; it must be a Reranker, a name, a folder or a server's URL")
    if isinstance(model, str) and _HOST_AND_PORT.fullmatch(model) and not Path(model).exists():
        raise InputError(
            f"{model!r} is not a model's name; the URL of a server starts with http://: 'http://{model}'"
        )
    if not isinstance(options, Mapping | None):
        raise InputError(f"options is {options!r}; it must be a dictionary of keyword arguments")


def model_name(model: Model) -> str:
    """The name of the model for messages."""
    if isinstance(model, Reranker):
        return model.model.name
    return os.fspath(model)


def scored_by(hit: RankedDocument) -> dict[str, Any]:
    """The fields of a document that say which of two models scored it, if there are two, and of which part of
    the text the score is, if it was read in windows.
    """
    fields: dict[str, Any] = {} if hit.model is None else {"scored_by": hit.model}
    return fields | ({} if hit.window is None else {"window": list(hit.window)})


def _check_options(
    options: Mapping[str, Any], target: type[Reranker | Client], *, excluded: Sequence[str]
) -> None:
    known = [name for name in inspect.signature(target).parameters if name not in excluded]
    unknown = [str(name) for name in options if name not in known]
    if unknown:
        raise InputError(f"{target.__name__} has no option {', '.join(unknown)}; it has {', '.join(known)}")
