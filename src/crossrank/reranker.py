"""The public class: it joins the four steps."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from crossrank._ahead import map_ahead
from crossrank.cascade import KEEP, SHARED, check_keep, choose, joined
from crossrank.engines import Device, Engine, Precision
from crossrank.errors import EngineError, InputError, NonFiniteLogitError
from crossrank.explain import DEFAULT_SENTENCES, Explanation, plan_explanation
from crossrank.inputs import (
    Asked,
    Document,
    Request,
    check_instruction,
    check_integer,
    distinct,
    each,
    read_one_of,
    read_pairs,
)
from crossrank.loading import LoadedModel, load_model
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, Source
from crossrank.pairs import MAX_WINDOWS, EncodedPair, EncodedQuery, Long, PairEncoder, Truncation
from crossrank.ranking import Ranking, Scored, ScoredPair, best_pairs, check_options

__all__ = ["Document", "Reranker"]

_WINDOW_PACKS, _WINDOW_SECONDS = 8, 4.0
"""Packs that are planned together for a stream of queries; fewer where they would take longer than
``_WINDOW_SECONDS``, as the rankings of a window come together."""

_CHUNK_PAIRS = 256
"""Pairs that are tokenised at once; more where a window has more. While the tokenizer works, its tables are
in the processor's caches; a busy engine evicts them."""


