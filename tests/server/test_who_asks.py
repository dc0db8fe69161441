"""Whose turn a request takes: its API key's, or its address'."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from crossrank.server.core.work import Answer, Work
from crossrank.server.http.limits import network_of
from tests.server.asgi import app_of, ask, body_of
from tests.server.serving import fake

PATHS = ["/rerank", "/v1/rerank", "/v2/rerank", "/score", "/compare", "/explain"]


def body(path: str, **fields: object) -> dict[str, object]:
    own = {"query": "q", "document": "One. Two."} if path == "/explain" else body_of(path)
    return {**own, **fields}


def asked_by(path: str, keys: tuple[str, ...], key: str = "") -> str:
    async def main() -> str:
        async with app_of(fake(), api_keys=keys) as (app, registry):
            works: list[Work] = []
            score = registry.score

            async def noted(work: Work) -> Answer:
                works.append(work)
                return await score(work)

            registry.score = noted  # type: ignore[method-assign]
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert (await ask(app, path, body(path), headers=headers)).status == 200
            return works[0].client

    return asyncio.run(main())


@pytest.mark.parametrize("path", PATHS)
def test_a_request_is_its_keys_or_its_addresss(path: str) -> None:
    assert asked_by(path, ()) == "127.0.0.1"
    one, two = (asked_by(path, ("one", "two"), key) for key in ("one", "two"))
    assert one != two
    assert one.startswith("key ")


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (("10.1.2.3", 4), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 4), "2001:db8:1:2::/64"),
        (("::1", 4), "::/64"),
        (("", 0), ""),
        (None, ""),
    ],
)
def test_where_a_client_is(client: tuple[str, int] | None, name: str) -> None:
    assert network_of(client) == name


def test_large_bodies_are_read_and_slow_answers_made_in_turns_of_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with app_of(fake(), api_keys=("one",)) as (app, registry):
            turns: list[tuple[str, str]] = []
            run = registry.texts.run

            async def noted(client, deadline, function, *args, **kwargs):  # type: ignore[no-untyped-def]
                assert deadline is not None
                named = function.func if isinstance(function, partial) else function
                turns.append((client, named.__name__))
                return await run(client, deadline, function, *args, **kwargs)

            monkeypatch.setattr(registry.texts, "run", noted)
            headers = {"authorization": "Bearer one"}
            for path, wanted in (
                ("/rerank", ["_object", "_read", "_respond"]),
                ("/compare", ["_object", "_read", "_respond"]),
            ):
                turns.clear()
                large = body(path, x="y" * (1 << 16))
                assert (await ask(app, path, large, headers=headers)).status == 200
                assert [function for _, function in turns] == wanted, (path, turns)
                assert all(client.startswith("key ") for client, _ in turns)
            for path, wanted in (
                ("/compare", ["_read", "_respond"]),
                ("/explain", ["_read", "measure", "_respond"]),
                ("/rerank", []),
            ):
                turns.clear()
                assert (await ask(app, path, body(path), headers=headers)).status == 200
                assert [function for _, function in turns] == wanted

    asyncio.run(main())


def test_a_body_that_waits_for_a_thread_is_refused_at_its_deadline() -> None:
    async def main() -> None:
        async with app_of(fake(), options={"tokenizer_threads": 1}) as (app, registry):
            gate = threading.Event()
            hog = asyncio.ensure_future(registry.texts.run("hog", None, gate.wait))
            large = body("/rerank", x="y" * (1 << 16))
            found = await ask(app, "/rerank", large, headers={"x-request-timeout": "0.2"})
            assert found.status == 504
            gate.set()
            assert await hog

    asyncio.run(main())
