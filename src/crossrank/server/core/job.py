"""One request on its way: what is known of its pairs, and who waits for it."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crossrank.engines import Engine
from crossrank.errors import NonFiniteLogitError
from crossrank.pairs import Cut, EncodedPair, EncodedQuery, PairEncoder
from crossrank.reranker import Reranker
from crossrank.server.core.fair import Flow
from crossrank.server.core.work import Answer, Work

__all__ = ["Job", "LoadedModel", "WaitingPair"]

_REMEMBERED_BYTES = 50_000
"""Texts of so many bytes, and what was read before counts half."""
_LOOK_PAIRS, _LOOK_CHARACTERS = 8, 1000
"""Of a request's own texts that are tokenised before it is refused for their sake."""

_SLICE_CHARACTERS = 5000
"""What a slice costs beside its characters, in characters: about 5 ms at a million a second. Without it a
few tiny or empty texts would make the next request look as if it took days."""


class LoadedModel:
    """One loading of a served model. A reload makes another one; a restart changes its engine.

    Attributes:
        name: its served name.
        created: when it was loaded, in seconds since 1970.
        reranker: what was loaded.
        engine: None while it is being restarted.
        encoder: stays, so that waiting pairs fit the engine that comes.
        identity: differs wherever logits may differ.
        most: tokens of its largest pack; less once memory ran out.
        lanes, calls: of its engine.
        tokens_per_byte: of its texts so far, for estimates.
        retired: a newer loading took its place; it only finishes its requests.
        why: what is wrong, while there is no engine.
        retry_after: seconds until the next try to restart.
    """

    def __init__(self, name: str, reranker: Reranker) -> None:
        self.name = name
        self.created = int(time.time())
        self.encoder: PairEncoder = reranker.encoder
        self.identity = _identity(reranker)
        self._read_tokens, self._read_bytes = 1250.0, 5000.0  # until texts were read: a token in four bytes
        self.retired = False
        self.why = ""
        self.retry_after = 1.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._characters = 0.0
        self._reading_seconds = 0.0
        self.attach(reranker)

    def attach(self, reranker: Reranker) -> None:
        """Use this reranker's engine from now on."""
        self.reranker = reranker
        self.engine: Engine | None = reranker.engine
        self.most = reranker.batch_tokens
        self.lanes = reranker.engine.lanes
        self.calls = max(1, reranker.engine.calls)
        self.why = ""

    def detach(self, why: str) -> None:
        """There is no engine until ``attach``."""
        self.engine = None
        self.why = why

    def ran(self, tokens: int, seconds: float) -> None:
        """So many tokens took the engine so long; the last packs count most."""
        self._tokens = 0.9 * self._tokens + tokens
        self._seconds = 0.9 * self._seconds + seconds

    @property
    def rate(self) -> float:
        """Tokens per second, measured; 0: not yet."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def has_read(self, characters: int, seconds: float) -> None:
        """So many characters took a thread so long to tokenise; the last slices count most."""
        self._characters = 0.95 * self._characters + characters + _SLICE_CHARACTERS
        self._reading_seconds = 0.95 * self._reading_seconds + seconds

    @property
    def reading_rate(self) -> float:
        """Characters per second of one thread, measured; 0: not yet."""
        return self._characters / self._reading_seconds if self._reading_seconds else 0.0

    def budget(self, pack_seconds: float) -> int:
        """Tokens of a pack: what takes ``pack_seconds``, but enough to keep the engine full."""
        engine = self.engine
        least = engine.fill_tokens if engine is not None else 1
        return max(1, min(self.most, max(least, int(self.rate * pack_seconds))))

    @property
    def tokens_per_byte(self) -> float:
        return self._read_tokens / self._read_bytes

    def read(self, pairs: Sequence[tuple[str, str]], encoded: Sequence[EncodedPair]) -> None:
        """Pairs became tokens; texts count by their length, and the last most."""
        found = _count(self.encoder, pairs, encoded)
        if found is not None:
            kept = 0.5 ** (found[1] / _REMEMBERED_BYTES)
            self._read_tokens = kept * self._read_tokens + found[0]
            self._read_bytes = kept * self._read_bytes + found[1]

    def estimate(self, work: Work, tokens_per_byte: float | None = None) -> list[int]:
        """About how many tokens each pair will have, before it is tokenised.

        Args:
            tokens_per_byte: of these texts; None: of those so far.
        """
        most = min(self.encoder.max_length, work.max_tokens_per_pair or self.encoder.max_length)
        ratio = self.tokens_per_byte if tokens_per_byte is None else tokens_per_byte
        special = self.encoder.special_tokens
        return [min(most, special + int(ratio * size)) for size in _sizes(work.pairs)]

    def characters(self, pairs: Iterable[tuple[str, str]]) -> int:
        """How many are tokenised, more or less; of the same query once."""
        most, total, before = self.encoder.first_characters, 0, None
        for query, document in pairs:
            total += min(most, len(document)) + (0 if query is before else min(most, len(query)))
            before = query
        return total

    def look(self, work: Work) -> float:
        """Tokens per byte of some of a request's own texts, which are tokenised for it."""
        step = -(-len(work.pairs) // _LOOK_PAIRS)
        pairs = [(query[:_LOOK_CHARACTERS], text[:_LOOK_CHARACTERS]) for query, text in work.pairs[::step]]
        try:
            encoded = self.encoder.encode([query for query, _ in pairs], [text for _, text in pairs])
            found = _count(self.encoder, pairs, encoded)
        except BaseException:  # noqa: BLE001 - a panic of the tokenizers library, which comes again
            found = None
        return self.tokens_per_byte if found is None else found[0] / found[1]


def _count(
    encoder: PairEncoder, pairs: Sequence[tuple[str, str]], encoded: Sequence[EncodedPair]
) -> tuple[int, int] | None:
    """Tokens of the texts of whole pairs, without special ones, and their bytes; None: they have none."""
    zipped = zip(pairs, encoded, strict=True)
    whole = [(pair, len(ids.token_ids)) for pair, ids in zipped if not ids.truncated]
    tokens = sum(count - encoder.special_tokens for _, count in whole)
    size = sum(_sizes([pair for pair, _ in whole]))
    return (tokens, size) if size else None


def _sizes(pairs: Iterable[tuple[str, str]]) -> Iterator[int]:
    """Bytes of each pair's texts in UTF-8: in most languages a token has about as many of them."""
    query, of_query = "", 0
    for asked, document in pairs:
        if asked is not query:  # the same query is counted once
            query, of_query = asked, _bytes(asked)
        yield of_query + _bytes(document)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


@dataclass(slots=True, eq=False)
class WaitingPair:
    """A pair in the queue: whose it is, its place there, and its ids."""

    job: Job
    index: int
    pair: EncodedPair

    @property
    def tokens(self) -> int:
        return len(self.pair.token_ids)


@dataclass(slots=True, eq=False)
class Job:
    """A request that was accepted. What changes is changed under the scheduler's lock.

    Attributes:
        work, model, future: what is asked, who answers, and who waits.
        cut: what of the pairs is cut.
        reserved: tokens that it still takes of the queue: real ones, and estimates for pairs that
            are not tokenised.
        estimates: tokens of each pair, before it is tokenised.
        unread: characters that are not tokenised.
        quantum: a request with no more tokens is small; see ``Flow``.
        large: it is not.
        next: the first pair that is not tokenised.
        queries: the query that was tokenised last, encoded, as most requests have one query.
        remaining: pairs without a logit.
        ended: an answer or an error is on its way; what still comes for it is dropped.
    """

    work: Work
    model: LoadedModel
    future: asyncio.Future[Answer]
    cut: Cut
    estimates: list[int]
    unread: int
    quantum: int
    flow: Flow[WaitingPair] = field(init=False)
    logits: npt.NDArray[np.float32] = field(init=False)
    truncated: list[bool] = field(init=False)
    tokens: list[int] = field(init=False)
    keys: list[bytes] = field(default_factory=list)
    reserved: int = field(init=False)
    large: bool = field(init=False)
    remaining: int = field(init=False)
    next: int = 0
    queries: dict[str, EncodedQuery] = field(default_factory=dict)
    cached: int = 0
    ended: bool = False
    begun: float = field(default_factory=time.monotonic)
    tokenization_s: float = 0.0
    inference_s: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.work.pairs)
        self.logits = np.full(count, np.nan, np.float32)
        self.truncated = [False] * count
        self.tokens = [0] * count
        self.reserved = sum(self.estimates)
        self.large = self.reserved > self.quantum
        self.flow = Flow(self.model, self.work.priority, small=not self.large, client=self.work.client)
        self.remaining = count

    def expect(self, index: int, tokens: int, truncated: bool) -> None:
        """A pair is tokenised."""
        self.tokens[index] = tokens
        self.truncated[index] = truncated

    def take(self, index: int, logit: float) -> None:
        """A pair has its logit.

        Raises:
            NonFiniteLogitError: it is NaN or infinite.
        """
        if not math.isfinite(logit):
            raise NonFiniteLogitError(index, logit)
        self.logits[index] = logit
        self.remaining -= 1

    def answer(self) -> Answer:
        """What the waiting task gets."""
        elapsed = time.monotonic() - self.begun
        return Answer(
            model=self.model.name,
            logits=self.logits,
            truncated=self.truncated,
            tokens=self.tokens,
            cached=self.cached,
            tokenization_s=self.tokenization_s,
            queue_s=max(0.0, elapsed - self.tokenization_s - self.inference_s),
            inference_s=self.inference_s,
        )


def _identity(reranker: Reranker) -> str:
    """All that a logit depends on beside the texts and the request."""
    checkpoint, engine, encoder = reranker.checkpoint, reranker.engine, reranker.encoder
    if checkpoint is None:  # parts of the user's own: nobody else knows what is in them
        return uuid.uuid4().hex
    tokenizer = checkpoint.tokenizer_path.stat()
    return (
        f"{checkpoint.fingerprint()} {tokenizer.st_size} {tokenizer.st_mtime_ns} {engine.name} "
        f"{engine.device} {engine.precision} {encoder.max_length} {encoder.truncation} {encoder.query_share}"
    )
