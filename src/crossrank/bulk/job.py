"""The bulk job: rerank a file of any size in little memory, and resume after an interruption.

The input is read one query at a time, ``Reranker.rank_many`` puts pairs of many queries into the same
packs, and the output file (bulk/output.py) serves as the checkpoint.
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

from crossrank.bulk.output import Output, output_files
from crossrank.bulk.store import DocumentStore
from crossrank.data.collection import load_collection
from crossrank.data.lines import STDIN, UTF_8, Advance
from crossrank.data.rows import Document, Row, Shard, read_rows
from crossrank.data.trec import kind_of, read_run_queries
from crossrank.errors import EngineError, InputError, NonFiniteLogitError
from crossrank.ranking import RankedDocument, Ranking
from crossrank.reranker import Reranker

__all__ = ["Answer", "Answers", "Counts", "Source", "answers", "answers_as_they_come", "check", "run"]

_MAX_ROWS_AHEAD = 256  # rows read while earlier ones are being answered

_GC_THRESHOLD = 50_000  # new objects per garbage collection; a few windows of ``rank_many``

Answer: TypeAlias = tuple[int, dict[str, Any]]
"""The number of pairs of a row, and the object that is written for it."""

Answers: TypeAlias = Callable[[Iterator[Row], int], Iterator[Answer]]
"""A function that answers rows in their order: ``answers`` here, or the one of a cluster (ray/bulk.py).

