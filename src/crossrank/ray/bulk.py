"""The bulk job on Ray Data, with one engine per actor.

One task reads the input on the driver's machine, which has the file, and sends bundles of queries to the
actors. The answers return to the driver in the order of the input, and the driver writes them as usual. Ray
slows the reader down while the actors are busy, and gives the bundle of a lost actor to another one.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from crossrank.bulk.job import Answer, Source
from crossrank.bulk.job import answers as local_answers
from crossrank.data.rows import Document, Row
from crossrank.errors import CrossRankError, EngineError, InputError
from crossrank.reranker import Reranker

__all__ = ["answers", "connect"]

BUNDLE_PAIRS = 4096
"""Pairs per bundle, a few windows of ``rank_many``. If an actor dies, its bundle is computed again."""

_MAX_BUNDLE_CHARACTERS = 1 << 20

_CONNECT_TIMEOUT = 10.0  # seconds


def connect(address: str) -> None:
    """Connect this process to a cluster, unless it is connected already.

    Args:
        address: "local" starts a cluster on this machine, "auto" finds the one that this machine belongs
            to, and "HOST:PORT" names another one.

    Raises:
        InputError: there is no cluster at the address.
    """
    # Ray logs its own internals; errors are raised as exceptions anyway.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    _check_reachable(address)
    dashboard = False if address == "local" else None
    try:
        ray.init(
            address=address, log_to_driver=False, include_dashboard=dashboard, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {address!r}: {error}") from error


def _check_reachable(address: str) -> None:
    """Raise InputError if nothing listens at the address; Ray itself would retry for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # "local" or "auto"; Ray reports what is wrong with anything else
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"no Ray cluster at {address!r}: {reason}") from error


class _Rows(Datasource):
    """The rows of a source in bundles, without the first ``before`` rows."""

    def __init__(self, source: Source, before: int, bundle_pairs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source, self._before, self._bundle_pairs = source, before, bundle_pairs

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  there is one reader, to keep the order
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002
    ) -> list[Any]:
        source, before, pairs = self._source, self._before, self._bundle_pairs

        def read() -> Iterator[Any]:
            for bundle in _bundles(islice(source.rows(), before, None), pairs):
                yield pa.table({"rows": [json.dumps([_row_to_list(row) for row in bundle])]})

        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, unknown, per_task_row_limit=per_task_row_limit)]


def _row_to_list(row: Row) -> list[Any]:
    documents = [(document.id, document.text) for document in row.documents]
    return [row.place, row.id, row.query, documents, row.is_pair, row.instruction]


def _row_from_list(values: list[Any]) -> Row:
    place, identity, query, documents, is_pair, instruction = values
    read = tuple(Document(*document) for document in documents)
    return Row(place, identity, query, read, is_pair=is_pair, instruction=instruction)


def _bundles(rows: Iterator[Row], max_pairs: int) -> Iterator[list[Row]]:
    bundle: list[Row] = []
    pairs = characters = 0
    for row in rows:
        bundle.append(row)
        pairs += max(1, len(row.documents))
        characters += sum(len(row.query) + len(document.text) for document in row.documents)
        if pairs >= max_pairs or characters >= _MAX_BUNDLE_CHARACTERS:
            yield bundle
            bundle, pairs, characters = [], 0, 0
    if bundle:
        yield bundle


class _Actor:
    """A model in its own process."""

    def __init__(self, arguments: Mapping[str, Any], top_n: int | None, with_text: bool) -> None:
        self._reranker = Reranker(**arguments)
        self._options: dict[str, Any] = {"top_n": top_n, "with_text": with_text}

    def __call__(self, batch: Any) -> Any:
        answered = [
            json.dumps(
                list(local_answers(self._reranker, map(_row_from_list, json.loads(rows)), **self._options))
            )
            for rows in batch.column("rows").to_pylist()
        ]
        return pa.table({"answers": answered})


def answers(
    source: Source,
    before: int,
    arguments: Mapping[str, Any],
    *,
    top_n: int | None = None,
    with_text: bool = False,
    actors: int | None = None,
    bundle_pairs: int = BUNDLE_PAIRS,
) -> Iterator[Answer]:
    """Like ``bulk.job.answers``, on the cluster that ``connect`` connected to.

    Args:
        source: the input; its files must be on the machine that runs the driver.
        before: how many rows to skip at the start.
        arguments: the arguments of ``Reranker``, including the model's name. Each machine resolves the name
            itself.
        top_n: the maximum number of results per query, or None for all of them.
        with_text: add the query and the text of each document.
        actors: the number of engines. The default is one per GPU, or one per machine if the model runs on
            CPUs.
        bundle_pairs: pairs per bundle; a bundle has fewer pairs if its texts are long.

    Raises:
        InputError: an actor could not use the input or the arguments.
        EngineError: an actor or Ray failed.
    """
    nodes = [
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU")
    ]
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if arguments.get("device") != "cpu" else 0
    # The engines of a machine share its cores.
    cores = int(min(node["CPU"] for node in nodes))
    count = actors or gpus or len(nodes)
    threads = arguments.get("threads") or max(1, cores // -(-count // len(nodes)))
    if not gpus:
        arguments = {**arguments, "threads": threads}
    context = DataContext.get_current()
    former = (context.enable_progress_bars, context.target_max_block_size)
    former_order = context.execution_options.preserve_order
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # each bundle stays one block
    context.execution_options.preserve_order = True
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    try:
        found = ray.data.read_datasource(
            _Rows(source, before, bundle_pairs), override_num_blocks=1, num_cpus=0, label_selector=here
        ).map_batches(
            _Actor,
            fn_constructor_args=(dict(arguments), top_n, with_text),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
            num_cpus=1 if gpus else threads,
            num_gpus=1 if gpus else None,
        )
        for bundle in found.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1):
            yield from map(tuple, json.loads(bundle.column("answers")[0].as_py()))
    except ray.exceptions.RayError as error:
        raise _crossrank_error(error) from error
    finally:
        context.enable_progress_bars, context.target_max_block_size = former
        context.execution_options.preserve_order = former_order


def _crossrank_error(error: BaseException) -> Exception:
    """The CrossRank error inside an error of Ray, or an EngineError with the last line of Ray's message."""
    cause: BaseException | None = error
    while cause is not None:
        # Ray raises a class derived from the error's class, and keeps the error itself in ``cause``.
        inner = getattr(cause, "cause", None)
        if isinstance(inner, CrossRankError):
            return inner
        cause = inner or cause.__cause__
    lines = str(error).strip().splitlines()
    return EngineError(f"Ray: {lines[-1] if lines else type(error).__name__}")
