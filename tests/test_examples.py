import re
import subprocess
import sys
from pathlib import Path

import pytest

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