It takes the rows and the number of rows of the input that come before them.
"""


@dataclass(frozen=True, slots=True)
class Source:
    """The input of a job.

    Attributes:
        path: a file of rows or pairs (data/rows.py), or a TREC run. "-" reads JSON Lines from standard
            input.
        data: the collection that has the texts of a run; see ``load_collection``.
        queries: a file of queries that replaces the collection's own.
        depth: how many documents of each query are reranked, or None for all of them.
        shard: (i, n) takes every n-th query, starting with the i-th.
        text_field: the field of a row's document that holds its text.
        encoding: the encoding of the files.
    """

    path: str
    data: str | None = None
    queries: str | None = None
    depth: int | None = None
    shard: Shard = (1, 1)
    text_field: str = "text"
    encoding: str = UTF_8

    def rows(self, advance: Advance | None = None) -> Iterator[Row]:
        """Yield the rows, one at a time.

        Raises:
            InputError: a line is malformed, or a run names a query or document that the collection does
                not have.
        """
        if self.data is None:
            if self.path != STDIN and kind_of(Path(self.path), self.encoding) == "run":
                raise InputError(f"{self.path} is a run, which has no texts; name its collection with --data")
            rows = read_rows(
                self.path, self.shard, advance, text_field=self.text_field, encoding=self.encoding
            )
        else:
            rows = self._run_rows(self.data, advance)
        depth = self.depth
        return rows if depth is None else (_first_documents(row, depth) for row in rows)

    def _run_rows(self, data: str, advance: Advance | None) -> Iterator[Row]:
        collection = load_collection(data, queries=self.queries, judged=False, encoding=self.encoding)
        seen: set[str] = set()
        with closing(DocumentStore(collection.documents())) as store:
            for number, (place, query, scores) in enumerate(
                read_run_queries(self.path, advance, self.encoding)
            ):
                if query in seen:
                    raise InputError(
                        f"{place}: query {query} appeared before; all lines of a query must be consecutive"
                    )
                seen.add(query)
                text = collection.queries.get(query)
                if text is None:
                    raise InputError(f"{place}: {collection.name} has no query {query}")
                texts = store.texts(list(scores))
                missing = next((document for document in scores if document not in texts), None)
                if missing is not None:
                    raise InputError(
                        f"{place}: {collection.name} has no document {missing}, which query {query} names"
                    )
                if number % self.shard[1] == self.shard[0] - 1:
                    documents = tuple(Document(x, texts[x]) for x in scores)
                    yield Row(place, query, text, documents)


def _first_documents(row: Row, depth: int) -> Row:
    labels = None if row.labels is None else row.labels[:depth]
    return row._replace(documents=row.documents[:depth], labels=labels)


@dataclass(frozen=True, slots=True)
class Counts:
    """The size of a job.

    Attributes:
        queries: the number of queries.
        pairs: the number of (query, document) pairs.
        digest: a hash of all ids and texts, or "" if they were not read.
    """

    queries: int
    pairs: int
    digest: str = field(default="", compare=False)


def check(source: Source, output: Path) -> Counts:
    """Read all of the input once, so that errors in it are reported before the work begins.

    Raises:
        InputError: as ``Source.rows``; or the rows cannot be written in the output's format, the input
            can be read only once, or the output would overwrite the input.
    """
    if Path(source.path).exists() and not Path(source.path).is_file():
        raise InputError(
            f"{source.path} is not a file that can be read twice; give it on standard input: crossrank bulk -"
        )
    check_apart(source, output)
    queries = pairs = 0
    digest = hashlib.blake2b(digest_size=16)
    ids: set[str] = set()  # strings, since a run does not distinguish 1 from "1"
    is_run = output.name.removesuffix(".gz").removesuffix(".zst").endswith((".run", ".trec"))
    for row in source.rows():
        queries, pairs = queries + 1, pairs + len(row.documents)
        told = () if row.instruction is None else (row.instruction, "")
        texts = (row.id, row.query, *chain(*row.documents), "", *told)
        digest.update("\0".join(map(str, texts)).encode(errors="replace"))
        if is_run:
            query = str(row.id)
            if query in ids:
                raise InputError(f"{row.place}: duplicate id {query!r}; a run can hold an id only once")
            ids.add(query)
            if row.is_pair:
                raise InputError(f"{output}: pairs cannot be written as a run; write .jsonl or .parquet")
            names = map(str, (row.id, *(document.id for document in row.documents)))
            spaced = next((x for x in names if len(x.split()) != 1), None)
            if spaced is not None:
                raise InputError(
                    f"{row.place}: the id {spaced!r} is empty or has white space, which a run cannot hold"
                )
    return Counts(queries, pairs, digest.hexdigest())


def check_apart(source: Source, output: Path) -> None:
    """Raise InputError if the job would overwrite one of the files that it reads."""
    for path in output_files(output):
        for given in (source.path, source.data, source.queries):
            if given and given != STDIN and _same_file(Path(given), path):
                clash = "is the input" if path == output else f"needs {path}, which is the input,"
                raise InputError(f"{output} {clash}; the output must be another file")


def _same_file(file: Path, other: Path) -> bool:
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
    """Answer every row of the input that the output does not have yet, and complete the output.

    Args:
        source: the input.
        output: the output file; see ``Output``.
        answer: turns rows into answers.
        job: what the answers depend on besides the input; see ``Output``.
        overwrite: start over, even if there is an output already.
        progress: is called with the numbers of queries and pairs that are done, including those of an
            earlier run.

    Returns:
        The numbers of queries and pairs that an earlier run had done.

    Raises:
        InputError: the input or the output is invalid. Finished rows are kept.
        EngineError: the model failed. Finished rows are kept.
    """
    job = {**{name: value for name, value in asdict(source).items() if name != "path"}, **job}
    with Output(output, job, overwrite=overwrite) as out, _infrequent_gc():
        rows = source.rows()
        queries = pairs = 0
        for identity in out.done():
            row = next(rows, None)
            if row is None or row.id != identity:
                found = "has ended" if row is None else f"has {row.id!r} ({row.place})"
                raise InputError(
                    f"{output}.partial continues with {identity!r} where the input {found}; it was started "
                    "with another input: use that one, or --overwrite to start over"
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
def _infrequent_gc() -> Iterator[None]:
    """Make garbage collection rarer: rows form no cycles, and it took 20 % of the time outside the engine."""
    before = gc.get_threshold()
    gc.set_threshold(_GC_THRESHOLD, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def answers(
    reranker: Reranker, rows: Iterable[Row], *, top_n: int | None = None, with_text: bool = False
) -> Iterator[Answer]:
    """Yield an answer for each row, in their order.

    The answer to a query is ``{"id", "results": [{"index", "id", "score", "logit", "truncated"}, ...]}``
    with the best result first, and the answer to a pair is ``{"id", "score", "logit", "truncated"}``. If the
    query was truncated, the answer also has ``"query_truncated": true``. With two models, each result also
    has the name of its ``"model"``; where its document was read in windows, the best ``"window"``.

    Args:
        reranker: the model.
        rows: the rows; they are read slightly ahead of the answers.
        top_n: the maximum number of results per query, or None for all of them.
        with_text: add the query and the text of each document.

    Raises:
        InputError: a row has an instruction, and the model takes none.
        EngineError: the model failed; the message names the query if one of its logits was not finite.
    """
    waiting: deque[Row] = deque()

    def requests() -> Iterator[tuple[str, list[str], str | None]]:
        for row in rows:
            if row.instruction is not None and reranker.encoder.instruction is None:
                raise InputError(
                    f"{row.place}: there is an instruction, and the model takes none; leave it out"
                )
            waiting.append(row)
            yield row.query, [document.text for document in row.documents], row.instruction

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
    """Like ``answers``, for rows from a program that may wait for an answer before it sends the next row.

    All rows that have been read are answered before this waits for more. Rows that arrive in the meantime
    share packs.
    """
    read: SimpleQueue[Row | BaseException | None] = SimpleQueue()
    room = Semaphore(_MAX_ROWS_AHEAD)

    def reader() -> None:
        try:
            for row in rows:
                room.acquire()
                read.put(row)
            read.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the queue is read
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
    if any(hit.query_truncated for hit in ranking):
        answer["query_truncated"] = True
    if row.is_pair:
        return answer | _hit_fields(ranking[0], with_text)
    answer["results"] = [
        {"index": hit.index, "id": row.documents[hit.index].id, **_hit_fields(hit, with_text)}
        for hit in ranking
    ]
    return answer


def _hit_fields(hit: RankedDocument, with_text: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"score": hit.score, "logit": hit.logit, "truncated": hit.truncated}
    if hit.model is not None:
        fields["model"] = hit.model
    if hit.window is not None:
        fields["window"] = hit.window
    if with_text:
        fields["text"] = hit.text
    return fields
