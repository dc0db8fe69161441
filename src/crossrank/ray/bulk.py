"""The bulk job on Ray Data, with an engine for each actor.

One task reads the input (on the driver's machine, which has the file), bundles of queries stream to
the actors, and answers come back in the input's order to the driver, which writes them as ever. Ray
holds the reader back where actors are behind, and gives a lost actor's bundle to another.
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
"""What an actor gets at once, and loses with its life: some windows of ``rank_many``."""

_BUNDLE_CHARACTERS = 1 << 20

_REACH_SECONDS = 10.0


def connect(address: str) -> None:
    """Join a cluster, if this process has not: "local" starts one here, "auto" finds this machine's.

    Raises:
        InputError: there is none at the address.
    """
    # Its messages tell of its own insides; what goes wrong comes as an exception.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        return
    _reach(address)
    dashboard = False if address == "local" else None
    try:
        ray.init(
            address=address, log_to_driver=False, include_dashboard=dashboard, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {address!r}: {error}") from error


def _reach(address: str) -> None:
    """Raise InputError where nothing answers: Ray itself tries for minutes, with messages of its own."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # "local", "auto"; of others Ray says what is wrong
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"no Ray cluster at {address!r}: {reason}") from error


class _Rows(Datasource):
    """The rows of a source behind the first ``before``, in bundles."""

    def __init__(self, source: Source, before: int, bundle_pairs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source, self._before, self._bundle_pairs = source, before, bundle_pairs

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  one reader keeps the order
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002
    ) -> list[Any]:
        source, before, pairs = self._source, self._before, self._bundle_pairs

        def read() -> Iterator[Any]:
            for bundle in _bundles(islice(source.rows(), before, None), pairs):
                yield pa.table({"rows": [json.dumps([_plain(row) for row in bundle])]})

        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, unknown, per_task_row_limit=per_task_row_limit)]


def _plain(row: Row) -> list[Any]:
    documents = [(document.id, document.text) for document in row.documents]
    return [row.place, row.id, row.query, documents, row.is_pair]


def _row(plain: list[Any]) -> Row:
    place, identity, query, documents, is_pair = plain
    return Row(place, identity, query, tuple(Document(*document) for document in documents), is_pair=is_pair)


def _bundles(rows: Iterator[Row], most: int) -> Iterator[list[Row]]:
    bundle: list[Row] = []
    pairs = characters = 0
    for row in rows:
        bundle.append(row)
        pairs += max(1, len(row.documents))
        characters += sum(len(row.query) + len(document.text) for document in row.documents)
        if pairs >= most or characters >= _BUNDLE_CHARACTERS:
            yield bundle
            bundle, pairs, characters = [], 0, 0
    if bundle:
        yield bundle


class _Actor:
    """An engine in a process of its own."""

    def __init__(self, arguments: Mapping[str, Any], top_n: int | None, with_text: bool) -> None:
        self._reranker = Reranker(**arguments)
        self._options: dict[str, Any] = {"top_n": top_n, "with_text": with_text}

    def __call__(self, batch: Any) -> Any:
        answered = [
            json.dumps(list(local_answers(self._reranker, map(_row, json.loads(rows)), **self._options)))
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
    """As ``bulk.answers``, on the cluster that ``connect`` joined.

    Args:
        source: the input; its files must be where the driver runs.
        before: how many rows to leave out.
        arguments: of ``Reranker``, the model's name included: each machine looks it up itself.
        top_n, with_text: as ``bulk.answers``.
        actors: engines; None: one for each GPU, or each machine where the model runs on CPUs.
        bundle_pairs: what an actor gets at once, and loses with its life; less where texts are long.

    Raises:
        InputError, EngineError: an actor's error.
    """
    nodes = [
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU")
    ]
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if arguments.get("device") != "cpu" else 0
    # An engine takes a whole machine's cores, or its share of them.
    cores = int(min(node["CPU"] for node in nodes))
    count = actors or gpus or len(nodes)
    threads = arguments.get("threads") or max(1, cores // -(-count // len(nodes)))
    if not gpus:
        arguments = {**arguments, "threads": threads}
    context = DataContext.get_current()
    former = (context.enable_progress_bars, context.target_max_block_size)
    former_order = context.execution_options.preserve_order
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a bundle is a block, and blocks are not joined
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
        raise _own(error) from error
    finally:
        context.enable_progress_bars, context.target_max_block_size = former
        context.execution_options.preserve_order = former_order


def _own(error: BaseException) -> Exception:
    """CrossRank's error within one of Ray's, or Ray's in a line."""
    cause: BaseException | None = error
    while cause is not None:
        # Ray raises a class of its own that is derived from the error's, and keeps the error in ``cause``.
        inner = getattr(cause, "cause", None)
        if isinstance(inner, CrossRankError):
            return inner
        cause = inner or cause.__cause__
    lines = str(error).strip().splitlines()
    return EngineError(f"Ray: {lines[-1] if lines else type(error).__name__}")
