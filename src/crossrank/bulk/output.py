"""Output that survives a crash: the rows written so far are the checkpoint.

Rows are written as JSON Lines to OUT.partial, one block at a time; each compressed block is a separate
gzip member or Zstandard frame. On restart, everything after the last complete row is discarded, and the
ids of the rows before it tell where to resume. OUT.partial.json records which job the rows belong to.
Once all rows are written, OUT.partial is renamed to OUT, or OUT is made from it (a TREC run, Parquet), and
both partial files are deleted.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from crossrank._system import hold
from crossrank.data.lines import compression, members, plain_suffix, read_lines, read_object, zstandard
from crossrank.data.rows import Id, import_parquet
from crossrank.errors import InputError

__all__ = ["Output", "json_line", "output_files"]

_BLOCK_BYTES, _BLOCK_SECONDS = 1 << 20, 2.0
_NEW = ".new"
_FORMATS = (".jsonl", ".ndjson", ".run", ".trec", ".parquet")


def output_files(path: Path) -> tuple[Path, ...]:
    """All files that a job writes: OUT, OUT.partial, OUT.partial.json, OUT.new and OUT.partial.json.new."""
    return tuple(
        path.with_name(path.name + ending)
        for ending in ("", ".partial", ".partial.json", _NEW, f".partial.json{_NEW}")
    )


class Output:
    """A writer of rows to a file; a context manager that holds a lock on the file.

    Args:
        path: a name that ends in .jsonl, .run (or .trec) or .parquet; all but Parquet may be compressed
            (.gz, .zst).
        job: what the rows depend on (model, precision, input ...), as JSON values by name. An unfinished
            output of another job is refused.
        overwrite: start over, whatever exists.
        tag: the last column of a TREC run.

    Attributes:
        resumed: the number of rows that an earlier run had written.

    Raises:
        InputError: the file extension is unknown, the output exists, belongs to another job, or is being
            written by another process.
    """

    def __init__(
        self, path: Path, job: Mapping[str, Any], *, overwrite: bool = False, tag: str = "crossrank"
    ) -> None:
        self._path, self._tag = path, tag
        self._two_models = job.get("first") is not None
        self._with_windows = job.get("long") == "windows"
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
        # JSON Lines are written in their final form; other formats are converted at the end.
        self._final = self._format in (".jsonl", ".ndjson")
        self._partial_kind = self._kind if self._final else ""
        self._compress = _compressor(self._partial_kind)
        if path.is_dir():
            raise InputError(f"{path} is a folder; the output must be a file")
        if path.exists() and not overwrite:
            raise InputError(f"{path} already exists; use --overwrite to replace it")
        _, self._partial, self._job_file, *_ = output_files(path)
        try:
            self._file = self._partial.open("ab+")
        except OSError as error:
            raise InputError(f"{self._partial} cannot be written: {error.strerror}") from error
        if not hold(self._file):
            self._file.close()
            raise InputError(f"{self._partial} is being written by another process")
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
        # Finished rows are kept, also after an error.
        self._flush()
        self._file.close()

    def done(self) -> Iterator[Id]:
        """Yield the ids of the rows that an earlier run had written, in their order."""
        if self.resumed:
            for number, (line, _) in enumerate(self._whole_lines(), start=1):
                yield self._id(number, line)

    def _id(self, number: int, line: bytes) -> Id:
        try:
            identity = json.loads(line)["id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            identity = None
        if not isinstance(identity, (str, int)):
            raise InputError(f"{self._partial}, line {number}: not a row of a bulk job; {self._advice()}")
        return identity

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row, which must have an "id"."""
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
        """Complete the output after the last row: it appears under its name at once and complete."""
        self._flush()
        if sys.platform == "win32":
            self._file.close()  # Windows renames and removes no open file
        if self._final:
            self._partial.replace(self._path)
        else:
            _replace(self._path, self._convert)
            self._partial.unlink()
        self._job_file.unlink(missing_ok=True)

    def _advice(self) -> str:
        return f"remove {self._partial} or use --overwrite to start over"

    def _recover(self, job: Mapping[str, Any]) -> int:
        """Discard incomplete rows at the end of the file, and return the number of complete ones."""
        if self._partial.stat().st_size == 0:
            return 0
        advice = self._advice()
        try:
            former = dict(json.loads(self._job_file.read_text()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self._job_file} does not say which job {self._partial} belongs to; {advice}"
            ) from error
        for name in sorted({*job, *former}):
            if former.get(name) != job.get(name):
                raise InputError(
                    f"{self._partial} was started with {name} {former.get(name)!r}, but now {name} is "
                    f"{job.get(name)!r}; use the same value as before, or {advice}"
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
        """Yield the complete lines of complete blocks, each with the offset to truncate the file at."""
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
                return  # the last block was not written completely

    def _convert(self, to: Path) -> None:
        if self._format == ".parquet":
            _write_parquet(self._partial, to, two_models=self._two_models, windows=self._with_windows)
        else:
            self._write_run(to)

    def _write_run(self, to: Path) -> None:
        compress = _compressor(self._kind)
        block: list[str] = []
        with to.open("wb") as file:
            for place, line in read_lines(self._partial):
                row = read_object(place, line)
                for rank, hit in enumerate(row["results"], start=1):
                    # Nine digits distinguish all float32 values. The logit is written, since scores saturate.
                    # Programs sort a run by what is written, and logits of two models cannot be sorted.
                    value = -rank if self._two_models else hit["logit"]
                    block.append(f"{row['id']} Q0 {hit['id']} {rank} {value:.9g} {self._tag}\n")
                if len(block) >= 10_000:
                    file.write(compress("".join(block).encode()))
                    block = []
            file.write(compress("".join(block).encode()))


def json_line(row: Mapping[str, Any]) -> bytes:
    """A line of JSON Lines in UTF-8, including the newline."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _compressor(kind: str) -> Callable[[bytes], bytes]:
    if kind == "gz":
        return lambda data: gzip.compress(data, 6, mtime=0)
    if kind == "zst":
        compress: Callable[[bytes], bytes] = zstandard().ZstdCompressor(level=6).compress
        return compress
    return lambda data: data


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: completely or not at all."""
    partial = path.with_name(path.name + _NEW)
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _ids_are_numbers(partial: Path) -> tuple[bool, bool]:
    """Whether all query ids, and whether all document ids, are 64-bit integers."""
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


def _write_parquet(partial: Path, to: Path, *, two_models: bool, windows: bool) -> None:
    parquet = import_parquet()
    import pyarrow as pa

    numbers = [("score", pa.float64()), ("logit", pa.float32()), ("truncated", pa.bool_())]
    numbers += [("model", pa.string())] if two_models else []
    numbers += [("window", pa.list_(pa.int64(), 2))] if windows else []
    # A column has one type: integers if all ids are integers, otherwise strings.
    query_id, document_id = (
        pa.int64() if all_numbers else pa.string() for all_numbers in _ids_are_numbers(partial)
    )
    hit = [("index", pa.int32()), ("id", document_id), *numbers]
    writer: Any = None
    schema: Any = None
    rows: list[Any] = []

    def write_rows() -> None:
        nonlocal rows
        if writer is not None and rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
        rows = []

    try:
        for place, line in read_lines(partial):
            row = {"query_truncated": False} | read_object(place, line)
            if query_id == pa.string():
                row["id"] = str(row["id"])
            if document_id == pa.string():
                for found in row.get("results", ()):
                    found["id"] = str(found["id"])
            if writer is None:
                text = [("text", pa.string())] if "query" in row else []
                fields = [("id", query_id)]
                fields += [("query", pa.string())] if text else []
                fields += [("query_truncated", pa.bool_())]
                if "results" in row:
                    fields += [("results", pa.list_(pa.struct([*hit, *text])))]
                else:
                    fields += [*numbers, *text]
                schema = pa.schema(fields)
                writer = parquet.ParquetWriter(to, schema, compression="zstd")
            rows.append(row)
            if len(rows) >= 10_000:
                write_rows()
        write_rows()
        if writer is None:
            parquet.write_table(pa.table({"id": pa.array([], pa.string())}), to)
    finally:
        if writer is not None:
            writer.close()
