"""``crossrank models`` as a user runs it, against a hub on this machine."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossrank.models import resolve as models
from tests.checkpoints import write_xlm_roberta
from tests.cli.conftest import Run
from tests.hub import Hub

NAME = "some/reranker"
FILES = {
    "config.json": b'{"architectures": ["BertForSequenceClassification"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
}


class CommandLine:
    """The hub, and the command line with its environment and an empty working folder."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))
        }
        self.env = {
            **kept,
            "PYTHONPATH": str(Path(models.__file__).parents[2]),
            "HOME": str(folder),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": hub.url,
            "COLUMNS": "300",
        }

    def __call__(self, *arguments: str, answer: str = "") -> tuple[int, str, str]:
        code = "from crossrank.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, "models", *arguments],
            cwd=self.folder,
            env=self.env,
            input=answer,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Iterator[CommandLine]:
    with Hub() as hub:
        hub.add(NAME, FILES)
        yield CommandLine(hub, tmp_path)


def test_pull_path_list_and_remove(run: CommandLine) -> None:
    code, out, err = run("path", NAME)
    assert (code, out) == (2, "")
    assert "crossrank models pull some/reranker" in err

    code, out, err = run("pull", NAME)
    folder = Path(out.strip())
    assert code == 0, err
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert run("path", NAME) == (0, out, "")

    code, out, _ = run("list")
    assert code == 0
    (line,) = (line for line in out.splitlines() if NAME in line)
    assert line.split()[1:5] == ["cached", "7.1", "kB", folder.name[:8]]
    code, out, _ = run("list", "--json")
    found = [model for model in json.loads(out) if model["place"] == "cached"]
    size = sum(map(len, FILES.values()))
    assert found == [
        {
            "name": NAME,
            "place": "cached",
            "path": str(folder),
            "size": size,
            "revision": folder.name,
            "complete": True,
        }
    ]

    assert run("remove", NAME, answer="n\n")[0] == 130
    assert folder.is_dir()
    code, out, err = run("remove", NAME, "--yes")
    assert (code, out) == (0, "")
    assert "freed" in err
    assert not folder.exists()


def test_pull_a_revision(run: CommandLine) -> None:
    first = run.hub.repos[NAME].refs["main"]
    run.hub.add(NAME, {**FILES, "config.json": b"{}"})
    code, out, _ = run("pull", NAME, "--revision", first)
    assert (code, Path(out.strip()).name) == (0, first)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pull", "no/such"), "no model no/such"),
        (("pull", NAME, "--revision", "v9"), "no revision 'v9'"),
        (("pull", NAME, "--from", "ftp"), "source is 'ftp'"),
        (("remove", "crossrank-mini"), "part of the package"),
        (("remove", "no/such"), "not in the cache"),
        (("path", "./nothing"), "does not exist"),
    ],
)
def test_a_mistake_is_one_line(run: CommandLine, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_no_network_is_one_line(run: CommandLine) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run.env["HF_ENDPOINT"] = endpoint
    code, out, err = run("pull", NAME)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in (endpoint, "HF_ENDPOINT", "--from modelscope", str(run.folder / "models")):
        assert word in err


def test_prepared_weights_are_listed_and_cleaned(
    crossrank: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "cache"))
    done = crossrank("models", "clean")
    assert (done.code, done.out) == (0, "")
    assert "nothing to delete" in done.err
    folder = write_xlm_roberta(tmp_path / "mine")
    for precision in ("fp32", "int8"):
        assert crossrank("rank", "q", "d", "--model", str(folder), "--precision", precision).code == 0

    lines = [line.split() for line in crossrank("models", "list").out.splitlines()]
    shown = [line for line in lines if line[:2] == ["mine", "prepared"]]
    assert [line[4] for line in shown] == ["fp32", "int8"]
    rows = [r for r in json.loads(crossrank("models", "list", "--json").out) if r["place"] == "prepared"]
    assert [row["size"] for row in rows] == [Path(row["path"]).stat().st_size for row in rows]
    assert {(row["name"], row["state"], row["source"]) for row in rows} == {("mine", "current", str(folder))}
    assert "nothing to delete" in crossrank("models", "clean", "--yes").err

    write_xlm_roberta(folder, seed=1)
    assert crossrank("models", "list").out.count("outdated") == 2
    done = crossrank("models", "clean", "--yes")
    assert done.code == 0
    assert done.err.count(": outdated, ") == 2
    assert done.err.endswith("kB freed\n")
    assert list((tmp_path / "cache").glob("*.*")) == []

    crossrank("rank", "q", "d", "--model", str(folder))
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert crossrank("models", "clean", "--all").code == 130
    assert len(list((tmp_path / "cache").glob("*.*"))) == 1
    assert crossrank("models", "clean", "--all", "--yes").code == 0
    assert list((tmp_path / "cache").glob("*.*")) == []


def test_nothing_in_a_model_commands_the_terminal(
    crossrank: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSRANK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    title, clear = "\x1b]0;owned\x07", "\x9b2J"
    folder = tmp_path / "models" / f"a{title}[red]"
    folder.mkdir(parents=True)
    config = {"architectures": [title, clear], "model_type": title}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    for command in (
        ("models", "list"),
        ("rank", "q", "d", "-m", str(folder)),
        ("doctor", "--no-network", "-m", str(folder)),
    ):
        done = crossrank(*command)
        assert not {"\x1b", "\x07", "\x9b"} & set(done.out + done.err), command
        assert "owned" in done.out + done.err
        assert "\ufffd" in done.out + done.err
    assert "[red]" in crossrank("models", "list").out


def test_show(run: CommandLine) -> None:
    code, out, err = run("show")
    assert (code, err) == (0, "")
    assert "family    BERT" in out
    assert "native on cpu" in out
    facts = json.loads(run("show", "crossrank-mini", "--json")[1])
    assert facts["family"] == "BERT"
    assert facts["template"] == "<s> query </s></s> document </s>"
    assert facts["max_tokens"] == 512
