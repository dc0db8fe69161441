"""The README's commands work as they stand, and show what they really print, in both languages."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import Reranker
from crossrank._native import isas
from tests.server.process import serving

pytestmark = pytest.mark.full  # every command of the page, in a process of its own
ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
NUMBER = re.compile(r"\d\.\d+")
# The width that the README's output was printed at.
WIDTH = "100"


def blocks(readme: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)


def without_comments(code: str) -> list[str]:
    return [re.sub(r"\s+# .*| *# .*", "", line) for line in code.splitlines()]


@pytest.mark.parametrize("language", ["sh", "python", "text", "json"])
def test_both_languages_have_the_same_code_and_output(language: str) -> None:
    english, chinese = ([without_comments(b) for b in blocks(readme, language)] for readme in READMES)
    assert english == chinese
    assert english


def same(shown: str, real: str) -> None:
    """Equal but for what differs between processors: last digits, and the order of all but equal scores."""
    shown, real = (re.sub(r" on cpu, .*", "", text) for text in (shown, real))
    strip = [re.sub(r"[▏▎▍▌▋▊▉█]+", "", NUMBER.sub("N", text)).split() for text in (shown, real)]
    assert sorted(strip[0]) == sorted(strip[1])
    left, right = (sorted(float(x) for x in NUMBER.findall(text)) for text in (shown, real))
    assert left == pytest.approx(right, abs=0.05)


def test_the_demos_output_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDTH)
    command = [sys.executable, "-m", "crossrank", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # Some of the queries are left out where the dots are.
    shown, real = (text.strip().split("\n\n") for text in (blocks(READMES[0], "text")[1], done.stdout))
    places = [
        next(i for i, part in enumerate(real) if title(part) == title(each))
        for each in shown
        if each != "..."
    ]
    assert [places[0], places[-1]] == [0, len(real) - 1]
    assert len(places) == len(shown) - 1 >= 4
    same("\n\n".join(each for each in shown if each != "..."), "\n\n".join(real[i] for i in places))


def title(part: str) -> str:
    """The first words of a part of the demo's output, without figures."""
    return re.sub(r" on cpu, .*|\d.*", "", part.splitlines()[0])


def test_the_librarys_example_prints_what_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks(READMES[0], "python")[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    same(blocks(READMES[0], "text")[0], done.stdout)


def test_precisions_differ_between_instruction_sets_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [
        (query, text)
        for query in ("中国的首都是哪里？", "Why is the sky blue?")
        for text in (
            "北京是中国的政治中心。",
            "Air scatters short wavelengths more than long ones.",
            "Cats sleep.",
        )
    ]
    found: dict[str, list[Any]] = {"int8": [], "fp32": []}
    for isa in isas():
        monkeypatch.setenv("CROSSRANK_ISA", isa)
        for precision, logits in found.items():
            with Reranker(precision=precision, threads=1) as reranker:  # type: ignore[arg-type]
                logits.append(reranker.logits(pairs))
    assert len(found["int8"]) >= 2
    spread = {precision: np.ptp(logits, axis=0).max() for precision, logits in found.items()}
    assert spread["fp32"] < 1e-4
    # The page names the largest of many more pairs; other processors, and the next model, have another one.
    assert 0 < spread["int8"] < 2 * 0.33
    assert all("0.33" in readme.read_text() for readme in READMES)


COMMANDS = [
    line.split("     #")[0]
    for block in blocks(READMES[0], "sh")
    for line in block.splitlines()
    if "crossrank " in line and not line.startswith(("pip", "crossrank serve"))
] + [line.split("     #")[0] for line in blocks(READMES[0], "sh")[3].splitlines()]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_runs_as_it_stands(command: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=tmp_path,
        env={"PATH": f"{scripts}:/usr/bin:/bin", "HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_commands_are_all_there() -> None:
    names = {re.split(r"crossrank |python ", command)[-1].split()[0] for command in COMMANDS}
    assert {"rank", "score", "demo", "models", "doctor", "examples/test.py", "examples/test2.py"} <= names


def test_the_server_answers_as_is_shown(tmp_path: Path) -> None:
    sh = blocks(READMES[0], "sh")
    command = next(line for block in sh for line in block.splitlines() if line.startswith("crossrank serve"))
    curl = next(block for block in sh if block.startswith("curl"))
    with serving(tmp_path, *without_comments(command)[0].split()[2:]) as server:
        server.wait_until_ready()
        asked = curl.replace("http://127.0.0.1:8080", server.url)
        done = subprocess.run(["bash", "-euc", asked], capture_output=True, text=True, check=True)
    shown, real = json.loads(blocks(READMES[0], "json")[0]), json.loads(done.stdout)
    for answer in (shown, real):
        assert len(answer.pop("id")) == 32
        assert answer.pop("created") > 1_700_000_000
        answer["results"] = [hit | {"relevance_score": 0} for hit in answer["results"]]
    assert shown == real


def test_every_dependency_has_its_reason() -> None:
    metadata = (ROOT / "pyproject.toml").read_text()
    table = READMES[0].read_text().split("## What it needs")[1]
    ours = "server|client|otel|langchain|llamaindex|haystack|pyterrier|mcp|rag"
    extras = re.findall(rf"^(?:{ours}) = \[.*?\]$", metadata, re.MULTILINE | re.DOTALL)
    for name in re.findall(r'"([a-z0-9-]+)>=', metadata.split("[project.optional")[0] + "".join(extras)):
        if name in ("scikit-build-core", "nanobind"):  # what builds it, not what it needs
            continue
        assert name in table
