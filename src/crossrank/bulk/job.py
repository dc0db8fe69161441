"""The bulk job: rerank a file of any size, in little memory, and go on after a kill.

The input is read one query at a time, ``Reranker.rank_many`` packs pairs of many queries together,
and the output (data/output.py) is the checkpoint.
"""

from __future__ import annotations

import gc
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TypeAlias

from crossrank.bulk.output import Output, written
from crossrank.bulk.store import DocumentStore
from crossrank.data.collection import load_collection
from crossrank.data.lines import STDIN, Advance
from crossrank.data.rows import Document, Row, Shard, read_rows
from crossrank.data.trec import kind_of, read_run_queries
from crossrank.errors import EngineError, InputError, NonFiniteLogitError
from crossrank.ranking import RankedDocument, Ranking
from crossrank.reranker import Reranker

__all__ = ["Answer", "Answers", "Counts", "Source", "answers", "answers_as_they_come", "check", "run"]

_ROWS_AHEAD = 256  # that are read while others are answered

_OBJECTS = 50_000  # new ones, after which cycles are looked for: some windows of ``rank_many``

Answer: TypeAlias = tuple[int, dict[str, Any]]
"""How many pairs a row had, and what is written of it."""

Answers: TypeAlias = Callable[[Iterator[Row], int], Iterator[Answer]]
"""Rows, and how many went before them, to answers in their order: ``answers``, or a cluster's (ray.py)."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be reranked.

    Attributes:
        path: rows or pairs (data/rows.py), or a TREC run. "-": JSON Lines on standard input.
        data: the collection that has a run's texts; see ``load_collection``.
        queries: a file of queries instead of the collection's own.
        depth: how many documents of each query; None: all.
        shard: (i, n): every n-th query, from the i-th.
        text_field: the field of a document that has its text, in rows.
    """

    path: str
    data: str | None = None
    queries: str | None = None
    depth: int | None = None
    shard: Shard = (1, 1)
    text_field: str = "text"

    def rows(self, advance: Advance | None = None) -> Iterator[Row]:
        """The rows, one at a time.

        Raises:
            InputError: a line is not as it should be, or a run names what the collection has not.
        """
        if self.data is None:
            if self.path != STDIN and kind_of(Path(self.path)) == "run":
                raise InputError(f"{self.path} is a run, which has no texts; say whose it is with --data")
            found = read_rows(self.path, self.shard, advance, text_field=self.text_field)
        else:
            found = self._run_rows(self.data, advance)
        depth = self.depth
        return found if depth is None else (_cut(row, depth) for row in found)

    def _run_rows(self, data: str, advance: Advance | None) -> Iterator[Row]:
        collection = load_collection(data, queries=self.queries, judged=False)
        seen: set[str] = set()
        with closing(DocumentStore(collection.documents())) as store:
            for number, (place, query, scores) in enumerate(read_run_queries(self.path, advance)):
                if query in seen:
                    raise InputError(
                        f"{place}: query {query} was there before; a query's lines must stand together"
                    )
                seen.add(query)
                text = collection.queries.get(query)
                if text is None:
                    raise InputError(f"{place}: {collection.name} has no query {query}")
                texts = store.texts(list(scores))
                missing = next((document for document in scores if document not in texts), None)
                if missing is not None:
                    raise InputError(
                        f"{place}: {collection.name} has no document {missing}, which query {query} asks for"
                    )
                if number % self.shard[1] == self.shard[0] - 1:
                    documents = tuple(Document(x, texts[x]) for x in scores)
                    yield Row(place, query, text, documents)


