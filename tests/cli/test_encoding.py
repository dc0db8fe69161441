"""Files that are not UTF-8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

QUERY, RIGHT, WRONG = "中国的首都", "北京是首都。", "上海是城市。"
ROW = {"query": QUERY, "documents": [RIGHT, WRONG], "labels": [1, 0]}
FILES = {
    "documents.txt": f"{RIGHT}\n{WRONG}\n",
    "pairs.tsv": f"{QUERY}\t{RIGHT}\n{QUERY}\t{WRONG}\n",
    "rows.jsonl": json.dumps(ROW, ensure_ascii=False) + "\n",
}
COMMANDS = {
    "rank": ["rank", QUERY, "--file", "documents.txt", "--jsonl"],
    "score": ["score", "pairs.tsv", "--jsonl"],
    "bulk": ["bulk", "rows.jsonl", "--output", "-", "--text"],
    "eval": ["eval", "--data", "rows.jsonl", "--json"],
    "explain": ["explain", QUERY, "--file", "documents.txt", "--jsonl"],
}


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_bytes(text.encode("gb18030"))


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_read_in_its_encoding(command: str, crossrank: Run, tiny: str) -> None:
    arguments = [*COMMANDS[command], "--model", tiny]
    refused = crossrank(*arguments)
    assert refused.code == 2
    assert "Use --encoding gb18030" in refused.err
    read = crossrank(*arguments, "--encoding", "GB18030")
    assert read.code == 0, read.err
    assert command == "eval" or RIGHT in read.out


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("option", ["--run", "--first-stage"])
def test_a_run_is_read_in_the_encoding_of_the_others(option: str, crossrank: Run, tiny: str) -> None:
    row = ROW | {"documents": [{"id": "甲", "text": RIGHT}, {"id": "乙", "text": WRONG}]}
    Path("ids.jsonl").write_bytes(json.dumps(row, ensure_ascii=False).encode("gb18030"))
    Path("ids.run").write_bytes("0 Q0 0/甲 1 2.0 x\n0 Q0 0/乙 2 1.0 x\n".encode("gb18030"))
    done = crossrank(
        *("eval", "--data", "ids.jsonl", option, "ids.run", "--encoding", "gb18030", "--json"),
        *("--metric", "MRR@10", "--model", tiny),
    )
    assert done.code == 0, done.err
    first_stage, *others = json.loads(done.out)["systems"]
    given = first_stage if option == "--first-stage" else others[0]
    assert given["metrics"]["MRR@10"]["mean"] == 1.0


def test_an_unknown_encoding_is_one_line(crossrank: Run) -> None:
    done = crossrank("rank", "q", "a", "--encoding", "klingon")
    assert done.code == 2
    assert done.err.startswith("error: --encoding 'klingon' is not known")
    assert done.err.count("\n") == 1
