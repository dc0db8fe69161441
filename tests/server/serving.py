"""A registry over fake engines, for tests of what is around them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt

from crossrank.cascade import KEEP
from crossrank.engines.fake import FakeEngine
from crossrank.loading import LoadedModel
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import EncodedPair, PairEncoder
from crossrank.server.core.model import ModelSpec
from crossrank.server.core.registry import Options, Registry
from crossrank.server.core.work import Answer, Work

ENCODER = PairEncoder(resolve(BUNDLED) / "tokenizer.json", max_length=64)


def checksum(ids: npt.NDArray[np.int32]) -> float:
    """A logit that tells pairs apart."""
    return float((ids.astype(np.int64) * np.arange(1, len(ids) + 1)).sum() % 100_003)


def encode(pairs: Sequence[tuple[str, str]]) -> list[EncodedPair]:
    return ENCODER.encode([query for query, _ in pairs], [text for _, text in pairs])


def expected(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [checksum(pair.token_ids) for pair in encode(pairs)]


def tokens(pairs: Sequence[tuple[str, str]]) -> list[int]:
    return [len(pair.token_ids) for pair in encode(pairs)]


def pairs(count: int, name: str = "document") -> list[tuple[str, str]]:
    return [(f"query of {name}", f"{name} {i} " * (1 + i % 5)) for i in range(count)]


def fake(
    logit: Callable[[npt.NDArray[np.int32]], float] = checksum, batch_tokens: int = 100, **options: float
) -> FakeEngine:
    return FakeEngine(logit, batch_tokens, **options)  # type: ignore[arg-type]


def serve(engine: FakeEngine, name: str = "model") -> ModelSpec:
    return ModelSpec(name, lambda: LoadedModel(ENCODER, engine))


class Clock:
    """A clock that shows what it was told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def engine(self, tokens_per_second: float, batch_tokens: int = 100, **options: float) -> FakeEngine:
        """An engine that takes time by this clock, and none by any other."""

        def logit(ids: npt.NDArray[np.int32]) -> float:
            self.now += len(ids) / tokens_per_second
            return checksum(ids)

        return fake(logit, batch_tokens, **options)


@asynccontextmanager
async def registry(
    *models: ModelSpec | FakeEngine,
    clock: Callable[[], float] = time.monotonic,
    first: str | None = None,
    keep: float = KEEP,
    aliases: Mapping[str, str] = {},
    **options: object,
) -> AsyncIterator[Registry]:
    """A started registry; the packs of its engines are forgotten once it is warm."""
    engines = [model for model in models if isinstance(model, FakeEngine)]
    specs = [serve(model) if isinstance(model, FakeEngine) else model for model in models]
    wanted = Options(**options)  # type: ignore[arg-type]
    running = Registry(specs, wanted, clock=clock, first=first, keep=keep, aliases=aliases)
    await running.start()
    for engine in engines:
        engine.packs.clear()
    try:
        yield running
    finally:
        for engine in engines:
            engine.gate.set()
        await running.close()


async def until(happens: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something is true; it must become so."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.002)


def value(of: Registry, name: str, **labels: str) -> float:
    """A metric's value; 0 where it was never counted."""
    return of.metrics.registry.get_sample_value(name, labels) or 0.0


def asked(pairs: Sequence[tuple[str, str]], **options: object) -> Work:
    """A request to score pairs; where all have the same query, with that one alone."""
    queries, texts = [query for query, _ in pairs], [text for _, text in pairs]
    return Work(queries[:1] if len(set(queries)) == 1 else queries, texts, **options)  # type: ignore[arg-type]


def pairs_of(work: Work) -> list[tuple[str, str]]:
    return list(zip(itertools.cycle(work.queries), work.texts))


def begin(of: Registry, work: Work | Sequence[tuple[str, str]], **options: object) -> asyncio.Task[Answer]:
    """Score in a task of its own."""
    if not isinstance(work, Work):
        work = asked(work, **options)
    return asyncio.ensure_future(of.score(work))