def _cut(row: Row, depth: int) -> Row:
    labels = None if row.labels is None else row.labels[:depth]
    return row._replace(documents=row.documents[:depth], labels=labels)


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is to do.

    Attributes:
        queries, pairs: so many.
        digest: of all their ids and texts; "": not known.
    """

    queries: int
    pairs: int
    digest: str = field(default="", compare=False)


def check(source: Source, output: Path) -> Counts:
    """Read all of the input once: whatever is wrong with it shows before the work begins.

    Raises:
        InputError: as ``Source.rows``; or the output's form does not suit the rows, or the input can be
            read only once.
    """
    if Path(source.path).exists() and not Path(source.path).is_file():
        raise InputError(
            f"{source.path} is no file that can be read twice; give it on standard input: crossrank bulk -"
        )
    check_apart(source, output)
    queries = pairs = 0
    digest = hashlib.blake2b(digest_size=16)
    ids: set[str] = set()  # as a run has them, where 1 and "1" are the same
    is_run = output.name.removesuffix(".gz").removesuffix(".zst").endswith((".run", ".trec"))
    for row in source.rows():
        queries, pairs = queries + 1, pairs + len(row.documents)
        texts = (row.id, row.query, *chain(*row.documents), "")
        digest.update("\0".join(map(str, texts)).encode(errors="replace"))
        if is_run:
            query = str(row.id)
            if query in ids:
                raise InputError(f"{row.place}: the id {query!r} was there before, and a run holds it once")
            ids.add(query)
            if row.is_pair:
                raise InputError(f"{output}: pairs make no run; write .jsonl or .parquet")
            names = map(str, (row.id, *(document.id for document in row.documents)))
            spaced = next((x for x in names if len(x.split()) != 1), None)
            if spaced is not None:
                raise InputError(f"{row.place}: the id {spaced!r} has white space, which a run cannot hold")
    return Counts(queries, pairs, digest.hexdigest())


def check_apart(source: Source, output: Path) -> None:
    """Raise InputError where the job would write over what it reads."""
    for path in written(output):
        for given in (source.path, source.data, source.queries):
            if given and given != STDIN and _are_one(Path(given), path):
                whose = "is the input" if path == output else f"goes through {path}, which is the input"
                raise InputError(f"{output} {whose}; the output must be another file")


def _are_one(file: Path, other: Path) -> bool:
    return file == other or (file.exists() and other.exists() and file.samefile(other))


def run(
    source: Source,
    output: Path,
    answer: Answers,
    job: dict[str, Any],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] = lambda _queries, _pairs: None,
) -> Counts:
    """Answer every row of the input that the output does not have, and put the output in its place.

    Args:
        source: the input.
        output: see ``Output``.
        answer: rows to answers.
        job: what the answers depend on besides the input; see ``Output``.
        overwrite: begin anew.
        progress: is told how many queries and pairs are done, those of an earlier run included.

    Returns:
        What was there from an earlier run.

    Raises:
        InputError: the input or the output is not as it should be. What was done is kept.
        EngineError: the model failed. What was done is kept.
    """
    job = {**{name: value for name, value in asdict(source).items() if name != "path"}, **job}
    with Output(output, job, overwrite=overwrite) as out, _seldom_collected():
        rows = source.rows()
        queries = pairs = 0
        for identity in out.done():
            row = next(rows, None)
            if row is None or row.id != identity:
                found = "has ended" if row is None else f"has {row.id!r} ({row.place})"
                raise InputError(
                    f"{output}.partial goes on with {identity!r} where the input {found}; it was begun with "
                    "another input: use that one, or --overwrite to begin anew"
                )
            queries, pairs = queries + 1, pairs + len(row.documents)
        resumed = Counts(queries, pairs)
        progress(queries, pairs)
        for pairs_of_row, answered in answer(rows, queries):
            out.write(answered)
            queries, pairs = queries + 1, pairs + pairs_of_row
            progress(queries, pairs)
        out.finish()
    return resumed


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Rows make no reference cycles; looking for some would be a fifth of the work beside the engine's."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def answers(
    reranker: Reranker, rows: Iterable[Row], *, top_n: int | None = None, with_text: bool = False
) -> Iterator[Answer]:
    """An answer for each row, in their order.

    What is written is ``{"id", "results": [{"index", "id", "score", "logit", "truncated"}, ...]}``,
    best first, and of a pair ``{"id", "score", "logit", "truncated"}``.

    Args:
        reranker: the model.
        rows: drawn a little ahead of the answers.
        top_n: how many results of each query; None: all.
        with_text: put the query, and each document's text, beside.

    Raises:
        EngineError: the model failed; the message names the query where it is to blame.
    """
    waiting: deque[Row] = deque()

    def requests() -> Iterator[tuple[str, list[str]]]:
        for row in rows:
            waiting.append(row)
            yield row.query, [document.text for document in row.documents]

    rankings = reranker.rank_many(requests(), top_n=top_n)
    while True:
        try:
            ranking = next(rankings, None)
        except NonFiniteLogitError as error:
            raise EngineError(f"{waiting[0].place}, query {waiting[0].id}: {error}") from error
        if ranking is None:
            return
        row = waiting.popleft()
        yield len(row.documents), _answer(row, ranking, with_text)


def answers_as_they_come(
    reranker: Reranker, rows: Iterable[Row], *, top_n: int | None = None, with_text: bool = False
) -> Iterator[Answer]:
    """As ``answers``, for rows that another program writes, which may wait for an answer before it goes on.

    What has been read is answered before more is waited for; several rows that came meanwhile share packs.
    """
    read: SimpleQueue[Row | BaseException | None] = SimpleQueue()
    room = Semaphore(_ROWS_AHEAD)

    def reader() -> None:
        try:
            for row in rows:
                room.acquire()
                read.put(row)
            read.put(None)
        except BaseException as error:  # noqa: BLE001 - goes to the reader of the queue
            read.put(error)

    Thread(target=reader, daemon=True).start()
    while True:
        item = read.get()
        group: list[Row] = []
        while isinstance(item, Row):
            room.release()
            group.append(item)
            if read.empty():
                break
            item = read.get()
        yield from answers(reranker, group, top_n=top_n, with_text=with_text)
        if isinstance(item, BaseException):
            raise item
        if item is None:
            return


def _answer(row: Row, ranking: Ranking, with_text: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": row.id}
    if with_text:
        answer["query"] = row.query
    if row.is_pair:
        return answer | _found(ranking[0], with_text)
    answer["results"] = [
        {"index": hit.index, "id": row.documents[hit.index].id, **_found(hit, with_text)} for hit in ranking
    ]
    return answer


def _found(hit: RankedDocument, with_text: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"score": hit.score, "logit": hit.logit, "truncated": hit.truncated}
    if with_text:
        found["text"] = hit.text
    return found
