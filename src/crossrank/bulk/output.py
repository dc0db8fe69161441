"""Output that survives being killed: what is written is the checkpoint.

Rows go as JSON Lines to OUT.partial, a block at a time; a compressed block is a gzip member or a
Zstandard frame of its own. After a kill, what follows the last whole row is cut off and the ids of
the rows before it say where to go on. OUT.partial.json tells of which job the rows are. When all rows are
there, OUT.partial becomes OUT, or OUT is made from it (a TREC run, Parquet), and both are gone.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from crossrank.data.lines import compression, members, plain_suffix, read_lines, read_object, zstandard
from crossrank.data.rows import Id, import_parquet
from crossrank.errors import InputError

__all__ = ["Output", "json_line", "written"]

_BLOCK_BYTES, _BLOCK_SECONDS = 1 << 20, 2.0
_NEW = ".new"
_FORMATS = (".jsonl", ".ndjson", ".run", ".trec", ".parquet")


def written(path: Path) -> tuple[Path, ...]:
    """The files that an output goes through: OUT, OUT.partial, OUT.partial.json, and new ones of two."""
    return tuple(
        path.with_name(path.name + ending)
        for ending in ("", ".partial", ".partial.json", _NEW, f".partial.json{_NEW}")
    )


class Output:
    """Rows on their way to a file; a context manager that holds a lock on it.

    Args:
        path: .jsonl, .run (or .trec) or .parquet; all but Parquet may be compressed (.gz, .zst).
        job: what the rows depend on (model, precision, input ...), JSON values by name. An unfinished
            output of another job is refused.
        overwrite: begin anew, whatever is there.
        tag: the last column of a TREC run.

    Attributes:
        resumed: how many rows were there already.

    Raises:
        InputError: the ending is unknown, the output is there, or is another job's, or is being
            written by another process.
    """

    def __init__(
        self, path: Path, job: Mapping[str, Any], *, overwrite: bool = False, tag: str = "crossrank"
    ) -> None:
        self._path, self._tag = path, tag
        self._format = plain_suffix(path)
        self._kind = compression(path)
        if self._format not in _FORMATS or (self._format == ".parquet" and self._kind):
            raise InputError(
                f"{path}: the output's name must end in .jsonl, .run or .parquet (the first two may be "
                "compressed: .gz, .zst)"
            )
        if self._format == ".parquet":
            import_parquet()
        if self._kind == "zst":
            zstandard()
        # Only JSON Lines are appended to as they will be; other forms are made at the end.
        self._final = self._format in (".jsonl", ".ndjson")
        self._partial_kind = self._kind if self._final else ""
        self._compress = _compressor(self._partial_kind)
        if path.is_dir():
            raise InputError(f"{path} is a folder; the output must be a file")
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already; --overwrite makes it anew")
        _, self._partial, self._job_file, *_ = written(path)
        try:
            self._file = self._partial.open("ab+")
        except OSError as error:
            raise InputError(f"{self._partial} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InputError(f"{self._partial} is being written by another process") from error
        self._lines: list[bytes] = []
        self._bytes, self._began = 0, time.monotonic()
        try:
            self.resumed = 0 if overwrite else self._recover(json.loads(json.dumps(job)))
            if not self.resumed:
                self._file.truncate(0)
                _replace(self._job_file, lambda to: to.write_text(json.dumps(job, indent=1) + "\n"))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was done is kept, whatever ended it.
        self._flush()
        self._file.close()

    def done(self) -> Iterator[Id]:
        """The ids of the rows that were there already, in their order."""
        if self.resumed:
            for number, (line, _) in enumerate(self._whole_lines(), start=1):
                yield self._id(number, line)

    def _id(self, number: int, line: bytes) -> Id:
        try:
            identity = json.loads(line)["id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            identity = None
        if not isinstance(identity, (str, int)):
            raise InputError(
                f"{self._partial}, line {number}: no row that was written here; {self._advice()}"
            )
        return identity

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row, which has an "id"."""
        line = json_line(row)
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= _BLOCK_BYTES or time.monotonic() - self._began >= _BLOCK_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            self._file.write(self._compress(b"".join(self._lines)))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._lines, self._bytes, self._began = [], 0, time.monotonic()

    def finish(self) -> None:
        """All rows are there: put the output in its place, whole."""
        self._flush()
        if self._final:
            self._partial.replace(self._path)
        else:
            make = _write_parquet if self._format == ".parquet" else self._write_run
            _replace(self._path, lambda to: make(self._partial, to))
            self._partial.unlink()
        self._job_file.unlink(missing_ok=True)

    def _advice(self) -> str:
        return f"remove {self._partial} or use --overwrite to begin anew"

    def _recover(self, job: Mapping[str, Any]) -> int:
        """Cut off what is not whole; the number of rows that are."""
        if self._partial.stat().st_size == 0:
            return 0
        advice = self._advice()
        try:
            former = dict(json.loads(self._job_file.read_text()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{self._job_file} does not tell whose rows these are; {advice}") from error
        for name in sorted({*job, *former}):
            if former.get(name) != job.get(name):
                raise InputError(
                    f"{self._partial} was begun with {name} {former.get(name)!r}, and now it is "
                    f"{job.get(name)!r}; use the same as before, or {advice}"
                )
        count, end = 0, 0
        try:
            for count, (_, end) in enumerate(self._whole_lines(), start=1):  # noqa: B007
                pass
        except OSError as error:
            raise InputError(f"{self._partial} is {error}; {advice}") from error
        self._file.truncate(end)
        return count

    def _whole_lines(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines of whole blocks, each with the offset that a file may be cut at behind it."""
        with self._partial.open("rb") as file:
            if not self._partial_kind:
                end = 0
                for line in file:
                    if line.endswith(b"\n"):
                        end += len(line)
                        yield line, end
                return
            block: list[bytes] = []
            try:
                for piece, ended in members(file, self._partial_kind):
                    block.append(piece)
                    if ended is not None:
                        for line in b"".join(block).splitlines(keepends=True):
                            yield line, ended
                        block = []
            except EOFError:
                return  # a block that was being written

    def _write_run(self, partial: Path, to: Path) -> None:
        compress = _compressor(self._kind)
        block: list[str] = []
        with to.open("wb") as file:
            for place, line in read_lines(partial):
                row = read_object(place, line)
                for rank, hit in enumerate(row["results"], start=1):
                    # Nine digits tell every float32 from its neighbours. By logit: scores saturate.
                    block.append(f"{row['id']} Q0 {hit['id']} {rank} {hit['logit']:.9g} {self._tag}\n")
                if len(block) >= 10_000:
                    file.write(compress("".join(block).encode()))
                    block = []
            file.write(compress("".join(block).encode()))


def json_line(row: Mapping[str, Any]) -> bytes:
    """A line of JSON Lines in UTF-8, its end included."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _compressor(kind: str) -> Callable[[bytes], bytes]:
    if kind == "gz":
        return lambda data: gzip.compress(data, 6, mtime=0)
    if kind == "zst":
        compress: Callable[[bytes], bytes] = zstandard().ZstdCompressor(level=6).compress
        return compress
    return lambda data: data


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + _NEW)
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _ids_are_numbers(partial: Path) -> tuple[bool, bool]:
    """Whether all ids of queries, and all of documents, are numbers that 64 bits hold."""
    queries = documents = True
    for place, line in read_lines(partial):
        row = read_object(place, line)
        queries = queries and _is_int64(row["id"])
        documents = documents and all(_is_int64(found["id"]) for found in row.get("results", ()))
        if not (queries or documents):
            break
    return queries, documents


def _is_int64(identity: object) -> bool:
    return isinstance(identity, int) and -(1 << 63) <= identity < 1 << 63


def _write_parquet(partial: Path, to: Path) -> None:
    parquet = import_parquet()
    import pyarrow as pa

    numbers = [("score", pa.float64()), ("logit", pa.float32()), ("truncated", pa.bool_())]
    # A column has one type: numbers where all ids are, else strings.
    of_queries, of_documents = (
        pa.int64() if all_are else pa.string() for all_are in _ids_are_numbers(partial)
    )
    hit = [("index", pa.int32()), ("id", of_documents), *numbers]
    writer: Any = None
    schema: Any = None
    rows: list[Any] = []

    def put() -> None:
        nonlocal rows
        if writer is not None and rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
        rows = []

    try:
        for place, line in read_lines(partial):
            row = read_object(place, line)
            if of_queries == pa.string():
                row["id"] = str(row["id"])
            if of_documents == pa.string():
                for found in row.get("results", ()):
                    found["id"] = str(found["id"])
            if writer is None:
                text = [("text", pa.string())] if "query" in row else []
                fields = [("id", of_queries)]
                fields += [("query", pa.string())] if text else []
                if "results" in row:
                    fields += [("results", pa.list_(pa.struct([*hit, *text])))]
                else:
                    fields += [*numbers, *text]
                schema = pa.schema(fields)
                writer = parquet.ParquetWriter(to, schema, compression="zstd")
            rows.append(row)
            if len(rows) >= 10_000:
                put()
        put()
        if writer is None:
            parquet.write_table(pa.table({"id": pa.array([], pa.string())}), to)
    finally:
        if writer is not None:
            writer.close()
