"""Options without effect get a line on stderr, whatever becomes of the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crossrank.server import run as server
from tests.cli.conftest import Run

ROWS = json.dumps({"query": "q", "documents": ["a", "b"], "labels": [1, 0]}) + "\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files to read, and a server that does not start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "run", lambda *_, **__: None)
    Path("rows.jsonl").write_text(ROWS)
    Path("pairs.tsv").write_text("q\ta\n")
    Path("text").write_text("One. Two.")
    Path("some.run").write_text("0 Q0 0/0 1 2.0 x\n")


NONE = "no effect"
UNUSED = [
    ("rank q a --raw --json", "--raw has no effect: with --json and --jsonl"),
    ("rank q a --raw --jsonl", "--raw has no effect"),
    ("rank q a --encoding big5", "--encoding has no effect: it is for --file"),
    ("rank q a --from modelscope", "--from has no effect: the model is on this machine"),
    ("rank q a --keep 5", "--keep has no effect: it is for a cascade; name its small model with --first"),
    ("bulk rows.jsonl -o - --keep 0.5", "--keep has no effect: it is for a cascade"),
    ("eval --data rows.jsonl -m crossrank-mini --keep 1", "--keep has no effect: it is for a cascade"),
    ("rank q a --max-windows 5", "--max-windows has no effect: it is for --long windows"),
    ("score pairs.tsv --max-windows 5", "--max-windows has no effect"),
    ("explain q d --max-windows 5 --long cut", "--max-windows has no effect"),
    ("bulk rows.jsonl -o - --max-windows 5", "--max-windows has no effect"),
    ("eval --data rows.jsonl -m crossrank-mini --max-windows 5", "--max-windows has no effect"),
    ("eval --data rows.jsonl --run some.run --long windows", "--long has no effect: it is for models"),
    ("score pairs.tsv --raw --json", "--raw has no effect"),
    ("score pairs.tsv --from modelscope", "--from has no effect"),
    ("explain q d --raw --json", "--raw has no effect"),
    ("explain q d --encoding big5", "--encoding has no effect"),
    ("eval --data rows.jsonl --run some.run --threads 1", "--threads has no effect: it is for models"),
    ("eval --data rows.jsonl --run some.run --offline", "--offline has no effect"),
    ("eval --data rows.jsonl -m crossrank-mini --pool --depth 5", "--depth has no effect: with --pool"),
    ("eval --data . --run some.run --text-field t", "--text-field has no effect: it is for a file of rows"),
    ("eval --data irds:none/such --run some.run --text-field t", "--text-field has no effect"),
    ("eval --data . --run some.run --qrels q --split dev", "--split has no effect"),
    ("bulk rows.jsonl -o - --overwrite", "--overwrite has no effect: standard output cannot be resumed"),
    ("bulk rows.jsonl -o o.run --text", "--text has no effect: a run has no texts"),
    ("bulk rows.jsonl -o o.run.gz --text", "--text has no effect: a run has no texts"),
    ("bulk rows.parquet -o - --encoding big5", "--encoding has no effect: Parquet is UTF-8"),
    ("bulk pairs.tsv -o - --text-field t", "--text-field has no effect: TSV has no fields"),
    ("bulk pairs.tsv -o - --top-n 3", "--top-n has no effect: TSV has pairs"),
    ("serve --uds s --host 0.0.0.0", "--host has no effect: the server listens on the Unix socket"),
    ("serve --uds s --port 1", "--port has no effect: the server listens on the Unix socket"),
    (
        "cascade --tune --queries rows.jsonl -m crossrank-mini --max-windows 2",
        "--max-windows has no effect: it is for --long windows",
    ),
    ("serve --keep 5", "--keep has no effect: it is for a cascade"),
    ("serve --api-key k --allowed-host a.b", "--allowed-host has no effect: with keys"),
    ("serve -m a=crossrank-mini --from modelscope", "--from has no effect"),
    ("play --no-browser --from modelscope", "--from has no effect"),
    ("verify --pairs pairs.tsv --from modelscope", "--from has no effect"),
    *(
        (
            f"verify --server nonsense --golden -m someone/model {option}",
            f"{option.split()[0]} has no effect: with",
        )
        for option in (
            "--revision main",
            "--from modelscope",
            "--max-length 64",
            "--batch-tokens 64",
            "--precision fp32",
            "--device cpu",
            "--threads 1",
            "--offline",
        )
    ),
    ("models pull crossrank-mini --from modelscope", "--from has no effect: the model is on this machine"),
    ("models show --from modelscope", "--from has no effect: the model is on this machine"),
    ("models path . --from modelscope", "--from has no effect: the model is on this machine"),
]


@pytest.mark.parametrize(("line", "message"), UNUSED, ids=[line for line, _ in UNUSED])
def test_an_option_without_effect_gets_a_line(line: str, message: str, crossrank: Run) -> None:
    done = crossrank(*line.split())
    assert f"warning: {message}" in done.err
    assert done.err.count(NONE) == 1


USED = [
    "rank q a --raw --tsv",
    "rank q a --first crossrank-mini --keep 1",
    "rank q --file text --encoding utf-8 --json",
    "score pairs.tsv --raw",
    "explain q --file text --encoding utf-8",
    "eval --data rows.jsonl --run some.run --depth 5 --text-field text --encoding utf-8",
    "bulk rows.jsonl -o o.jsonl --text --overwrite --top-n 1 --text-field text --encoding utf-8",
    "serve --host 0.0.0.0 --port 1 --allowed-host a.b",
    "serve -m BAAI/bge-reranker-base --from modelscope",
    "models path crossrank-mini",
]


@pytest.mark.parametrize("line", USED)
def test_an_option_with_effect_gets_none(line: str, crossrank: Run) -> None:
    done = crossrank(*line.split())
    assert done.code == 0, done.err
    assert NONE not in done.err


def test_an_option_of_the_server_is_an_error_alone(crossrank: Run) -> None:
    done = crossrank("rank", "q", "a", "--server", "http://127.0.0.1:1", "--keep", "1")
    assert done.code == 2
    assert done.err.startswith("error: --keep is an option of the server")


def test_a_variable_of_serve_counts_as_its_option(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRANK_HOST", "0.0.0.0")
    assert "--host has no effect" in crossrank("serve", "--uds", "s").err
    assert NONE not in crossrank("serve").err


def test_a_folder_in_models_is_on_this_machine(crossrank: Run, tiny: str) -> None:
    shutil.copytree(tiny, Path("models") / "tiny")
    done = crossrank("rank", "q", "a", "--model", "someone/tiny", "--from", "modelscope")
    assert (done.code, done.err) == (0, "warning: --from has no effect: the model is on this machine\n")
