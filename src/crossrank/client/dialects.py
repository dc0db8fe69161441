"""A client of any server that speaks a rerank API that is known here, in that API's own words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from crossrank.client.retries import Failure
from crossrank.client.synchronous import Client
from crossrank.errors import InputError, ServiceError
from crossrank.text.unicode import clean

__all__ = ["DIALECTS", "Answered", "Dialect", "DialectClient"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API asks for scores.

    Attributes:
        name: what users call it.
        path: where requests go.
        query, documents: the names of these fields.
        truncate: what a request says so that a long document is cut, where that is not the default.
        ordered: whether answers are best first.
        names_model: requests name a model.
    """

    name: str
    path: str
    query: str = "query"
    documents: str = "documents"
    truncate: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = True
    names_model: bool = True


DIALECTS = (
    Dialect("tei", "rerank", documents="texts", truncate={"truncate": True}, names_model=False),
    Dialect("rerank", "rerank", truncate={"truncate_prompt_tokens": -1}),
    Dialect("v1", "v1/rerank", truncate={"truncate_prompt_tokens": -1}),
    Dialect("v2", "v2/rerank"),
    Dialect("ollama", "api/rerank"),
    Dialect("score", "score", "text_1", "text_2", truncate={"truncate_prompt_tokens": -1}, ordered=False),
)
"""All that are known, in the order in which a server is tried.

rerank is that of vLLM, llama.cpp and infinity; v1 that of Cohere, Jina, Xinference, Voyage, vLLM and
llama.cpp; v2 that of Cohere; score that of vLLM.
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a server said of the documents of a query.

    Attributes:
        scores: one for each document, in the order of the request; NaN where the answer has no number.
        order: the documents' indices in the order of the answer.
    """

    scores: tuple[float, ...]
    order: tuple[int, ...]


class DialectClient(Client):
    """Asks a server in one of ``DIALECTS``; the options are those of ``Client``."""

    dialect: Dialect = DIALECTS[0]

    def find(self, names: Sequence[str] = ()) -> Dialect:
        """Find out which dialect the server speaks, and under which of its names it has the model.

        Args:
            names: the dialects to try; (): all.

        Raises:
            InputError: a name is of no dialect.
            ServiceError: it speaks none of them; or as ``Client.rank``.
        """
        known = {dialect.name: dialect for dialect in DIALECTS}
        for name in names:
            if name not in known:
                raise InputError(f"dialect is {name!r}; it must be one of {', '.join(known)}")
        self._model = self._served_name()
        refused: list[str] = []
        for dialect in [known[name] for name in names] or DIALECTS:
            self.dialect = dialect
            try:
                self.ask("capital of France", ["Paris", "Lyon"])
            except (InputError, ServiceError) as error:
                if isinstance(error, ServiceError) and type(error) is not ServiceError:
                    raise  # it is busy, or does not answer at all
                refused.append(f"POST /{dialect.path}: {error}")
                continue
            return dialect
        raise ServiceError(f"{self._route} speaks no rerank API that is known here ({'; '.join(refused)})")

    def _served_name(self) -> str | None:
        """The server's own name of the model: the same, one with the same end, or its only one."""
        try:
            names = self.models()
        except ServiceError as error:
            if type(error) is not ServiceError:
                raise
            return self._model
        except InputError:
            return self._model
        if self._model is None or self._model in names:
            return self._model
        end = self._model.rstrip("/").rpartition("/")[2].lower()
        alike = [name for name in names if name.rpartition("/")[2].lower() == end]
        if alike:
            return alike[0]
        return names[0] if len(names) == 1 else self._model

    def ask(self, query: str, texts: Sequence[str], *, truncate: bool = False) -> Answered:
        """What the server says of documents.

        Args:
            query: what is asked.
            texts: the documents.
            truncate: say that long documents are to be cut, where the API has words for it.

        Raises:
            ServiceError, InputError: as ``Client.rank``; or the answer is not as the API has it.
        """
        answered = self._call(partial(self._ask_request, query, texts, truncate), self._read)
        return _answered(answered, len(texts), str(self._route))

    def _ask_request(self, query: str, texts: Sequence[str], truncate: bool, seconds: float) -> httpx.Request:
        body: dict[str, Any] = {
            self.dialect.query: clean(query),
            self.dialect.documents: [clean(text) for text in texts],
            **(self.dialect.truncate if truncate else {}),
        }
        return self._post(self.dialect.path, body, seconds, named=self.dialect.names_model)

    def _read(self, response: httpx.Response, content: bytes | bytearray) -> Any:
        """The JSON of an answer.

        Raises:
            Failure: it is an error, or no JSON.
        """
        if response.status_code != 200:
            try:
                self._answers.read(response, content)
            except Failure as failure:
                if message := _told(content):
                    failure.error.args = (message, *failure.error.args[1:])
                raise
            raise Failure(ServiceError(_told(content) or f"{self._route} has no such model"))
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Failure(ServiceError(f"{self._route} answered, but not in JSON")) from None


def _told(content: bytes | bytearray) -> str:
    """The message of an error in any of the dialects, or ""."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "detail", "message"):
        found = body.get(name) if isinstance(body, dict) else None
        if isinstance(found, dict):
            found = found.get("message")
        if isinstance(found, str) and found:
            return found
    return ""


def _number(value: object) -> float:
    """A score, or NaN: a server that computes one may write it as null or as a string."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def _answered(body: Any, count: int, server: str) -> Answered:
    """The scores of an answer, wherever the dialect puts them.

    Raises:
        ServiceError: it has none, or not one for each document.
    """
    rows = body if isinstance(body, list) else None
    if isinstance(body, dict):
        rows = next((body[name] for name in ("results", "data") if isinstance(body.get(name), list)), None)
    try:
        order = tuple(int(row["index"]) for row in rows or ())
        values = [row["relevance_score"] if "relevance_score" in row else row["score"] for row in rows or ()]
    except (LookupError, TypeError, ValueError):
        order, values = (), []
    if sorted(order) != list(range(count)):
        raise ServiceError(f"{server} gave an answer without {count} scores")
    scores = dict(zip(order, map(_number, values), strict=True))
    return Answered(tuple(scores[index] for index in range(count)), order)
