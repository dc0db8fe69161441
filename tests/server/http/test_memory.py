"""What a request leaves in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.server.asgi import app_of, ask
from tests.server.serving import fake

TEXT = "long " * 100_000
REFUSED = {
    "wrong type": ("/rerank", {"query": "q", "texts": [0] * 100_000}),
    "a text that may not be cut": ("/rerank", {"query": "q", "truncate": False, "texts": [TEXT]}),
    "no such model": ("/v1/rerank", {"model": "none", "query": "q", "documents": [TEXT]}),
    "too many documents": ("/v1/rerank", {"query": "q", "documents": [TEXT, *["a"] * 3000]}),
    "not JSON": ("/v1/rerank", b'{"query": "q", "documents": ["' + TEXT.encode()),
}


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("case", REFUSED)
def test_the_body_of_a_refused_request_is_free_at_once(case: str) -> None:
    """Not only when the garbage collector runs, which few and large objects do not make happen."""
    path, body = REFUSED[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def main() -> None:
        async with app_of(fake()) as (app, _):
            assert (await ask(app, path, data)).status in (400, 404, 413, 422)
            tracemalloc.start()
            for _ in range(5):
                await ask(app, path, data)

    try:
        asyncio.run(main())  # the threads that read bodies have ended, too
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < len(data)
