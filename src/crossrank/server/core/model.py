"""The models of a server: what each is, its engine and speed, and how many tokens its texts have."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Literal

from crossrank.engines import Engine
from crossrank.loading import LoadedModel
from crossrank.pairs import MAX_WINDOWS, WHOLE_WINDOW, Cut, EncodedPair, Long, PairEncoder
from crossrank.server.core.work import Work

__all__ = ["Model", "ModelInfo", "ModelSpec", "ServedModel"]

REMEMBERED_BYTES = 50_000
"""The half-life of the tokens per byte, in bytes of text: a hundred passages of 500 characters, which is one
usual request, count as much as all before it."""

FIRST_TOKENS, FIRST_BYTES = 1250.0, 5000.0
"""A token in four bytes, as in English, until texts were read. It weighs a tenth of ``REMEMBERED_BYTES``."""

PACKS_KEPT, SLICES_KEPT = 0.9, 0.95
"""What the measurements of a speed so far count after another: the last ten packs (of 10 ms), or twenty
slices of texts, count two thirds. One that was interrupted changes little, and other lengths are noticed
within a few requests."""

SAMPLE_TEXTS, SAMPLE_CHARACTERS = 8, 1000
"""What is tokenised of a request before it is refused as too large. It takes about 10 ms."""

SLICE_COST = 5000
"""What a slice costs beside its characters, in characters: about 5 ms at a million a second. Without it a few
tiny or empty texts would make the next request look as if it took days."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve.

    Attributes:
        name: what requests call it.
        load: at the start, on a reload, and after a failure of the engine.
            ``functools.partial(load_model, "BAAI/bge-reranker-v2-m3", device="cpu")``, say.
        source: the hub's name or the folder, for /info; "" : the name.
    """

    name: str
    load: Callable[[], LoadedModel]
    source: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What /info and /v1/models say of a model.

    Attributes:
        name: what requests call it.
        source: the hub's name or the folder.
        revision: a commit, where the hub gave one; else "".
        engine, device, precision: as ``Engine``; "" until it is loaded.
        max_length: tokens of a pair; 0 until it is loaded.
        batch_tokens: the largest pack, in tokens.
        state: "loading", "ready" or "failed" (its engine is being restarted).
        why: what is wrong, where it is not ready.
        id2label: of the model's config, where that has one.
        instruction: what it is told where a request does not say; None: it takes no instruction.
        long, max_windows: what becomes of a long document where a request does not say; see ``PairEncoder``.
        created: when it was loaded, in seconds since 1970.
        alias_of: the model that this is another name of; None: it is a model itself.
    """

    name: str
    source: str = ""
    revision: str = ""
    engine: str = ""
    device: str = ""
    precision: str = ""
    max_length: int = 0
    batch_tokens: int = 0
    state: Literal["loading", "ready", "failed"] = "loading"
    why: str = ""
    id2label: Mapping[str, str] = field(default_factory=lambda: {"0": "LABEL_0"})
    created: int = 0
    instruction: str | None = None
    long: Long = "cut"
    max_windows: int = MAX_WINDOWS
    alias_of: str | None = None


