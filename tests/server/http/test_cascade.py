"""What clients see of a server with a first model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from crossrank import Reranker
from crossrank.client import AsyncClient
from crossrank.engines.fake import FakeEngine
from tests.server.asgi import app_of, ask
from tests.server.core.test_cascade import longest, shortest, words
from tests.server.serving import ENCODER, fake, serve

DOCUMENTS = [*words(5, 1, 4, 2, 3), "---"]


@asynccontextmanager
async def two() -> AsyncIterator[tuple[ASGIApp, FakeEngine, FakeEngine]]:
    """An application whose small model keeps the two shortest documents, of which the large one takes the
    longer first.
    """
    large, small = fake(longest), fake(shortest)
    specs = serve(large, "large"), serve(small, "small")
    async with app_of(*specs, options={"first": "small", "keep": 2}) as (app, _):
        large.packs.clear()
        small.packs.clear()
        yield app, large, small


@pytest.mark.parametrize(
    ("path", "body", "results"),
    [
        ("/v1/rerank", {"documents": DOCUMENTS}, "results"),
        ("/v2/rerank", {"documents": DOCUMENTS}, "results"),
        ("/rerank", {"documents": DOCUMENTS}, "results"),
        ("/rerank", {"texts": DOCUMENTS}, None),
    ],
)
def test_every_dialect_has_its_results_in_both_models_order(
    path: str, body: dict[str, object], results: str | None
) -> None:
    async def main() -> None:
        async with two() as (app, large, _):
            found = (await ask(app, path, {"query": "q", **body})).json
            hits = found if results is None else found[results]
            assert [hit["index"] for hit in hits] == [3, 1, 4, 2, 0, 5]
            assert not any("model" in hit for hit in hits)
            assert sum(len(pack) for pack in large.packs) == 2

    asyncio.run(main())


def test_a_warning_says_which_results_the_model_has_not_scored() -> None:
    async def main() -> None:
        async with two() as (app, _, _):
            body = {"query": "q", "documents": DOCUMENTS}
            found = (await ask(app, "/v1/rerank", body)).json
            warning = (
                "4 of 6 documents were scored by small alone: they come last, and their scores cannot be "
                "compared; their indices: 4, 2, 0, 5"
            )
            assert warning in found["meta"]["warnings"]
            assert found["model"] == "large"
            best = (await ask(app, "/v1/rerank", {**body, "top_n": 2})).json
            assert not any("scored by" in each for each in best["meta"]["warnings"])

    asyncio.run(main())


def test_scores_of_pairs_are_the_models_own_unless_they_are_to_rank_by() -> None:
    async def main() -> None:
        async with two() as (app, large, small):
            body = {"queries": "q", "documents": DOCUMENTS, "use_activation": False}
            found = (await ask(app, "/score", body)).json["data"]
            assert all(each["score"] > 0 and "model" not in each for each in found)
            assert not small.packs
            large.packs.clear()
            ranked = (await ask(app, "/score", {**body, "ranking": True})).json
            assert ranked["model"] == "large"
            assert [each["model"] for each in ranked["data"]] == [
                *("small", "large", "small", "large", "small", "small")
            ]

    asyncio.run(main())


def test_a_comparison_names_the_model_of_each_document() -> None:
    async def main() -> None:
        async with two() as (app, _, _):
            found = (await ask(app, "/compare", {"query": "q", "documents": DOCUMENTS})).json["documents"]
            assert [each["model"] for each in found] == ["small", "large", "small", "large", "small", "small"]
            assert [each["rank"] for each in found] == [5, 2, 4, 1, 3, 6]
            alone = {"query": "q", "documents": DOCUMENTS, "model": "small"}
            found = (await ask(app, "/compare", alone)).json["documents"]
            assert {each["model"] for each in found} == {"small"}

    asyncio.run(main())


def test_a_client_ranks_as_the_library_does() -> None:
    async def main() -> None:
        async with two() as (app, large, _):
            transport = httpx.ASGITransport(app)
            async with AsyncClient("http://server", transport=transport) as client:
                ranking = await client.rank("q", DOCUMENTS)
                assert ranking.indices == [3, 1, 4, 2, 0, 5]
                assert [hit.model for hit in ranking[:3]] == ["large", "large", "small"]
                assert [each async for each in client.rank_many([("q", DOCUMENTS)])] == [ranking]
                assert (await client.rank("q", DOCUMENTS, threshold=0.0)).indices == [3, 1]
                large.packs.clear()
                scores = await client.score_pairs([("q", text) for text in DOCUMENTS])
                assert [each.logit > 0 for each in scores] == [True] * 6
                assert sum(len(pack) for pack in large.packs) == 6

    asyncio.run(main())


def test_a_model_of_the_clients_process_thins_what_is_sent() -> None:
    async def main() -> None:
        large = fake(longest)
        small = Reranker.from_parts(ENCODER, fake(shortest))
        async with app_of(serve(large, "large")) as (app, _):
            large.packs.clear()
            options: dict[str, Any] = {"transport": httpx.ASGITransport(app), "model": "large"}
            async with AsyncClient("http://server", first=small, keep=2, **options) as client:
                ranking = await client.rank("q", DOCUMENTS)
                assert ranking.indices == [3, 1, 4, 2, 0, 5]
                assert [hit.model for hit in ranking[:3]] == ["large", "large", "fake"]
                assert sum(len(pack) for pack in large.packs) == 2
                assert [each async for each in client.rank_many([("q", DOCUMENTS)])] == [ranking]
                assert len(await client.rank("q", ["", "---"])) == 2
                large.packs.clear()
                await client.score_pairs([("q", text) for text in DOCUMENTS])
                assert sum(len(pack) for pack in large.packs) == 6
        # The server's own first model is not asked, too: the documents are thinned once.
        async with two() as (app, _, other):
            transport = httpx.ASGITransport(app)
            async with AsyncClient("http://server", first=small, keep=2, transport=transport) as client:
                assert (await client.rank("q", DOCUMENTS)).indices == [3, 1, 4, 2, 0, 5]
            assert not other.packs

    asyncio.run(main())


def test_the_server_says_what_comes_first() -> None:
    async def main() -> None:
        async with two() as (app, large, small):
            info = (await ask(app, "/info")).json
            assert (info["first"], info["keep"]) == ("small", 2)
            listed = (await ask(app, "/v1/models")).json["data"]
            assert [each["id"] for each in listed] == ["large", "small"]
            large.packs.clear()
            small.packs.clear()
            response = await ask(app, "/v1/rerank", {"query": "q", "documents": DOCUMENTS[:5]})
            computed = sum(len(pack.token_ids) for pack in [*large.packs, *small.packs])
            assert int(response.headers["x-compute-tokens"]) == computed
        async with app_of(fake()) as (app, _):
            info = (await ask(app, "/info")).json
            assert (info["first"], info["keep"]) == (None, None)

    asyncio.run(main())
