import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.evaluation.test_pool import WORDS

CRANFIELD = str(Path(__file__).parents[1] / "data" / "cranfield")


@pytest.mark.full  # the report needs Matplotlib
def test_cranfield_in_one_command(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    options = ["--precision", "fp32", "--precision", "int8", "--depth", "6", "--device", "cpu"]
    done = crossrank("eval", "--data", CRANFIELD, "--model", tiny, *options, "--html", str(html), "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["collection"], found["queries"], found["documents"]) == ("cranfield", 8, 85)
    assert [system["name"] for system in found["systems"]] == ["BM25", "tiny fp32", "tiny int8"]
    bm25, fp32, _ = found["systems"]
    assert list(bm25["metrics"]) == ["nDCG@10", "MRR@10", "MAP", "Recall@100", "P@10"]
    per_query = fp32["metrics"]["nDCG@10"]["per_query"]
    assert list(per_query) == [str(n) for n in range(1, 9)]
    entry = fp32["metrics"]["nDCG@10"]
    assert entry["mean"] == pytest.approx(sum(per_query.values()) / 8)
    assert entry["difference"] == pytest.approx(entry["mean"] - bm25["metrics"]["nDCG@10"]["mean"])
    assert entry["interval_95"] is None  # of 8 queries
    # Reranking all candidates finds no other ones.
    assert fp32["metrics"]["Recall@100"]["difference"] == 0
    assert fp32["cost"]["pairs"] == 48
    assert fp32["cost"]["pairs_per_second"] > 0
    assert bm25["cost"] is None
    page = html.read_text()
    assert page.count("<svg") == 4  # gains and scores of two systems
    assert "what similarity laws must be obeyed when constructing aeroelastic models" in page
    # Self-contained: nothing is loaded from elsewhere.
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(\s*[\"']?http", page)


def test_a_table_of_a_run_and_a_first_stage(crossrank: Run, tmp_path: Path) -> None:
    first, better = tmp_path / "first.run", tmp_path / "better.run"
    first.write_text("".join(f"{q} Q0 {d} 1 {s} t\n" for q in (1, 2) for d, s in ((3, 2), (12, 1))))
    better.write_text("".join(f"{q} Q0 {d} 1 {s} t\n" for q in (1, 2) for d, s in ((3, 1), (12, 2))))
    options = ["--first-stage", str(first), "--run", str(better), "--metric", "MRR", "--limit", "2"]
    done = crossrank("eval", "--data", CRANFIELD, *options)
    assert done.code == 0, done.err
    assert re.search(r"first stage\s+0\.5000", done.out)
    assert re.search(r"better\.run\s+1\.0000", done.out)
    assert re.search(r"better\.run\s+MRR\s+\+0\.5000\s+fewer than 10 queries\s+2\s+0", done.out)
    assert "matched by position" in done.out


def test_a_label_that_no_measure_bears_is_refused(crossrank: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    for label in (1001, 10**30):
        rows.write_text(json.dumps({"query": "q", "documents": ["a"], "labels": [label]}) + "\n")
        done = crossrank("eval", "--data", str(rows), "--model", "crossrank-mini")
        assert done.code == 2
        assert f"rows.jsonl, line 1: the label is {label}; labels are -1000 to 1000" in done.err


@pytest.mark.full  # the report needs Matplotlib
def test_rows_with_labels(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    documents = ["<b>bad</b> & worse", "good"]
    rows.write_text(json.dumps({"query": "q<script>", "documents": documents, "labels": [0, 1]}) + "\n")
    html = tmp_path / "r.html"
    done = crossrank("eval", "--data", str(rows), "--model", tiny, "--html", str(html), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["baseline"] == "first stage"
    page = html.read_text()
    assert "<script>" not in page
    assert "<b>bad" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", CRANFIELD], "nothing to measure: give a --model, a --run, or both"),
        (["--data", CRANFIELD, "--run", "x", "--precision", "int8"], "give a --model"),
        (["--data", "none", "--model", "m"], "none: there is no such folder or file"),
        (["--data", CRANFIELD, "--model", "m", "--metric", "nDGC"], "metric 'nDGC' is unknown"),
        (
            ["--data", CRANFIELD, "--model", "m", "--metric", "nDCG@0"],
            "the cutoff after @ must be from 1 to 1,000,000",
        ),
        (["--data", CRANFIELD, "--model", "m", "--html", "."], ". cannot be written"),
        (["--data", CRANFIELD, "--run", "none.run"], "none.run: there is no such file"),
        (["--data", CRANFIELD, "--model", "m", "--html", "none/r.html"], "there is no such folder"),
        (["--data", CRANFIELD, "--model", "crossrank-mini", "--precision", "fp8"], "precision is 'fp8'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(crossrank: Run, arguments: list[str], message: str) -> None:
    done = crossrank("eval", *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_pool_says_whether_a_model_reads_the_query(crossrank: Run, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"q{i}",
            "query": f"what is a {word}",
            "documents": [f"A {word} is this.", "No."],
            "labels": [1, 0],
        }
        for i, word in enumerate(WORDS[:10])
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--data", str(data), "-m", "crossrank-mini", "--pool"]
    found = json.loads(crossrank("eval", *options, "--json").out)
    assert found["queries"] == 10
    assert [system["name"] for system in found["systems"]] == ["BM25", "crossrank-mini"]
    assert found["systems"][0]["own_text_first"] == 1.0
    assert "own text first" in crossrank("eval", *options).out


@pytest.mark.parametrize("option", [["--metric", "MAP"], ["--html", "x.html"], ["--run", "x.run"]])
def test_pool_refuses_options_without_effect(option: list[str], crossrank: Run) -> None:
    done = crossrank("eval", "--data", "x", "-m", "crossrank-mini", "--pool", *option)
    assert done.code == 2
    assert f"--pool has no use for {option[0]}" in done.err


def test_a_cascade_has_a_curve(crossrank: Run, tiny: str) -> None:
    command = ["eval", "--data", CRANFIELD, "--model", tiny, "--first", "crossrank-mini", "--depth", "8"]
    command += ["--metric", "nDCG@10", "--keep", "2", "--keep", "8"]
    found = json.loads(crossrank(*command, "--json").out)
    names = ["BM25", "crossrank-mini (first)", "tiny"]
    assert [system["name"] for system in found["systems"]] == names
    (curve,) = found["cascades"]
    assert (curve["first"], curve["model"]) == ("crossrank-mini (first)", "tiny")
    assert [(point["keep"], point["pairs"]) for point in curve["points"]] == [(2, 16), (8, 64)]
    # Where the large model reads all, the result is its own.
    assert curve["points"][1]["metrics"]["nDCG@10"] == found["systems"][2]["metrics"]["nDCG@10"]["mean"]
    text = crossrank(*command).out
    assert "crossrank-mini (first), then tiny on the best documents of it" in text
    assert "same top 10" in text


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--long", "split"], "long is 'split'"),
        (["--long", "windows", "--max-windows", "0"], "max_windows is 0"),
    ],
)
def test_how_long_documents_are_read_is_the_models_matter(
    crossrank: Run, tiny: str, options: list[str], wrong: str
) -> None:
    done = crossrank("eval", "--data", CRANFIELD, "--model", tiny, "--limit", "1", *options)
    assert (done.code, wrong in done.err) == (2, True)