class Reranker:
    """A cross-encoder that puts documents in the order in which they answer a query.

    Safe to use from several threads at once. A context manager, which closes it. A pickle holds only the
    arguments, and loads the model again where it is read.

    Args:
        model: "crossrank-mini" (bundled), a hub name such as "BAAI/bge-reranker-v2-m3", or a
            folder with a checkpoint.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        precision: "auto" (fp16 on a GPU, or bf16 for a language model; on a CPU int8, or fp32 if it has
            neither AVX2 nor Arm's dot products), "fp32", "bf16", "int8" (CPU only) or "fp16" (GPU only).
        max_length: tokens of a pair, special tokens or prompt included; default 512, or what a language
            model's authors use, or the model's own limit where that is lower.
        batch_tokens: tokens that go through the model at once; None: what suits the engine.
        threads: CPU threads; None: CROSSRANK_NUM_THREADS, or the cores that the process may use.
        revision: a commit, branch or tag of a hub model.
        offline: never ask the network.
        source: where models come from: "hub" (Hugging Face, or HF_ENDPOINT) or "modelscope".
        truncation: where a pair that is too long is cut: "only_second" or "longest_first".
        query_share: with "only_second", the largest share of the window for the query.
        long: what becomes of a document that does not fit: "cut", or "windows": it is read in windows, and
            has the score of the best one.
        max_windows: of a document; of more, the first one and those with the query's words are read.
        instruction: what the model is told to look for, where a call does not say; None: the model's own.
        progress: draw a progress bar on stderr while weights are fetched, and while they are prepared.
        first: a smaller model that thins the candidates of ``rank`` and ``rank_many``: a name or folder,
            which is loaded with the same device, threads, source, offline and progress, or a ``Reranker``.
            The documents that ``model`` reads come first, by its scores; the others follow in the order, and
            with the scores, of the smaller one. The scores of the two cannot be compared.
        keep: how many texts of a request ``model`` reads after ``first``: a number, or a share above 0 and
            below 1.

    Raises:
        InputError: an option is out of range, or the model takes no instruction.
        ModelError: the model is not found, damaged, or not a cross-encoder.
        EngineError: no engine is installed, or the model does not fit into memory.
    """

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
        long: Long = "cut",
        max_windows: int = MAX_WINDOWS,
        instruction: str | None = None,
        progress: bool = False,
        first: str | os.PathLike[str] | Reranker | None = None,
        keep: float = KEEP,
    ) -> None:
        check_keep(keep)
        options: dict[str, Any] = {
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
            "long": long,
            "max_windows": max_windows,
            "instruction": instruction,
            "progress": progress,
        }
        again = partial(type(self), model, **options, first=first, keep=keep)
        self._again: Callable[[], Reranker] | None = again
        self._keep = keep
        if first is not None and not isinstance(first, Reranker):
            first = Reranker(first, **{name: options[name] for name in SHARED})
        self._first = checked_first(first)
        self._model: LoadedModel | None = load_model(model, **options)

    @classmethod
    def from_parts(
        cls,
        encoder: PairEncoder,
        engine: Engine,
        *,
        batch_tokens: int | None = None,
        first: Reranker | None = None,
        keep: float = KEEP,
    ) -> Reranker:
        """Join an encoder and an engine of your own, such as ``crossrank.engines.fake.FakeEngine``.

        Args:
            encoder: what makes token ids of texts.
            engine: what runs the model.
            batch_tokens: as ``Reranker``.
            first: as ``Reranker``, but not a name.
            keep: as ``Reranker``.
        """
        check_keep(keep)
        self = cls.__new__(cls)
        self._model = LoadedModel(encoder, engine, batch_tokens=batch_tokens or 0)
        self._again = None
        self._first, self._keep = checked_first(first), keep
        return self

    def __repr__(self) -> str:
        if self._model is None:
            return f"<{type(self).__name__}: closed>"
        engine, checkpoint = self.model.engine, self.model.checkpoint
        name = checkpoint.name if checkpoint else "from parts"
        kinds = ", ".join(dict.fromkeys((engine.name, engine.device, engine.precision)))
        after = "" if self._first is None else f", {self._keep} of {self._first.model.name}"
        return f"<{type(self).__name__} {name}: {kinds}, {self.max_length} tokens{after}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the arguments; the model is loaded again where it is read."""
        if self._again is None:
            raise TypeError(
                "a Reranker from parts cannot be pickled; make its parts where it is needed, and join them"
            )
        return self._again, ()

    def close(self) -> None:
        """Release the model and its memory, once no call is running; later calls are errors."""
        self._model = self._first = None

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> LoadedModel:
        """The model: its encoder, its engine and its checkpoint.

        Raises:
            EngineError: the reranker is closed.
        """
        if self._model is None:
            raise EngineError("the reranker is closed")
        return self._model

    @property
    def engine(self) -> Engine:
        """The engine that runs the model: its name, device and precision."""
        return self.model.engine

    @property
    def encoder(self) -> PairEncoder:
        """What makes token ids of texts."""
        return self.model.encoder

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What was loaded; None: joined ``from_parts``."""
        return self.model.checkpoint

    @property
    def max_length(self) -> int:
        """Tokens of a pair, special tokens included."""
        return self.model.encoder.max_length

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Ranking:
        """Order documents by how well they answer the query, best first.

        Args:
            query: a question or search phrase.
            documents: strings, or mappings with a "text" field whose other fields come back
                with the hit.
            instruction: what the model is told to look for, such as "Given a question, find the page of
                the manual that answers it"; None: this reranker's default. Some models take none.
            top_n: how many to return; None: all.
            threshold: leave out documents with a score below it.

        Raises:
            InputError: a document or an option is not as described, or the model takes no instruction.
            EngineError: the model failed.
        """
        check_options(top_n, threshold)
        request = Request.read(query, documents, instruction)
        return self._score_request(request).rank(request, top_n=top_n, threshold=threshold)

    def rank_many(
        self,
        requests: Iterable[Asked],
        *,
        instruction: str | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[Ranking]:
        """Rank the documents of many queries: a ranking for each, in their order, as they are ready.

        Pairs of several queries share packs, which is faster than ``rank`` for each where queries
        have few documents. Requests are drawn ahead of the rankings, in the caller's thread, while the
        engine works in another: what it scores in some seconds, and some tens of packs of
        ``batch_tokens`` at most, so that memory does not grow with their number.

        Args:
            requests: queries with their documents, as ``rank`` takes them: (query, documents), or
                (query, documents, instruction) where a query has an instruction of its own.
            instruction: as ``rank``, of the queries without one of their own.
            top_n: as ``rank``, for each query.
            threshold: as ``rank``, for each query.

        Raises:
            InputError, EngineError: as ``rank``, when the rankings are drawn.
        """
        check_options(top_n, threshold)
        reader = self._first or self
        pace = _Pace(reader.model.batch_tokens)

        def score(window: _Window) -> list[_Found]:
            begun = time.perf_counter()
            found = self._score_window(window)
            pace.note(window.tokens, time.perf_counter() - begun)
            return found

        read = (
            self._read_one_of(index, request, instruction)
            for index, request in enumerate(each("requests", requests))
        )
        # Two engines at a time would have more threads than there are cores.
        calls = self.engine.calls if self._first is None else 1
        for window, found in map_ahead(
            score, reader._windows(read, pace), threads=calls, ahead=calls + 1, name="crossrank-engine"
        ):
            for request, scored in zip(window.requests, found, strict=True):
                if isinstance(scored, NonFiniteLogitError):
                    raise scored
                yield scored.rank(request, top_n=top_n, threshold=threshold)

    def _read_one_of(self, index: int, request: object, instruction: str | None) -> Request:
        read = read_one_of(index, request, instruction)
        if read.instruction is not None and self.encoder.instruction is None:
            raise InputError(f"request {index}: the model takes no instruction; leave it out")
        return read

    def _windows(self, requests: Iterator[Request], pace: _Pace) -> Iterator[_Window]:
        """Encoded requests, as many at a time as are scored together."""
        window, size = _Window(), 0
        shared = self.engine.shares_prefixes
        while chunk := _chunk(requests, size):
            for encoded in self._encode(chunk):
                window.add(*encoded, shared=shared)
                if window.tokens >= pace.tokens:
                    yield window
                    size = sum(map(_characters, window.requests))
                    window = _Window()
        if window.requests:
            yield window

    def _encode(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[Request, list[EncodedPair], list[range]]]:
        """Each request, its pairs without equal ones, and where among them those of its texts are."""
        encoder = self.model.encoder
        queries = encoder.queries(
            [request.query for request in requests],
            instruction=[encoder.taken(request.instruction) for request in requests],
        )
        read = [distinct(None, request.texts) for request in requests]
        asked = [query for query, (firsts, _) in zip(queries, read, strict=True) for _ in firsts]
        texts = [
            request.texts[i] for request, (firsts, _) in zip(requests, read, strict=True) for i in firsts
        ]
        found = iter(encoder.join_windows(asked, texts))
        for request, (firsts, places) in zip(requests, read, strict=True):
            yield request, *_in_line(list(itertools.islice(found, len(firsts))), places)

    def _score_window(self, window: _Window) -> list[_Found]:
        """Score requests that the first model has encoded, where there is one, or else this one."""
        if self._first is None:
            return window.scored(self.model)
        thin = window.scored(self._first.model)
        chosen = [
            choose(scored, request.texts, self._keep) if isinstance(scored, Scored) else []
            for request, scored in zip(window.requests, thin, strict=True)
        ]
        again = _Window()
        for encoded in self._encode(list(map(_only, window.requests, chosen))):
            again.add(*encoded)
        return list(map(self._join, thin, chosen, again.scored(self.model)))

    def _score_request(self, request: Request) -> Scored:
        """Score the documents of a request: with the first model, where there is one, and this one."""
        if self._first is None:
            return self._score(request.query, request.texts, request.instruction)
        if request.instruction is not None and self.encoder.instruction is None:
            raise InputError("the model takes no instruction: leave it out")
        window = _Window()
        for encoded in self._first._encode([request]):
            window.add(*encoded)
        (found,) = self._score_window(window)
        if isinstance(found, NonFiniteLogitError):
            raise found
        return found

    def _join(self, thin: _Found, chosen: Sequence[int], found: _Found) -> _Found:
        """What the first model says of a request, and this one of the chosen texts."""
        if isinstance(thin, NonFiniteLogitError):
            return thin
        if isinstance(found, NonFiniteLogitError):
            return NonFiniteLogitError(chosen[found.pair], found.logit)
        assert self._first is not None
        return joined(thin, chosen, found, (self._first.model.name, self.model.name))

    def score(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Scores between 0 and 1 of (query, document) pairs: float32 (len(pairs),), input order.

        To order by, use ``logits``: float32 scores of very good pairs are all 1.

        Args:
            pairs: the pairs.
            instruction: as ``rank``, of all pairs.

        Raises:
            InputError, NonFiniteLogitError, EngineError: as ``logits``.
        """
        return self._score(*read_pairs(pairs), instruction).scores.astype(np.float32)

    def logits(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Logits of (query, document) pairs: float32 (len(pairs),), input order.

        Args:
            pairs: the pairs.
            instruction: as ``rank``, of all pairs.

        Raises:
            InputError: an item is not a pair of strings, or the model takes no instruction.
            NonFiniteLogitError: a logit is NaN or infinite.
            EngineError: the model failed.
        """
        return self._score(*read_pairs(pairs), instruction).logits

    def score_pairs(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str | None = None
    ) -> list[ScoredPair]:
        """All that is known of each (query, document) pair: input order.

        Args:
            pairs: the pairs.
            instruction: as ``rank``, of all pairs.

        Raises:
            InputError, NonFiniteLogitError, EngineError: as ``logits``.
        """
        return self._score(*read_pairs(pairs), instruction).pairs()

    def explain(
        self,
        query: str,
        document: Document,
        *,
        instruction: str | None = None,
        max_sentences: int = DEFAULT_SENTENCES,
        window: tuple[int, int] | None = None,
    ) -> Explanation:
        """What each sentence of a document does for its score.

        Each is scored alone, and the document is scored without it: two pairs a sentence go
        through the model. Where the document is cut to fit, only what was read can carry its score;
        what lies beyond is scored alone all the same. Where it is read in windows, the best one is
        explained, and what comes after it.

        Args:
            query: what was asked.
            document: as ``rank`` takes one.
            instruction: as ``rank``.
            max_sentences: a longer document is explained up to this one.
            window: which characters the score is of, as the hit of a ranking has it; None: where the
                document is read in windows, they are scored to find out.

        Raises:
            InputError: an argument is not as described, or the model takes no instruction.
            NonFiniteLogitError, EngineError: as ``logits``.
        """
        (text,) = Request.read(query, [document], instruction).texts
        check_integer("max_sentences", max_sentences)  # before anything is scored
        if window is None and self.encoder.long == "windows":
            (window,) = self._score(query, [text], instruction).windows
        plan = plan_explanation(
            self.encoder, query, text, instruction=instruction, max_sentences=max_sentences, window=window
        )
        return plan.explain(self._score(query, plan.texts, instruction))

    def _score(self, queries: str | Sequence[str], texts: Sequence[str], instruction: str | None) -> Scored:
        """Score texts for one query, or for one each. Equal pairs are scored once."""
        check_instruction(instruction)
        encoder = self.model.encoder
        asked: EncodedQuery | list[EncodedQuery]
        if isinstance(queries, str):
            firsts, places = distinct(None, texts)
            asked = encoder.query(queries, instruction=instruction)
        else:
            firsts, places = distinct(queries, texts)
            asked = encoder.queries([queries[i] for i in firsts], instruction=instruction)
        pairs, ranges = _in_line(encoder.join_windows(asked, [texts[i] for i in firsts]), places)
        return _scored(self.model.logits(pairs), pairs, ranges)


def _in_line(
    found: Sequence[Sequence[EncodedPair]], places: Sequence[int]
) -> tuple[list[EncodedPair], list[range]]:
    """The pairs of all windows of all texts, and where those of the texts at these places are."""
    ends = list(itertools.accumulate(map(len, found), initial=0))
    return [pair for each in found for pair in each], [range(ends[i], ends[i + 1]) for i in places]


def _scored(logits: npt.NDArray[np.float32], pairs: Sequence[EncodedPair], places: Sequence[range]) -> Scored:
    """What is known of documents whose pairs are at these places."""
    best = best_pairs(logits, places)
    return Scored(
        logits[best],
        [pairs[i].truncated for i in best],
        [pairs[i].query_truncated for i in best],
        windows=[pairs[i].window for i in best],
    )


def _only(request: Request, chosen: Sequence[int]) -> Request:
    """A request with the chosen texts alone."""
    return replace(request, texts=[request.texts[i] for i in chosen], fields=())


def checked_first(first: object) -> Reranker | None:
    """The model that comes first, where there is one.

    Raises:
        InputError: it is no Reranker, or has a first model of its own.
    """
    if first is None:
        return None
    if not isinstance(first, Reranker):
        raise InputError(f"first is {first!r}; it must be a model's name, a folder or a Reranker")
    if first._first is not None:
        raise InputError("first has a first model of its own; two models can follow each other, not three")
    return first


_Found: TypeAlias = Scored | NonFiniteLogitError
"""What is known of a request; an error is raised when its turn comes."""


def _found(logits: npt.NDArray[np.float32], pairs: Sequence[EncodedPair], places: Sequence[range]) -> _Found:
    try:
        return _scored(logits, pairs, places)
    except NonFiniteLogitError as error:
        return error


@dataclass(slots=True)
class _Window:
    """Requests of a stream that are scored together.

    Attributes:
        requests: themselves.
        pairs: of all of them, with equal texts of a request once.
        places: for each request, where in ``pairs`` those of its texts are.
        tokens: that are computed.
    """

    requests: list[Request] = field(default_factory=list)
    pairs: list[EncodedPair] = field(default_factory=list)
    places: list[list[range]] = field(default_factory=list)
    tokens: int = 0

    def add(
        self, request: Request, pairs: Sequence[EncodedPair], places: Sequence[range], *, shared: bool = False
    ) -> None:
        """Add a request.

        Args:
            pairs: its pairs, without equal ones.
            places: where in ``pairs`` those of its texts are.
            shared: the prefix of its pairs is computed once.
        """
        self.requests.append(request)
        before = len(self.pairs)
        self.places.append([range(before + place.start, before + place.stop) for place in places])
        self.pairs += pairs
        again = max(0, len(pairs) - 1) * pairs[0].prefix if shared and pairs else 0
        # A query without documents takes room, too.
        self.tokens += 1 + sum(pair.tokens for pair in pairs) - again

    def scored(self, model: LoadedModel) -> list[_Found]:
        """What a model says of each request."""
        logits = model.logits(self.pairs)
        return [_found(logits, self.pairs, places) for places in self.places]


class _Pace:
    """How many tokens of a stream are scored together: some packs, or fewer that take some seconds."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._rate = 0.0  # tokens per second of the last window; 0: there was none

    def note(self, tokens: int, seconds: float) -> None:
        """The engine scored a window."""
        self._rate = tokens / max(1e-9, seconds)

    @property
    def tokens(self) -> float:
        tokens = max(self._batch_tokens, self._rate * _WINDOW_SECONDS)
        return min(tokens, _WINDOW_PACKS * self._batch_tokens)


def _chunk(requests: Iterator[Request], characters: int) -> list[Request]:
    """The next requests, until they have ``_CHUNK_PAIRS`` pairs and so many characters; at the end, none."""
    chunk: list[Request] = []
    pairs = 0
    for request in requests:
        chunk.append(request)
        pairs += max(1, len(request.texts))  # a query without documents takes room, too
        characters -= _characters(request)
        if pairs >= _CHUNK_PAIRS and characters <= 0:
            break
    return chunk


def _characters(request: Request) -> int:
    return len(request.query) + sum(map(len, request.texts))
