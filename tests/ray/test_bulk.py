"""The bulk job on a real Ray cluster on this machine, started once for these tests."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from crossrank import CrossRankError, EngineError, InputError, Reranker
from crossrank.bulk import job as bulk
from crossrank.bulk.job import Source
from crossrank.data.rows import Document, Row
from crossrank.ray import bulk as cluster
from tests.checkpoints import CORPUS


@pytest.fixture(scope="module", autouse=True)
def _joined(_cluster: None) -> None:
    cluster.connect("local")  # takes the one that is there


def write_rows(path: Path, count: int) -> list[dict[str, Any]]:
    rows = [
        {
            "id": f"q{n}",
            "query": CORPUS[n % len(CORPUS)],
            "documents": [CORPUS[(n * k) % 15] for k in range(n % 7)],
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def on_ray(source: Source, folder: Path, **options: Any) -> bulk.Answers:
    arguments = {"model": str(folder), "precision": "fp32", "device": "cpu"} | options.pop("arguments", {})

    def answers(_rows: Iterator[Row], before: int) -> Iterator[bulk.Answer]:
        return cluster.answers(source, before, arguments, **options)

    return answers


def here(folder: Path) -> bulk.Answers:
    reranker = Reranker(folder, precision="fp32", device="cpu")
    return lambda rows, _before: bulk.answers(reranker, rows)


def check_equal(left: Path, right: Path) -> None:
    pairs = zip(left.read_text().splitlines(), right.read_text().splitlines(), strict=True)
    for one, other in (map(json.loads, pair) for pair in pairs):
        assert one["id"] == other["id"]
        assert [hit["index"] for hit in one["results"]] == [hit["index"] for hit in other["results"]]
        logits = [[hit["logit"] for hit in row["results"]] for row in (one, other)]
        assert logits[0] == pytest.approx(logits[1], abs=1e-4)


def test_a_killed_actor_and_a_resumed_job_lose_and_double_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(str(tmp_path / "in.jsonl"))
    write_rows(tmp_path / "in.jsonl", 600)
    local, out = tmp_path / "local.jsonl", tmp_path / "out.jsonl"
    bulk.run(source, local, here(folder), {})
    # Some of it is there already.
    answers = here(folder)

    def a_hundred(rows: Iterator[Row], before: int) -> Iterator[bulk.Answer]:
        for number, answer in enumerate(answers(rows, before)):
            if number == 100:
                raise EngineError("the power went")
            yield answer

    with pytest.raises(EngineError, match="power"):
        bulk.run(source, out, a_hundred, {})
    died = tmp_path / "died"

    class Dying(cluster._Actor):
        """The first actor that has done three bundles is killed before it hands over the third."""

        done = 0

        def __call__(self, batch: Any) -> Any:
            found = super().__call__(batch)
            self.done += 1
            if self.done == 3:
                try:
                    died.touch(exist_ok=False)
                except FileExistsError:
                    return found
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    monkeypatch.setattr(cluster, "_Actor", Dying)
    told: list[int] = []
    resumed = bulk.run(
        source,
        out,
        on_ray(source, folder, actors=2, bundle_pairs=60),
        {},
        progress=lambda queries, _pairs: told.append(queries),
    )
    assert resumed.queries == 100
    assert told == list(range(100, 601))
    assert died.exists()
    check_equal(local, out)
    assert list(tmp_path.glob("out.jsonl.*")) == []


def test_errors_of_actors_are_the_callers(folder: Path, tmp_path: Path) -> None:
    source = Source(str(tmp_path / "in.jsonl"))
    write_rows(tmp_path / "in.jsonl", 3)
    with pytest.raises(CrossRankError, match="max_length is 3; it must be at least"):
        bulk.run(source, tmp_path / "o.jsonl", on_ray(source, folder, arguments={"max_length": 3}), {})


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:{}", "Connection refused"),
        ("ray://127.0.0.1:{}", "Connection refused"),
        ("[::1]:{}", ""),  # there may be no IPv6 here
        ("a..b:6379", "label empty"),
    ],
)
def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch, address: str, reason: str) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = address.format(closed.getsockname()[1])
        with pytest.raises(InputError, match=f"no Ray cluster at {re.escape(repr(address))}: .*{reason}"):
            cluster.connect(address)


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match="no Ray cluster at 'auto': Could not find"):
        cluster.connect("auto")


def test_a_row_arrives_as_it_was_sent() -> None:
    documents = (Document("a", "x"), Document(7, "y"))
    for row in (
        Row("in.jsonl, line 1", "q1", "q", documents, instruction="Find it"),
        Row("in.jsonl, line 2", 2, "q", documents[:1], is_pair=True),
    ):
        sent = json.dumps(cluster._row_to_list(row))
        assert cluster._row_from_list(json.loads(sent)) == row
