"""The public class: it joins the four steps."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossrank.arguments import check_integer
from crossrank.engines import MOST_THREADS, Device, Engine, Precision, load_engine
from crossrank.errors import EngineError, InputError
from crossrank.explain import DEFAULT_SENTENCES, Explanation, plan_explanation
from crossrank.inputs import Document, each, read_one_of, read_pairs, read_request
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, Source, resolve
from crossrank.packing import build_pack, plan_packs
from crossrank.pairs import EncodedPair, PairEncoder, Truncation
from crossrank.ranking import Ranking, ScoredPair, check_finite, check_options, rank, sigmoid

__all__ = ["Document", "Reranker"]

DEFAULT_MAX_LENGTH = 512

# Of a stream of queries: packs that are planned together; fewer where they take longer than so many seconds,
# as their rankings come together, too.
_WINDOW_PACKS, _WINDOW_SECONDS = 8, 4.0

# Pairs that are tokenised at once, or a window's, where that is more: what the tokenizer needs is in the
# processor's caches while it is at work, and beside a busy engine no longer.
_CHUNK_PAIRS = 256


class Reranker:
    """A cross-encoder that puts documents in the order in which they answer a query.

    Safe to use from many threads at once. A context manager, which closes it. A pickle of it holds its
    arguments alone: the model is loaded anew.

    Args:
        model: "crossrank-mini" (bundled), a hub name such as "BAAI/bge-reranker-v2-m3", or a
            folder with a checkpoint.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (fp16 on a GPU; on a CPU the first of int8, bf16 and fp32 that it has an
            instruction for), "fp32",
            "bf16", "int8" (CPU only) or "fp16" (GPU only).
        max_length: tokens of a pair, special tokens included; default 512, or the model's own
            limit where that is lower.
        batch_tokens: tokens that go through the model at once; None: what suits the engine.
        threads: CPU threads; None: CROSSRANK_NUM_THREADS, or the cores that the process may use.
        revision: a commit, branch or tag of a hub model.
        offline: never ask the network.
        source: where models come from: "hub" (Hugging Face, or HF_ENDPOINT) or "modelscope".
        truncation, query_share: what is cut of a pair that is too long; see ``PairEncoder``.
        progress: draw a progress bar on stderr while weights are fetched, and while they are packed.

    Raises:
        InputError: an option is out of range.
        ModelError: the model is not found, damaged, or not a cross-encoder.
        EngineError: no engine is installed, or the model does not fit into memory.
    """

    _engine: Engine | None
    _checkpoint: Checkpoint | None
    _arguments: dict[str, Any] | None

    def __init__(
        self,
        model: str | os.PathLike[str] = BUNDLED,
        *,
        device: Device = "auto",
        precision: Precision = "auto",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        threads: int | None = None,
        revision: str | None = None,
        offline: bool = False,
        source: Source = "hub",
        truncation: Truncation = "only_second",
        query_share: float = 0.5,
        progress: bool = False,
    ) -> None:
        for name, value, most in (
            ("batch_tokens", batch_tokens, math.inf),
            ("threads", threads, MOST_THREADS),
            ("max_length", max_length, math.inf),
        ):
            if value is not None:
                check_integer(name, value, 1, most)
        folder = resolve(model, revision=revision, offline=offline, source=source, progress=progress)
        # A folder of the cache is named by its commit, which says nothing to a user.
        checkpoint = Checkpoint(folder, name=Path(model).name)
        limit = checkpoint.max_length
        if max_length is None:
            max_length = min(DEFAULT_MAX_LENGTH, limit)
        elif max_length > limit:
            raise InputError(f"max_length is {max_length}; {checkpoint.name} reads at most {limit} tokens")
        encoder = PairEncoder(
            checkpoint.tokenizer_path,
            max_length=max_length,
            truncation=truncation,
            query_share=query_share,
            vocabulary=checkpoint.vocabulary,
        )
        engine = load_engine(
            checkpoint, device=device, precision=precision, threads=threads, progress=progress
        )
        self._join(encoder, engine, batch_tokens)
        self._checkpoint = checkpoint
        self._arguments = {
            "model": model,
            "device": device,
            "precision": precision,
            "max_length": max_length,
            "batch_tokens": batch_tokens,
            "threads": threads,
            "revision": revision,
            "offline": offline,
            "source": source,
            "truncation": truncation,
            "query_share": query_share,
            "progress": progress,
        }

    def __repr__(self) -> str:
        if self._engine is None:
            return f"<{type(self).__name__}: closed>"
        name = self._checkpoint.name if self._checkpoint else "from parts"
        engine = self._engine
        kinds = ", ".join(dict.fromkeys((engine.name, engine.device, engine.precision)))
        return f"<{type(self).__name__} {name}: {kinds}, {self.max_length} tokens>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the arguments: the model is loaded anew where it is read."""
        if self._arguments is None:
            raise TypeError(
                "a Reranker from parts cannot be pickled; make its parts where it is needed, and join them"
            )
        return partial(type(self), **self._arguments), ()

    def close(self) -> None:
        """Let go of the model and its memory, once no call is at work; later calls are errors."""
        self._engine = None

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_parts(cls, encoder: PairEncoder, engine: Engine, *, batch_tokens: int | None = None) -> Reranker:
        """Join an encoder and an engine of your own, ``crossrank.engines.fake.FakeEngine`` say."""
        self = cls.__new__(cls)
        self._join(encoder, engine, batch_tokens)
        return self

    def _join(self, encoder: PairEncoder, engine: Engine, batch_tokens: int | None) -> None:
        self._encoder = encoder
        self._engine = engine
        self._batch_tokens = batch_tokens or engine.batch_tokens
        self._checkpoint = None
        self._arguments = None

    @property
    def engine(self) -> Engine:
        """The engine that runs the model: its name, device and precision."""
        if self._engine is None:
            raise EngineError("the reranker is closed")
        return self._engine

    @property
    def encoder(self) -> PairEncoder:
        """What makes token ids of texts. With it and ``engine`` a server makes packs of its own."""
        return self._encoder

    @property
    def batch_tokens(self) -> int:
        """Tokens of the largest pack."""
        return self._batch_tokens

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What was loaded; None: joined ``from_parts``."""
        return self._checkpoint

    @property
    def max_length(self) -> int:
        """Tokens of a pair, special tokens included."""
        return self._encoder.max_length

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """Order documents by how well they answer the query, best first.

        Args:
            query: a question or search phrase.
            documents: strings, or mappings with a "text" field whose other fields come back
                with the hit.
            top_n: how many to return; None: all.
            threshold: leave out documents with a score below it.

        Raises:
            InputError: a document or an option is not as described.
            EngineError: the model failed.
        """
        check_options(top_n, threshold)
        request = _Request.read(query, documents)
        request.pairs = self._encoder.encode(query, request.texts)
        return next(_rankings([request], self._logits(request.pairs), top_n, threshold))

    def rank_many(
        self,
        requests: Iterable[tuple[str, Sequence[Document]]],
        *,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[Ranking]:
        """Rank the documents of many queries: a ranking for each, in their order, as they are ready.

        Pairs of several queries share packs, which is faster than ``rank`` for each where queries
        have few documents. Requests are drawn ahead of the rankings, in the caller's thread, while the
        engine works in another: what it scores in some seconds, and some tens of packs of
        ``batch_tokens`` at most, so that memory does not grow with their number.

        Args:
            requests: queries with their documents, as ``rank`` takes them.
            top_n, threshold: as ``rank``, for each query.

        Raises:
            InputError, EngineError: as ``rank``, when the rankings are drawn.
        """
        check_options(top_n, threshold)
        requests = each("requests", requests)
        calls = self.engine.calls
        working: deque[tuple[list[_Request], Future[npt.NDArray[np.float32]]]] = deque()
        rate = 0.0  # tokens a second, once it is known

        def scored(pairs: Sequence[EncodedPair]) -> npt.NDArray[np.float32]:
            nonlocal rate
            begun = time.perf_counter()
            logits = self._logits(pairs)
            rate = sum(len(pair.token_ids) for pair in pairs) / max(1e-9, time.perf_counter() - begun)
            return logits

        def most() -> float:
            tokens = max(self._batch_tokens, rate * _WINDOW_SECONDS)
            return min(tokens, _WINDOW_PACKS * self._batch_tokens)

        def oldest() -> Iterator[Ranking]:
            window, logits = working.popleft()
            return _rankings(window, logits.result(), top_n, threshold)

        engine = ThreadPoolExecutor(calls, "crossrank-engine")
        try:
            for window in self._windows(requests, most):
                pairs = [pair for request in window for pair in request.pairs]
                working.append((window, engine.submit(scored, pairs)))
                if len(working) > calls:
                    yield from oldest()
            while working:
                yield from oldest()
        finally:
            engine.shutdown(cancel_futures=True)

    def _windows(
        self, requests: Iterable[tuple[str, Sequence[Document]]], most: Callable[[], float]
    ) -> Iterator[list[_Request]]:
        """Encoded requests, as many at a time as have so many tokens."""
        window: list[_Request] = []
        tokens = of_last = 0
        read = (_Request(*read_one_of(*numbered)) for numbered in enumerate(requests))
        while chunk := _chunk(read, of_last):
            pairs = iter(self._encoder.encode_pairs([(r.query, text) for r in chunk for text in r.texts]))
            for request in chunk:
                request.pairs = [next(pairs) for _ in request.texts]
                window.append(request)
                tokens += 1 + sum(len(pair.token_ids) for pair in request.pairs)
                if tokens >= most():
                    yield window
                    of_last = sum(request.size for request in window)
                    window, tokens = [], 0
        if window:
            yield window

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Scores between 0 and 1 of (query, document) pairs: float32 (len(pairs),), input order.

        To order by, use ``logits``: float32 scores of very good pairs are all 1.
        """
        return sigmoid(self.logits(pairs)).astype(np.float32)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of (query, document) pairs: float32 (len(pairs),), input order.

        Raises:
            InputError: an item is not a pair of strings.
            NonFiniteLogitError: a logit is NaN or infinite.
            EngineError: the model failed.
        """
        logits = self._logits(self._encode(pairs))
        check_finite(logits)
        return logits

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[ScoredPair]:
        """All that is known of each (query, document) pair: input order.

        Raises:
            InputError, NonFiniteLogitError, EngineError: as ``logits``.
        """
        encoded = self._encode(pairs)
        logits = self._logits(encoded)
        check_finite(logits)
        rows = zip(sigmoid(logits), logits, encoded, strict=True)
        return [ScoredPair(float(score), float(logit), pair.truncated) for score, logit, pair in rows]

    def explain(
        self, query: str, document: Document, *, max_sentences: int = DEFAULT_SENTENCES
    ) -> Explanation:
        """What each sentence of a document does for its score.

        Each is scored alone, and the document is scored without it: two pairs a sentence go
        through the model. Where the document is cut to fit, only what was read can carry its score;
        what lies beyond is scored alone all the same.

        Args:
            query, document: as ``rank`` takes them.
            max_sentences: a longer document is explained up to this one.

        Raises:
            InputError: the document or ``max_sentences`` is not as described.
            NonFiniteLogitError, EngineError: as ``logits``.
        """
        (text,) = _Request.read(query, [document]).texts
        plan = plan_explanation(self._encoder, query, text, max_sentences=max_sentences)
        pairs = self._encoder.encode_pairs(list(plan.pairs))
        return plan.explain(self._logits(pairs), [pair.truncated for pair in pairs])

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> Sequence[EncodedPair]:
        return self._encoder.encode_pairs(read_pairs(pairs))

    def _logits(self, pairs: Sequence[EncodedPair]) -> npt.NDArray[np.float32]:
        logits, engine = np.empty(len(pairs), np.float32), self.engine
        for indices in plan_packs([len(pair.token_ids) for pair in pairs], self._batch_tokens):
            logits[indices] = engine.logits(build_pack([pairs[i] for i in indices]))
        return logits


@dataclass(slots=True)
class _Request:
    """A query and its documents on their way through."""

    query: str
    texts: list[str]
    fields: list[dict[str, Any]]
    pairs: list[EncodedPair] = field(default_factory=list)

    @classmethod
    def read(cls, query: str, documents: Sequence[Document]) -> _Request:
        return cls(query, *read_request(query, documents))

    @property
    def size(self) -> int:
        """Its characters."""
        return len(self.query) + sum(map(len, self.texts))

    def rank(
        self, logits: list[float], scores: list[float], top_n: int | None, threshold: float | None
    ) -> Ranking:
        return rank(
            self.query,
            self.texts,
            logits,
            scores,
            truncated=[pair.truncated for pair in self.pairs],
            fields=self.fields,
            top_n=top_n,
            threshold=threshold,
        )


def _chunk(requests: Iterator[_Request], characters: int) -> list[_Request]:
    """The next requests: as many as have ``_CHUNK_PAIRS`` pairs and so many characters; at the end, none."""
    chunk: list[_Request] = []
    pairs = 0
    for request in requests:
        chunk.append(request)
        pairs += max(1, len(request.texts))  # a query without documents takes room too
        characters -= request.size
        if pairs >= _CHUNK_PAIRS and characters <= 0:
            break
    return chunk


def _rankings(
    window: list[_Request], logits: npt.NDArray[np.float32], top_n: int | None, threshold: float | None
) -> Iterator[Ranking]:
    # Of all queries at once, and lists: most have few documents, with which numpy takes long to start.
    values, scores, start = logits.tolist(), sigmoid(logits).tolist(), 0
    for request in window:
        end = start + len(request.texts)
        yield request.rank(values[start:end], scores[start:end], top_n, threshold)
        start = end
