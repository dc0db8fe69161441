import json
from pathlib import Path

import pytest

from crossrank.cli.reading import Pair
from crossrank.cli.verify import group
from tests.cli.conftest import Run


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"query": q, "document": f"{q} {n}" * (n + 1), "label": int(n == 2)} for n in range(5) for q in "ab"
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_a_table(crossrank: Run, tiny: str, pairs: str) -> None:
    done = crossrank("verify", "--model", tiny, "--pairs", pairs, "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "10 pairs of 2 queries" in lines[0]
    assert "native engine" in lines[0]
    assert lines[2].split() == ["fp32", "bf16", "int8"]
    assert "Kendall's tau-b" in done.out
    assert "top-3 agreement" in done.out
    assert "top-10 agreement" not in done.out  # there are 5 documents
    assert "nDCG@10" in done.out


def test_json_of_one_precision(crossrank: Run, tiny: str, pairs: str) -> None:
    done = crossrank(
        "verify", "--model", tiny, "--pairs", pairs, "--precision", "bf16", "--json", "--device", "cpu"
    )
    found = json.loads(done.out)
    assert (found["model"], found["questions"], found["pairs"]) == (tiny, 2, 10)
    [cost] = found["costs"]
    assert cost["precision"] == "bf16"
    assert 0 < cost["logit_mean"] <= cost["logit_max"]
    assert set(cost["agreement"]) == {"1", "3", "10"}
    assert cost["agreement"]["10"] is None


def test_without_pairs_it_takes_its_own(crossrank: Run, tiny: str) -> None:
    command = ["verify", "--model", tiny, "--precision", "fp32", "--json", "--device", "cpu"]
    found = json.loads(crossrank(*command).out)
    assert found["questions"] == 19
    assert found["costs"][0]["logit_max"] == 0
    assert found["costs"][0]["tau"] == 1


def test_tsv_has_no_labels(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("a\tx\na\ty\n")
    done = crossrank("verify", "--model", tiny, "--pairs", str(file), "--device", "cpu")
    assert "nDCG" not in done.out
    assert "1.0000" in done.out


def test_queries_keep_their_order() -> None:
    questions = group([Pair("b", "1", {}), Pair("a", "2", {}), Pair("b", "3", {})])
    assert [(q.query, q.documents, q.labels) for q in questions] == [
        ("b", ("1", "3"), None),
        ("a", ("2",), None),
    ]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('{"query": "q", "document": "d", "label": 1}\n{"query": "q", "document": "e"}', [], "1 of 2 pairs"),
        ('{"query": "q", "document": "d", "label": "good"}', [], "is 'good'; it must be a number"),
        ('{"query": "q", "document": "d", "label": -1}', [], "is -1; it must be a number, 0 or more"),
        ("\n", [], "no pairs in"),
        ("q\td", ["--precision", "fp8"], "precision is 'fp8'"),
    ],
)
def test_a_mistake_is_one_line(
    crossrank: Run, tiny: str, tmp_path: Path, content: str, arguments: list[str], message: str
) -> None:
    file = tmp_path / "pairs"
    file.write_text(content)
    done = crossrank("verify", "--model", tiny, "--pairs", str(file), *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
