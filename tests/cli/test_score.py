import json
from pathlib import Path

import pytest

from crossrank import Reranker
from tests.cli.conftest import Run

PAIRS = [("q1", "a"), ("q2", "中国的首都是北京。"), ("q1", "a")]


@pytest.fixture
def tsv(tmp_path: Path) -> str:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{query}\t{document}\n" for query, document in PAIRS))
    return str(file)


def test_scores_are_in_input_order(crossrank: Run, tiny: str, tsv: str) -> None:
    expected = Reranker(tiny).score(PAIRS)
    lines = crossrank("score", tsv, "--model", tiny, "--tsv").out.splitlines()
    assert lines[0] == "score\tquery\tdocument"
    assert [tuple(line.split("\t")[1:]) for line in lines[1:]] == PAIRS
    assert [float(line.split("\t")[0]) for line in lines[1:]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_logits_on_request(crossrank: Run, tiny: str, tsv: str) -> None:
    expected = Reranker(tiny).logits(PAIRS)
    lines = crossrank("score", tsv, "--model", tiny, "--tsv", "--raw").out.splitlines()
    assert lines[0] == "logit\tquery\tdocument"
    assert [float(line.split("\t")[0]) for line in lines[1:]] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_table(crossrank: Run, tiny: str, tsv: str) -> None:
    done = crossrank("score", tsv, "--model", tiny)
    assert done.code == 0
    assert "中国的首都是北京。" in done.out


def test_json_lines_in_and_out(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": "q", "document": "a", "id": 1, "score": "mine"}, {"query": "q", "text": "b", "id": 2}]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = [
        json.loads(x) for x in crossrank("score", str(file), "--model", tiny, "--jsonl").out.splitlines()
    ]
    assert [(row["query"], row["document"], row["id"]) for row in found] == [("q", "a", 1), ("q", "b", 2)]
    assert all(0 < row["score"] < 1 for row in found)
    assert [row["truncated"] for row in found] == [False, False]
    whole = json.loads(crossrank("score", str(file), "--model", tiny, "--json").out)
    assert whole["results"] == found


def test_a_pair_that_was_cut_says_so(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(f"q\tshort\nq\t{'long ' * 20}\n")
    command = ["score", str(file), "--model", tiny, "--max-length", "16"]
    rows = [json.loads(line) for line in crossrank(*command, "--jsonl").out.splitlines()]
    assert [row["truncated"] for row in rows] == [False, True]
    assert json.loads(crossrank(*command, "--json").out)["results"] == rows
    table = crossrank(*command).out.splitlines()
    assert ["(truncated)" in line for line in table if " q " in line] == [False, True]


def test_a_query_that_was_cut_says_so(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(f"{'long ' * 20}\tshort\nq\tshort\n")
    command = ["score", str(file), "--model", tiny, "--max-length", "16"]
    rows = [json.loads(line) for line in crossrank(*command, "--jsonl").out.splitlines()]
    assert [(row["query_truncated"], row["truncated"]) for row in rows] == [(True, False), (False, False)]
    table = crossrank(*command).out
    assert table.count("(truncated)") == 1
    assert table.index("long") < table.index("(truncated)") < table.index("short")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"query\tdocument\nno tab\n", "line 2: no tab"),
        (b"query\tdocument\tmore\n", "line 1: more than one tab"),
        (b'{"query": "q", "document": "d"}\n{"query": "q"}\n', 'line 2: the field "document" is missing'),
        (b'{"document": "d"}\n', 'line 1: the field "query" is missing'),
        (b'{"query": "q", "document": null}\n', 'line 1: the field "document" is not a string'),
        (b"q\t\xff\n", "line 1: not UTF-8"),
        (b"\n", "no pairs in"),
    ],
)
def test_bad_files_are_refused_with_the_line(
    crossrank: Run, tiny: str, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "pairs"
    file.write_bytes(content)
    done = crossrank("score", str(file), "--model", tiny)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_long_document_has_the_score_of_its_best_window(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    document = " ".join(f"Sentence {i} has the number {i * i}." for i in range(50))
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": "49", "document": document}, {"query": "49", "document": "short"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    done = crossrank(
        "score", str(file), "--model", tiny, "--max-length", "64", "--long", "windows", "--jsonl"
    )
    first, second = map(json.loads, done.out.splitlines())
    start, end = first["window"]
    assert "window" not in second
    alone = Reranker(tiny, max_length=64).logits([("49", document[start:end])])
    assert first["logit"] == pytest.approx(float(alone[0]), abs=1e-4)
