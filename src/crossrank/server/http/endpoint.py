"""One request from its first byte to its answer."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from crossrank.errors import CrossRankError, OverloadedError
from crossrank.server.core.registry import Registry
from crossrank.server.core.work import Answer
from crossrank.server.http import limits
from crossrank.server.http.dialects import Call, Context, Dialect, Dialects
from crossrank.server.http.faults import Fault, fault_of
from crossrank.server.settings import Settings

__all__ = ["Service", "fault_response", "json_response"]

_LARGE_BODY, _MANY_TEXTS = 64 << 10, 256
"""Bytes of a body, and texts of an answer, from which it is read and built in a thread beside the event loop.
Up to these it takes about a millisecond."""


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON body; a number that JSON has not is null."""
    content = to_json(body, inf_nan_mode="null")
    return Response(content, status, headers, media_type="application/json")


def fault_response(context: Context, fault: Fault) -> Response:
    """An error in the words that a request's client knows, with Retry-After in whole seconds."""
    headers = {}
    if fault.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(fault.retry_after)))
    if fault.kind == "slow":
        headers["connection"] = "close"
    if fault.kind == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    errors = context.errors
    return json_response(errors.error(fault, context.request_id), errors.status(fault), headers)


Result = TypeVar("Result")


class Service:
    """Answers rerank requests, whatever their dialect."""

    def __init__(self, registry: Registry, dialects: Dialects, settings: Settings) -> None:
        self.registry = registry
        self.dialects = dialects
        self.limits = settings.limits
        self.gate = limits.Gate(settings.max_concurrent_requests, settings.max_client_requests)
        self.bodies = limits.Bodies(settings.limits.max_bodies_bytes)
        registry.metrics.watch(
            crossrank_concurrent_requests=("Requests at work", lambda: float(self.gate.inside)),
            crossrank_concurrent_requests_limit=("Most of them", lambda: float(self.gate.limit)),
        )

    async def handle(self, request: Request) -> Response:
        """The answer to a request.

        Raises:
            ClientGone, Exception: it gets none.
        """
        context: Context = request.scope["crossrank"]
        counted = False
        try:
            begun = self.registry.clock()
            path, client = request.scope["path"], context.client
            self._use(context, self.dialects.paths[path].dialects[0])
            seconds = limits.request_timeout(request.headers.get("x-request-timeout"), self.limits)
            context.deadline, context.created = begun + seconds, int(time.time())
            self.gate.check(client)  # before the body is read for nothing
            with self.bodies(client) as take:
                data = await limits.read_body(request.scope, request.receive, self.limits, take)
                with self.gate(client):  # only now: a body that comes slowly is no work
                    large = len(data) >= _LARGE_BODY
                    parse = partial(_object, data)
                    del data  # it is large, and soon of no use
                    body = await self._aside(large, context, parse)
                    dialect = self._use(context, self.dialects.of_body(path, body))
                    slow = large or dialect.slow
                    read = partial(self._read, dialect, body, context)
                    del parse, body
                    call, characters = await self._aside(slow, context, read)
                    del read
                    context.notes["documents"] = len(call.work.texts)
                    if call.work.model is not None:
                        context.notes["model"] = call.work.model
                    counted = True  # the registry counts what it is given
                    answer = await _unless_gone(self.registry.score(call.work), request.receive)
                    context.answer = answer
                    context.notes |= _notes(answer)
                    slow = slow or len(answer) >= _MANY_TEXTS
                    respond = partial(_respond, dialect, call, answer, context)
                    response = await self._aside(slow, context, respond)
        except Exception as error:
            if not counted and not isinstance(error, limits.ClientGone):
                self._count(fault_of(error))
            raise
        response.headers.update(_headers(answer, characters))
        response.headers["x-total-time"] = _ms(self.registry.clock() - begun)
        return response

    def _use(self, context: Context, dialect: Dialect) -> Dialect:
        """A request is in this dialect, as far as is known: an error from here on is in its shape."""
        context.errors, context.notes["dialect"] = dialect.errors, dialect.name
        return dialect

    def _read(self, dialect: Dialect, body: dict[str, Any], context: Context) -> tuple[Call, int]:
        """What a body asks, and how many characters its texts have."""
        call = dialect.read(body, context)
        work = call.work
        limits.check_texts(self.limits, work.queries, work.texts)
        characters = sum(map(len, work.texts))
        return dialect.expand(call, lambda: self.registry.encoder(work.model)), characters

    async def _aside(self, slow: bool, context: Context, function: Callable[[], Result]) -> Result:
        """Call a function; in the threads for texts, where others would wait for it."""
        if slow:
            return await self.registry.texts.run(context.client, context.deadline, function)
        return function()

    def _count(self, fault: Fault) -> None:
        """A request that never came to the registry is one that failed, too."""
        metrics = self.registry.metrics
        if fault.kind == "overloaded":
            metrics.refused.labels("concurrency").inc()
        with contextlib.suppress(CrossRankError), metrics.request():
            is_full = fault.kind == "overloaded"
            raise OverloadedError(str(fault), 1.0) if is_full else fault.__cause__ or fault


