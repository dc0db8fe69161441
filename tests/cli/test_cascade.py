import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def rows(tmp_path: Path) -> str:
    texts = ["Paris", "Lyon is a city.", "Beijing is the capital of China.", "tea", "---"]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"id": "same", "query": f"q {n}", "documents": texts}) + "\n" for n in range(3))
    )
    return str(path)


def test_how_many_documents_the_large_model_must_read(crossrank: Run, tiny: str, rows: str) -> None:
    done = crossrank("cascade", "--tune", "--queries", rows, "--model", tiny, "--top-n", "1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["first"], found["model"], found["queries"]) == ("crossrank-mini", "tiny", 3)
    agreement = {point["keep"]: point["agreement"] for point in found["points"]}
    assert agreement[found["keep"]] == 1.0
    assert found["points"][-1]["keep"] == 4  # the blank text is read by none
    assert found["points"][-1]["metrics"] == {}
    text = crossrank("cascade", "--tune", "--queries", rows, "--model", tiny, "--top-n", "1").out
    assert f"Use keep={found['keep']}: the top 1 is that of tiny alone for 100.0% of the queries" in text
    assert "With 3 queries, 99% of them are all of them" in text


def test_labels_are_measured(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"query": "q", "documents": ["a", "b"], "labels": [0, 1]}) + "\n")
    done = crossrank("cascade", "--tune", "--queries", str(path), "--model", tiny, "--json")
    assert [list(point["metrics"]) for point in json.loads(done.out)["points"]] == [["nDCG@10"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to do: --tune measures which number suits --keep"),
        (["--tune", "--agreement", "0"], "--agreement is 0.0; it must be above 0, and 1 at most"),
        (["--tune", "--agreement", "99"], "--agreement is 99.0"),
        (["--tune", "--top-n", "0"], "'--top-n'"),
        (["--tune", "--first", "/none/such"], "/none/such"),
    ],
)
def test_what_cannot_be_done(
    crossrank: Run, tiny: str, rows: str, arguments: list[str], message: str
) -> None:
    done = crossrank("cascade", "--queries", rows, "--model", tiny, *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_file_without_documents(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"query": "q", "documents": []}) + "\n")
    done = crossrank("cascade", "--tune", "--queries", str(path), "--model", tiny)
    assert done.code == 2
    assert "there are no documents to rank" in done.err
