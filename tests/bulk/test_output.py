import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from crossrank import InputError
from crossrank.bulk import output
from crossrank.bulk.output import Output
from crossrank.data.lines import read_lines
from crossrank.data.trec import read_run

JOB = {"model": "m", "shard": (1, 1)}


def row(number: int) -> dict[str, Any]:
    hit = {"index": 0, "id": f"d{number}", "score": 0.5, "logit": 0.1 * number, "truncated": False}
    return {"id": f"q{number}", "results": [hit, {**hit, "index": 1, "id": "last", "logit": -1e9 / 3}]}


ROWS = [row(number) for number in range(40)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_BLOCK_BYTES", 700)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with Output(path, JOB) as out:
        done = list(out.done())
        assert done == [row["id"] for row in ROWS[: out.resumed]]
        for one in rows[out.resumed :]:
            out.write(one)
        if len(rows) == len(ROWS):
            out.finish()


@pytest.mark.parametrize("name", ["o.jsonl", "o.jsonl.gz", "o.jsonl.zst"])
def test_cut_anywhere_it_goes_on_and_gives_every_row_once(tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole" / name
    whole.parent.mkdir()
    write(whole, ROWS[:30])
    cut_short = whole.with_name(name + ".partial").read_bytes()
    job = whole.with_name(name + ".partial.json").read_text()
    sizes = random.Random(5).sample(range(len(cut_short)), min(60, len(cut_short)))
    for size in [0, 1, len(cut_short) - 1, len(cut_short), *sizes]:
        path = tmp_path / name
        path.with_name(name + ".partial").write_bytes(cut_short[:size])
        path.with_name(name + ".partial.json").write_text(job)
        write(path, ROWS)
        assert [json.loads(line) for _, line in read_lines(path)] == ROWS
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "whole"])
        path.unlink()


def test_a_run_and_parquet_are_made_at_the_end(tmp_path: Path) -> None:
    for name in ("o.run", "o.run.gz", "o.trec.zst", "o.parquet"):
        write(tmp_path / name, ROWS[:20])
        assert not (tmp_path / name).exists()
        write(tmp_path / name, ROWS)
    runs = [read_run(tmp_path / name) for name in ("o.run", "o.run.gz", "o.trec.zst")]
    assert runs[0] == runs[1] == runs[2]
    assert list(runs[0]) == [row["id"] for row in ROWS]
    assert runs[0]["q7"] == {"d7": 0.7, "last": pytest.approx(-1e9 / 3, rel=1e-8)}
    table = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [found["id"] for found in table] == [row["id"] for row in ROWS]
    assert [hit["id"] for hit in table[7]["results"]] == ["d7", "last"]
    assert table[7]["results"][0]["logit"] == pytest.approx(0.7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.parquet", "o.run", "o.run.gz", "o.trec.zst"]


def test_other_programs_read_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "o.jsonl.gz", ROWS)
    done = subprocess.run(["gzip", "-dc", str(tmp_path / "o.jsonl.gz")], capture_output=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == ROWS


def test_parquet_of_pairs_of_texts_and_of_nothing(tmp_path: Path) -> None:
    pair = {"id": "0", "score": 0.5, "logit": 0.25, "truncated": True}
    long_query = {**pair, "query": "q", "text": "d", "query_truncated": True}
    for name, rows in (("pairs", [pair]), ("texts", [long_query]), ("none", [])):
        with Output(tmp_path / f"{name}.parquet", JOB) as out:
            for one in rows:
                out.write(one)
            out.finish()
        found = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
        assert found == [{**row, "query_truncated": name == "texts"} for row in rows]


def test_rows_of_another_job_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write(path, ROWS[:20])
    with pytest.raises(InputError, match="was started with model 'm', but now model is 'other'"):
        Output(path, {**JOB, "model": "other"})
    (tmp_path / "o.jsonl.partial.json").unlink()
    with pytest.raises(InputError, match="does not say which job"):
        Output(path, JOB)
    with Output(path, {**JOB, "model": "other"}, overwrite=True) as out:
        assert out.resumed == 0
        out.write(ROWS[0])
        out.finish()
    assert len(path.read_text().splitlines()) == 1


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Output(tmp_path / "o.jsonl", JOB),
        pytest.raises(InputError, match="is being written by another process"),
    ):
        Output(tmp_path / "o.jsonl", JOB)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text("mine")
    with pytest.raises(InputError, match="already exists; use --overwrite"):
        Output(tmp_path / "o.jsonl", JOB)
    assert (tmp_path / "o.jsonl").read_text() == "mine"
    for name in ("o.csv", "o", "o.parquet.gz"):
        with pytest.raises(InputError, match=r"must end in \.jsonl, \.run or \.parquet"):
            Output(tmp_path / name, JOB)
    with pytest.raises(InputError, match="cannot be written"):
        Output(tmp_path / "none" / "o.jsonl", JOB)


def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl.gz"
    write(path, ROWS[:20])
    (tmp_path / "o.jsonl.gz.partial").write_bytes(b"not gzip at all")
    with pytest.raises(InputError, match="not gz, or damaged"):
        Output(path, JOB)


@pytest.mark.parametrize("line", ["garbage", "{}", "[]", '{"id": [5]}'])
def test_a_line_that_is_no_row_is_not_gone_on_with(tmp_path: Path, line: str) -> None:
    path = tmp_path / "o.jsonl"
    write(path, ROWS[:20])
    with (tmp_path / "o.jsonl.partial").open("a") as file:
        file.write(line + "\n")
    with (
        Output(path, JOB) as out,
        pytest.raises(InputError, match="partial, line 21: not a row of a bulk job; remove"),
    ):
        list(out.done())


def test_a_job_that_is_no_job_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write(path, ROWS[:20])
    for text in ("[1]", "5", "{"):
        (tmp_path / "o.jsonl.partial.json").write_text(text)
        with pytest.raises(InputError, match="does not say which job"):
            Output(path, JOB)