class Model:
    """One loading of a served model. A reload makes another one; a restart changes its engine.

    Attributes:
        name: its served name.
        created: when it was loaded, in seconds since 1970.
        loaded: what was loaded.
        engine: None while it is being restarted.
        encoder: stays, so that waiting pairs fit the engine that comes.
        identity: differs wherever logits may differ.
        max_tokens: of a pack; less once memory ran out.
        lanes, calls, shares_prefixes: of its engine.
        retired: a newer loading took its place; it only finishes its requests.
        why: what is wrong, while there is no engine.
        retry_after: seconds until the next try to restart.
    """

    def __init__(self, name: str, loaded: LoadedModel) -> None:
        self.name = name
        self.created = int(time.time())
        self.encoder: PairEncoder = loaded.encoder
        self.identity = _identity(loaded)
        self.retired = False
        self.retry_after = 1.0
        self._tokens = _Ratio(FIRST_TOKENS, FIRST_BYTES)
        self._engine_speed = _Ratio()
        self._reading_speed = _Ratio()
        self.attach(loaded)

    def attach(self, loaded: LoadedModel) -> None:
        """Use this engine from now on."""
        self.loaded = loaded
        self.engine: Engine | None = loaded.engine
        self.max_tokens = loaded.batch_tokens
        self.lanes = loaded.engine.lanes
        self.calls = max(1, loaded.engine.calls)
        self.shares_prefixes = loaded.engine.shares_prefixes
        # Of a prefix, what is not the query.
        self._prefix = self.encoder.encode("", [""])[0].prefix if self.shares_prefixes else 0
        self.why = ""

    def detach(self, why: str) -> None:
        """There is no engine until ``attach``."""
        self.engine = None
        self.why = why

    # --- speed ---

    def ran(self, tokens: int, seconds: float) -> None:
        """The engine took so long for a pack of so many tokens."""
        self._engine_speed.add(tokens, seconds, PACKS_KEPT)

    @property
    def rate(self) -> float:
        """Tokens per second of the engine, measured; 0: not yet."""
        return self._engine_speed.value

    def has_read(self, characters: int, seconds: float) -> None:
        """A thread took so long to tokenise a slice of so many characters."""
        self._reading_speed.add(characters + SLICE_COST, seconds, SLICES_KEPT)

    @property
    def reading_rate(self) -> float:
        """Characters per second of one thread, measured; 0: not yet."""
        return self._reading_speed.value

    def budget(self, pack_seconds: float) -> int:
        """Tokens of a pack: what takes ``pack_seconds``, but enough to keep the engine full."""
        least = self.engine.fill_tokens if self.engine else 1
        return max(1, min(self.max_tokens, max(least, int(self.rate * pack_seconds))))

    # --- tokens ---

    def told(self, work: Work) -> str | None:
        """A request's instruction; None: the model's default, or it takes none."""
        return self.encoder.taken(work.instruction)

    @property
    def tokens_per_byte(self) -> float:
        """Of its texts so far, for estimates."""
        return self._tokens.value

    def read(
        self,
        queries: Sequence[str],
        texts: Sequence[str],
        pairs: Sequence[EncodedPair],
        instruction: str | None = None,
    ) -> None:
        """Texts became pairs; they count by their length, and the last most."""
        tokens, size = self._count(queries, texts, pairs, _bytes(instruction or ""))
        self._tokens.add(tokens, size, 0.5 ** (size / REMEMBERED_BYTES))

    def estimate(self, work: Work, tokens_per_byte: float | None = None) -> list[int]:
        """About how many tokens are computed for each pair, before it is tokenised.

        Args:
            tokens_per_byte: of these texts; None: of those so far.
        """
        ratio = self.tokens_per_byte if tokens_per_byte is None else tokens_per_byte
        told = _bytes(self.told(work) or "")
        of_queries = [told + _bytes(query) for query in work.queries]
        estimates: list[int] = []
        seen: set[str] = set()
        for query, size, text in zip(cycle(work.queries), cycle(of_queries), work.texts):
            tokens = int(ratio * size)
            document = int(ratio * (size + _bytes(text))) - tokens
            pairs, estimate = self.encoder.expect(tokens, document, work.cut)
            if self._prefix:
                # Only the first pair of a query has its prefix computed.
                again = pairs if query in seen else pairs - 1
                estimate = max(1, estimate - again * (self._prefix + tokens))
                seen.add(query)
            estimates.append(estimate)
        return estimates

    def characters(self, queries: Sequence[str], texts: Sequence[str], cut: Cut = WHOLE_WINDOW) -> int:
        """How many are tokenised, more or less."""
        most = self.encoder.first_characters, self.encoder.most_characters(cut)
        return sum(
            min(of_one, len(text))
            for of_one, some in zip(most, (queries, texts), strict=True)
            for text in some
        )

    def sample(self, work: Work) -> float:
        """Tokens per byte of some of a request's own texts, which are tokenised for it."""
        step = -(-len(work.texts) // SAMPLE_TEXTS)
        some = work.queries if len(work.queries) == 1 else work.queries[::step]
        texts = [text[:SAMPLE_CHARACTERS] for text in work.texts[::step]]
        queries = [query[:SAMPLE_CHARACTERS] for query in some]
        try:
            pairs = self.encoder.encode(queries if len(queries) > 1 else queries[0], texts)
        except BaseException:  # noqa: BLE001 - a panic of the tokenizers library, which comes again
            return self.tokens_per_byte
        tokens, size = self._count(queries, texts, pairs)
        return tokens / size if size else self.tokens_per_byte

    def _count(
        self, queries: Sequence[str], texts: Sequence[str], pairs: Sequence[EncodedPair], told: int = 0
    ) -> tuple[int, int]:
        """Tokens of the texts of whole pairs, without special ones, and their bytes."""
        tokens = total = 0
        for size, pair in zip(_sizes(queries, texts, told), pairs, strict=True):
            if not (pair.truncated or pair.query_truncated or pair.window):
                tokens += len(pair.token_ids) - self.encoder.special_tokens
                total += size
        return tokens, total


class ServedModel:
    """A served model through all its loadings."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.current: Model | None = None
        self.reloading = asyncio.Lock()

    @property
    def why(self) -> str:
        """Why it cannot score; "": it can."""
        if self.current is None:
            return f"{self.spec.name} is loading"
        return self.current.why

    @property
    def ready(self) -> bool:
        return self.current is not None and self.current.engine is not None

    @property
    def rate(self) -> float:
        return self.current.rate if self.current else 0.0

    def info(self) -> ModelInfo:
        name, source, model = self.spec.name, self.spec.source or self.spec.name, self.current
        if model is None:
            return ModelInfo(name, source, why=self.why)
        engine, checkpoint = model.loaded.engine, model.loaded.checkpoint
        folder = checkpoint.folder if checkpoint else None
        labels = checkpoint.config.get("id2label") if checkpoint else None
        return ModelInfo(
            name,
            source,
            # The hub's cache names a folder by its commit: models--NAME/snapshots/COMMIT.
            revision=folder.name if folder and folder.parent.name == "snapshots" else "",
            engine=engine.name,
            device=engine.device,
            precision=engine.precision,
            max_length=model.encoder.max_length,
            batch_tokens=model.max_tokens,
            state="ready" if self.ready else "failed",
            why=model.why,
            id2label={str(key): str(value) for key, value in (labels or {"0": "LABEL_0"}).items()},
            created=model.created,
            instruction=model.encoder.instruction,
            long=model.encoder.long,
            max_windows=model.encoder.max_windows,
        )


class _Ratio:
    """A ratio of two sums in which older measurements count less."""

    __slots__ = ("_above", "_below")

    def __init__(self, above: float = 0.0, below: float = 0.0) -> None:
        self._above, self._below = above, below

    def add(self, above: float, below: float, kept: float) -> None:
        """Another measurement; those before count ``kept`` times what they did."""
        self._above = kept * self._above + above
        self._below = kept * self._below + below

    @property
    def value(self) -> float:
        """0 before the first measurement."""
        return self._above / self._below if self._below else 0.0


def _sizes(queries: Sequence[str], texts: Sequence[str], told: int = 0) -> Iterator[int]:
    """Bytes of each pair's texts in UTF-8: in most languages a token has about as many of them.

    Args:
        told: those of the instruction.
    """
    of_queries = [told + _bytes(query) for query in queries]
    for of_query, text in zip(cycle(of_queries), texts):
        yield of_query + _bytes(text)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _identity(loaded: LoadedModel) -> str:
    """All that a logit depends on beside the texts and the request."""
    checkpoint, engine, encoder = loaded.checkpoint, loaded.engine, loaded.encoder
    if checkpoint is None:  # parts of the user's own: nobody else knows what is in them
        return uuid.uuid4().hex
    tokenizer = checkpoint.tokenizer_path.stat()
    return (
        f"{checkpoint.fingerprint()} {tokenizer.st_size} {tokenizer.st_mtime_ns} {engine.name} "
        f"{engine.device} {engine.precision} {encoder.max_length} {encoder.truncation} {encoder.query_share} "
        f"{encoder.instruction!r}"
    )