async def _unless_gone(scoring: Coroutine[Any, Any, Answer], receive: Receive) -> Answer:
    """An answer; as soon as the client goes, nobody works on it.

    Raises:
        ClientGone: it went.
    """
    scored = asyncio.ensure_future(scoring)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((scored, gone), return_when=asyncio.FIRST_COMPLETED)
        if scored.done():
            return scored.result()
        raise limits.ClientGone
    finally:
        for task in (scored, gone):
            if not task.done():
                task.cancel()
                # What it does on its way out is done before anybody goes on.
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_from_json = partial(from_json, allow_inf_nan=False, cache_strings="keys")


def _object(data: bytearray) -> dict[str, Any]:
    """A body's JSON object.

    Half of a surrogate pair is read as U+FFFD: JavaScript sends it for a text that was cut inside one.

    Raises:
        Fault: it is not one, or has too many lists and objects in it. Not JSON either are NaN, Infinity,
            and what is nested more than 200 deep.
    """
    limits.check_containers(data)
    try:
        body = _from_json(data)
    except ValueError:
        try:
            body = _from_json(limits.without_lone_surrogates(data))
        except ValueError as error:
            raise Fault("syntax", f"the body is not valid JSON in UTF-8: {error}") from None
    if not isinstance(body, dict):
        raise Fault("invalid", "the body must be a JSON object")
    return body


def _respond(dialect: Dialect, call: Call, answer: Answer, context: Context) -> Response:
    return json_response(dialect.answer(call, answer, context))


def _headers(answer: Answer, characters: int) -> dict[str, str]:
    headers = {
        "x-compute-tokens": str(sum(answer.tokens) + answer.read_twice),
        "x-compute-characters": str(characters),
        "x-compute-time": _ms(answer.tokenization_s + answer.queue_s + answer.inference_s),
        "x-tokenization-time": _ms(answer.tokenization_s),
        "x-queue-time": _ms(answer.queue_s),
        "x-inference-time": _ms(answer.inference_s),
    }
    cut = [str(index) for index, truncated in enumerate(answer.truncated) if truncated]
    if cut:
        headers["x-truncated"] = ",".join(cut[:100]) + (",..." if len(cut) > 100 else "")
    if any(answer.query_truncated):
        headers["x-query-truncated"] = "true"
    return headers


def _ms(seconds: float) -> str:
    return str(round(1000 * seconds))


def _notes(answer: Answer) -> dict[str, Any]:
    return {
        "model": answer.model,
        "tokens": sum(answer.tokens),
        "truncated": sum(answer.truncated),
        **({"query_truncated": True} if any(answer.query_truncated) else {}),
        "queue_ms": round(1000 * answer.queue_s, 1),
        "inference_ms": round(1000 * answer.inference_s, 1),
    }
