import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.process import serving

pytestmark = pytest.mark.full  # FAISS, frameworks and Matplotlib, in processes of their own
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_pair() -> None:
    done = run("test.py", "crossrank-mini")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^相关性得分: (\d\.\d{4})$", done.stdout, re.MULTILINE)
    assert found
    # The document names the capital: an answer by any measure.
    assert float(found.group(1)) > 0.5


def test_the_default_is_v2_m3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for script in ("test.py", "test2.py"):
        done = run(script)
        assert done.returncode == 2
        assert done.stderr.startswith("error: BAAI/bge-reranker-v2-m3")
        assert "Traceback" not in done.stderr


def test_several_documents_and_the_picture(tmp_path: Path) -> None:
    picture = tmp_path / "scores.png"
    done = run("test2.py", "crossrank-mini", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.match(r"\d\. ", line)]
    assert len(lines) == 5
    assert "✓ 答案" in lines[0]
    assert "█" in lines[0]
    assert sum("关键词陷阱" in line for line in lines) == 3
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.stat().st_size > 10_000


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    for name in ("missing/x.png", "x.nonsense"):
        done = run("test2.py", "crossrank-mini", "--plot", str(tmp_path / name))
        assert done.returncode == 2
        assert done.stderr.startswith("error: cannot write")
        assert "Traceback" not in done.stderr


RAG = ["rag.py", "langchain_rag.py", "llamaindex_rag.py", "haystack_rag.py"]


@pytest.mark.parametrize("script", RAG)
def test_the_answer_comes_first_with_its_source(script: str) -> None:
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\n\nbefore: keywords and vectors, 20 candidates\n" in done.stdout
    before, after, passages = re.split(r"\n\n(?:after: CrossRank|for the language model)\n", done.stdout)
    source, answer = "en/amazon_rainforest.md:3", "Amazon rainforest The majority of the forest is contained"
    assert f"  {source}  {answer}" not in before
    first = after.splitlines()[0]
    assert re.match(rf"1  0\.\d{{3}}  \(was \d+\)  {source}  {answer}", first)
    assert re.findall(r"was (\d+)", first) == ["10"]  # as docs/integrations.md says
    assert passages.startswith(f"\n[1] {source}\nAmazon rainforest\n")
    assert "contained within Brazil, with 60% of the rainforest" in passages


def test_a_question_in_chinese_over_a_folder_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    text = "# 说明\n\n手机要充电。电池保持在两成到八成之间最耐用。\n\n## 其他\n\n今天天气很好。\n"
    (tmp_path / "notes" / "a.md").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text("Cats sleep most of the day.", encoding="utf-8")
    done = run("rag.py", "手机电池怎么保养才耐用？", "--folder", str(tmp_path), "--top", "1")
    assert done.returncode == 0, done.stderr
    assert "[1] notes/a.md:3\n说明\n手机要充电。电池保持在两成到八成之间最耐用。" in done.stdout


RUNS = """
import contextlib, io, json, runpy, sys

ended = []
script, calls = sys.argv[1], json.loads(sys.argv[2])
for arguments in calls:
    sys.argv = [script, *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit:
            code = exit.code or 0
    ended.append([code, out.getvalue(), err.getvalue()])
json.dump(ended, sys.stdout)
"""
"""Runs a script with several lists of arguments: most of the time of a run is for imports."""


@pytest.mark.parametrize("script", RAG)
def test_what_goes_wrong_is_one_line(script: str, tmp_path: Path) -> None:
    empty, folder, other = (tmp_path / name for name in ("empty", "folder", "other"))
    for made in (empty, folder, other):
        made.mkdir()
    for made in (folder, other):
        (made / "a.md").write_text("Cats sleep most of the day.", encoding="utf-8")
    (other / "b.txt").write_text("说明", encoding="gb18030")
    there = ["What?", "--folder", str(folder)]
    calls = [
        there,
        ["--folder", str(empty)],
        [" ", "--folder", str(folder)],
        [*there, "--model", "./none"],
        [*there, "--model", "http://127.0.0.1:9"],
        ["--folder", str(other)],
    ]
    command = [sys.executable, "-W", "error", "-c", RUNS, str(EXAMPLES / script), json.dumps(calls)]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=True)
    (right, answer, _), *failed = json.loads(done.stdout)
    assert right == 0
    assert "Cats sleep most of the day." in answer
    assert [(code, out) for code, out, _ in failed] == [(2, "")] * 5
    no_files, no_question, no_model, no_server, no_text = [err.removesuffix("\n") for _, _, err in failed]
    assert no_files == f"error: {empty} has no Markdown or text files to read"
    assert no_question == "error: the question is empty"
    assert no_model.startswith("error: the model folder none does not exist")
    assert no_server.startswith("error: http://127.0.0.1:9/ does not answer: ")
    assert no_text.startswith(f"error: {other / 'b.txt'} is not UTF-8: ")
    assert not any("\n" in line for line in (no_model, no_server, no_text))


def test_a_question_to_a_server(tmp_path: Path) -> None:
    with serving(tmp_path, "--model", "crossrank-mini", "--threads", "1") as server:
        server.wait_until_ready()
        served = run("rag.py", "--model", server.url)
    assert served.returncode == 0, served.stderr
    assert served.stdout == run("rag.py").stdout
