import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from crossrank import InputError, Reranker
from crossrank import reranker as reranker_module
from crossrank.bulk.job import answers_as_they_come
from crossrank.bulk.output import Output
from crossrank.cli.bulk import ProgressLines
from crossrank.data.rows import Document, Row
from tests.cli.conftest import Run

CRANFIELD = str(Path(__file__).parents[1] / "data" / "cranfield")
ROWS = [
    {
        "id": "a",
        "query": "capital of China",
        "documents": ["a panda", {"id": "x", "text": "Beijing"}, "Paris"],
    },
    {"id": "b", "query": "q", "documents": []},
]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def test_a_file_is_reranked(crossrank: Run, tiny: str, rows: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = crossrank("bulk", rows, "-o", str(out), "--model", tiny, "--top-n", "2")
    assert done.code == 0
    assert done.out == ""
    assert f"{out}: 3 pairs in" in done.err
    expected = Reranker(tiny).rank("capital of China", ["a panda", "Beijing", "Paris"], top_n=2)
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["id"] == "a"
    names = ["0", "x", "2"]
    assert [hit["id"] for hit in first["results"]] == [names[hit.index] for hit in expected]
    assert second == {"id": "b", "results": []}


def test_standard_input_and_output(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = crossrank("bulk", rows, "-o", "-", "--model", tiny, "--text")
    with Path(rows).open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        piped = crossrank("bulk", "-", "-o", "-", "--model", tiny, "--text")
    assert piped.out == done.out
    first, _ = map(json.loads, done.out.splitlines())
    assert first["query"] == "capital of China"
    assert {hit["text"] for hit in first["results"]} == {"a panda", "Beijing", "Paris"}


def test_shards_together_are_the_whole(crossrank: Run, tiny: str, rows: str, tmp_path: Path) -> None:
    ids = []
    for shard in ("1/2", "2/2"):
        out = tmp_path / f"{shard[0]}.jsonl.gz"
        assert crossrank("bulk", rows, "-o", str(out), "--model", tiny, "--shard", shard).code == 0
        whole = crossrank("bulk", rows, "-o", "-", "--model", tiny, "--shard", shard).out
        ids += [json.loads(line)["id"] for line in whole.splitlines()]
    assert ids == ["a", "b"]


def test_a_run_of_a_collection(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    run, out = tmp_path / "first.run", tmp_path / "out.run"
    run.write_text("3 Q0 5 1 2.5 t\n3 Q0 6 2 1.5 t\n1 Q0 12 1 9 t\n")
    assert crossrank("bulk", str(run), "--data", CRANFIELD, "-o", str(out), "--model", tiny).code == 0
    lines = [line.split() for line in out.read_text().splitlines()]
    assert [(line[0], line[3], line[5]) for line in lines] == [
        ("3", "1", "crossrank"),
        ("3", "2", "crossrank"),
        ("1", "1", "crossrank"),
    ]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["-o", "out.csv"], "must end in .jsonl"),
        (["-o", "out.jsonl", "--shard", "3/2"], "shard is '3/2'"),
        (["-o", "out.jsonl", "--actors", "2"], "--actors is for a cluster"),
        (["-o", "out.jsonl", "--queries", "topics"], "--queries is for a run"),
        (["-o", "-", "--ray", "local"], "input and output must be files"),
        (["-o", "none/out.jsonl"], "cannot be written"),
        (["-o", "out.jsonl", "--depth", "0"], "--depth"),
    ],
)
def test_options_that_are_wrong(
    crossrank: Run,
    tiny: str,
    rows: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = crossrank("bulk", rows, "--model", tiny, *extra)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_malformed_line_at_the_end_shows_before_the_work(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path
) -> None:
    with Path(rows).open("a") as file:
        file.write("{\n")
    done = crossrank("bulk", rows, "-o", str(tmp_path / "out.jsonl"), "--model", tiny)
    assert done.code == 2
    assert "in.jsonl, line 3, column 2: not JSON" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_input_is_not_written_over(crossrank: Run, tiny: str, rows: str, tmp_path: Path) -> None:
    before = Path(rows).read_text()
    (tmp_path / "link.jsonl").symlink_to(rows)
    for file, out in ((rows, rows), (rows, f"{tmp_path}/./in.jsonl"), (str(tmp_path / "link.jsonl"), rows)):
        done = crossrank("bulk", file, "-o", out, "--model", tiny, "--overwrite")
        assert done.code == 2
        assert "is the input" in done.err
    assert Path(rows).read_text() == before


def test_an_input_that_can_be_read_only_once_is_refused(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = crossrank("bulk", str(tmp_path / "pipe"), "-o", str(tmp_path / "out.jsonl"), "--model", tiny)
    assert done.code == 2
    assert "give it on standard input" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_an_output_that_is_a_folder_is_refused_at_once(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path
) -> None:
    (tmp_path / "d.jsonl").mkdir()
    done = crossrank("bulk", rows, "-o", str(tmp_path / "d.jsonl"), "--model", tiny, "--overwrite")
    assert done.code == 2
    assert "d.jsonl is a folder" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "in.jsonl"]


def test_another_input_is_not_gone_on_with(
    crossrank: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its rows have no ids, and so are called by their numbers."""
    monkeypatch.setattr(reranker_module, "_WINDOW_PACKS", 0)  # an answer at a time
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = [[f"text {n} of {name}" for n in range(600)] for name in ("one", "two")]
    written = [
        "".join(json.dumps({"query": "q", "documents": [text]}) + "\n" for text in each) for each in texts
    ]
    file.write_text(written[0])
    answer = Output.write

    def killed(self: Output, row: dict[str, Any]) -> None:
        if row["id"] == "300":
            raise KeyboardInterrupt
        answer(self, row)

    monkeypatch.setattr(Output, "write", killed)
    assert crossrank("bulk", str(file), "-o", str(out), "--model", tiny).code == 130
    monkeypatch.setattr(Output, "write", answer)
    file.write_text(written[1])
    done = crossrank("bulk", str(file), "-o", str(out), "--model", tiny)
    assert done.code == 2
    assert "was started with input" in done.err
    file.write_text(written[0])
    done = crossrank("bulk", str(file), "-o", str(out), "--model", tiny)
    assert done.code == 0
    assert "300 from before" in done.err


def test_an_id_that_comes_twice_is_no_run(crossrank: Run, tiny: str, rows: str, tmp_path: Path) -> None:
    with Path(rows).open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    done = crossrank("bulk", rows, "-o", str(tmp_path / "out.run"), "--model", tiny)
    assert done.code == 2
    assert "line 3: duplicate id 'a'" in done.err


@pytest.mark.parametrize("ending", ["", ".partial", ".partial.json", ".new"])
def test_the_input_is_never_written_over(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path, ending: str
) -> None:
    out = tmp_path / "out.jsonl"
    given = Path(rows).rename(tmp_path / f"out.jsonl{ending}")
    before = given.read_bytes()
    done = crossrank("bulk", str(given), "-o", str(out), "--model", tiny, "--overwrite")
    assert done.code == 2
    assert "the output must be another file" in done.err
    assert given.read_bytes() == before


def test_a_job_file_nested_too_deeply_is_one_line(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.partial").write_text('{"id": "a"}\n')
    (tmp_path / "out.jsonl.partial.json").write_text('{"a":' + "[" * 100_000)
    done = crossrank("bulk", rows, "-o", str(out), "--model", tiny)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "does not say which job" in done.err


def test_a_number_as_id_comes_back_as_a_number(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    given, out, table = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "out.parquet"))
    given.write_text(
        '{"id": 7, "query": "q", "documents": [{"id": 3, "text": "a"}, {"id": 4, "text": "b"}]}\n'
    )
    assert crossrank("bulk", str(given), "-o", str(out), "--model", tiny).code == 0
    assert crossrank("bulk", str(given), "-o", str(table), "--model", tiny).code == 0
    for row in (json.loads(out.read_text()), pq.read_table(table).to_pylist()[0]):
        assert row["id"] == 7
        assert {hit["id"] for hit in row["results"]} == {3, 4}
    given.write_text('{"query": "q", "documents": [{"id": 3, "text": "a"}, "b"]}\n')
    assert crossrank("bulk", str(given), "-o", str(table), "--model", tiny, "--overwrite").code == 0
    [row] = pq.read_table(table).to_pylist()
    assert row["id"] == "0"
    assert {hit["id"] for hit in row["results"]} == {"3", "1"}


def test_a_line_a_minute() -> None:
    now, lines = 0.0, list[str]()
    tell = ProgressLines("out.jsonl", 1000, lines.append, lambda: now)
    tell(100)  # of an earlier run
    for second in range(1, 150):
        now = float(second)
        tell(100 + second)
    assert lines == [
        "out.jsonl: 160 of 1000 pairs (16 %), 1 pairs/s",
        "out.jsonl: 220 of 1000 pairs (22 %), 1 pairs/s",
    ]


def test_rows_are_answered_before_more_are_waited_for() -> None:
    answered = threading.Event()

    def rows() -> Iterator[Row]:
        yield Row("line 1", "a", "tea", (Document("0", "green tea"),))
        assert answered.wait(60)
        yield Row("line 2", "b", "tea", (Document("0", "a pot"),))
        raise InputError("line 3")

    found = answers_as_they_come(Reranker(threads=1), rows())
    assert next(found)[1]["id"] == "a"
    answered.set()
    assert next(found)[1]["id"] == "b"
    with pytest.raises(InputError, match="line 3"):
        next(found)


def test_two_models_rerank_a_file(crossrank: Run, tiny: str, rows: str, tmp_path: Path) -> None:
    out = {ending: tmp_path / f"out.{ending}" for ending in ("jsonl", "run", "parquet")}
    command = ["bulk", rows, "--model", tiny, "--first", "crossrank-mini", "--keep", "2"]
    for path in out.values():
        assert crossrank(*command, "-o", str(path)).code == 0
    expected = Reranker(tiny, first="crossrank-mini", keep=2).rank(
        "capital of China", ["a panda", "Beijing", "Paris"]
    )
    found = json.loads(out["jsonl"].read_text().splitlines()[0])["results"]
    assert [(hit["index"], hit["model"]) for hit in found] == [(hit.index, hit.model) for hit in expected]
    table = pq.read_table(out["parquet"]).to_pylist()[0]["results"]
    assert [(hit["index"], hit["model"]) for hit in table] == [(hit.index, hit.model) for hit in expected]
    # Programs sort a run by its values: they must not mix the logits of two models.
    assert [line.split()[3:5] for line in out["run"].read_text().splitlines()] == [
        ["1", "-1"],
        ["2", "-2"],
        ["3", "-3"],
    ]


def test_a_job_is_not_resumed_with_another_first_model(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with Output(out, {"first": None}) as started:
        started.write({"id": "a", "results": []})
    done = crossrank("bulk", rows, "-o", str(out), "--model", tiny, "--first", "crossrank-mini")
    assert done.code == 2
    assert "use the same value as before" in done.err


def test_long_documents_of_a_file_are_read_in_windows(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    document = " ".join(f"Sentence {i} has the number {i * i}." for i in range(50))
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"id": "a", "query": "49", "documents": [document, "short"]}) + "\n")
    command = ["bulk", str(source), "--model", tiny, "--max-length", "64"]
    read = [*command, "--long", "windows"]
    expected = Reranker(tiny, max_length=64, long="windows").rank("49", [document, "short"])
    windows = [list(hit.window) if hit.window else None for hit in expected]
    assert sum(window is not None for window in windows) == 1
    out, table = tmp_path / "out.jsonl", tmp_path / "out.parquet"
    for path in (out, table):
        assert crossrank(*read, "-o", str(path)).code == 0
    found = json.loads(out.read_text())["results"]
    assert [hit.get("window") for hit in found] == windows
    assert [hit["window"] for hit in pq.read_table(table).to_pylist()[0]["results"]] == windows


def test_a_job_is_not_resumed_with_other_windows(
    crossrank: Run, tiny: str, rows: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with Output(out, {"long": "cut"}) as started:
        started.write({"id": "a", "results": []})
    done = crossrank("bulk", rows, "-o", str(out), "--model", tiny, "--long", "windows")
    assert done.code == 2
    assert "use the same value as before" in done.err
