"""Exit codes, interruption, and what a user's mistake looks like, for every command."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import crossrank as package
from crossrank.cli import _LazyCommand, app
from tests.cli.conftest import Run

COMMAND = [sys.executable, "-m", "crossrank"]


def test_version_and_help(crossrank: Run) -> None:
    assert crossrank("--version").out == f"crossrank {package.__version__}\n"
    done = crossrank("--help")
    assert done.code == 0
    for command in ("rank", "score", "demo", "doctor", "models"):
        assert command in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank"], "Missing argument"),
        (["rank", "q"], "no documents"),
        (["rank", "q", "d", "--bogus"], "No such option"),
        (["rank", "q", "d", "--top-n", "x"], "--top-n"),
        (["rank", "q", "d", "--top-n", "-1"], "top_n is -1"),
        (["rank", "q", "d", "--threshold", "2"], "threshold is 2"),
        (["rank", "q", "d", "--json", "--tsv"], "exclude each other"),
        (["rank", "q", "d", "--device", "tpu"], "device is 'tpu'"),
        (["rank", "q", "d", "--precision", "fp8"], "precision is 'fp8'"),
        (["rank", "q", "d", "--max-length", "3"], "max_length is 3"),
        (["rank", "q", "d", "--max-length", "100000"], "reads at most 512 tokens"),
        (["rank", "q", "d", "--batch-tokens", "0"], "batch_tokens is 0"),
        (["rank", "q", "d", "--model", "no such model"], "no such model"),
        (["rank", "q", "d", "--model", "some/unknown", "--offline"], "some/unknown"),
        (["rank", "q", "d", "--model", "./no/folder"], "no/folder"),
        (["rank", "q", "--file", "no-such-file"], "no-such-file: there is no such file"),
        (["score", "no-such-file"], "no-such-file: there is no such file"),
        (["score", "/"], "/: Is a directory"),
        (["frobnicate"], "No such command"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    crossrank: Run, arguments: list[str], message: str
) -> None:
    done = crossrank(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_a_command_without_arguments_prints_its_help(crossrank: Run) -> None:
    for arguments in ([], ["models"]):
        done = crossrank(*arguments)
        assert "Usage" in done.out + done.err
        assert "error:" not in done.err


def test_an_engine_that_fails_is_exit_code_1(
    crossrank: Run, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossrank.engines.native import NativeEngine

    monkeypatch.setattr(NativeEngine, "logits", lambda self, pack: [float("nan")] * len(pack))
    done = crossrank("rank", "q", "d", "--model", tiny)
    assert done.code == 1
    assert done.err.startswith("error: pair 0 has the logit nan")
    assert done.err.count("\n") == 1


def test_ctrl_c_is_exit_code_130_without_a_traceback(tiny: str) -> None:
    waiting = subprocess.Popen(
        [*COMMAND, "score", "-", "--model", tiny],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell ignores SIGINT, and so would this one's child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # It reads standard input, which never ends.
    deadline = time.monotonic() + 60
    status = Path(f"/proc/{waiting.pid}/wchan")
    while time.monotonic() < deadline and "pipe" not in (status.read_text() if status.exists() else "pipe"):
        time.sleep(0.05)
    time.sleep(1)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
    assert waiting.stderr is not None
    with waiting.stderr:
        assert waiting.stderr.read().strip() == ""
    assert waiting.stdin is not None
    waiting.stdin.close()


def test_a_broken_pipe_is_quiet(tiny: str) -> None:
    lines = "\n".join(f"document {i} " * 20 for i in range(2000))
    command = [*COMMAND, "rank", "q", "--file", "-", "--tsv", "--model", tiny, "--max-length", "8"]
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    with running.stdin, running.stdout, running.stderr:
        running.stdin.write(lines)
        running.stdin.close()
        assert running.stdout.readline() == "rank\tindex\tscore\ttext\n"
        running.stdout.close()  # as head does
        assert running.wait(60) == 1
        assert running.stderr.read() == ""


def test_output_is_utf_8_whatever_the_stream_says(tiny: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*COMMAND, "rank", "首都", "北京", "--model", tiny], env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "北京" in done.stdout.decode("utf-8")
    assert "─" in done.stdout.decode("utf-8")


def test_an_error_may_name_a_path_that_is_not_ascii(tmp_path: Path) -> None:
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*COMMAND, "rank", "q", "a", "--model", tmp_path / "北京"], env=env, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


def test_a_full_disk_is_a_line_and_exit_code_1() -> None:
    with Path("/dev/full").open("w") as full:
        for command in (["--version"], ["models", "list"]):
            done = subprocess.run([*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True)
            assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_name_that_is_too_long_is_a_line_and_exit_code_2(crossrank: Run) -> None:
    done = crossrank("rank", "q", "a", "--model", "x" * 300)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_closed_standard_streams_are_empty_ones(tiny: str) -> None:
    shell = " ".join(COMMAND)
    for line in (f"{shell} models list >&-", f"{shell} --version >&- 2>&-"):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), line
    nothing = subprocess.run(
        ["sh", "-c", f"{shell} score - --model {tiny} <&-"], capture_output=True, text=True
    )
    assert "Traceback" not in nothing.stderr


def test_a_variable_that_nothing_reads_gets_a_line(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRANK_TIMEOUTS", "3")
    monkeypatch.setenv("CROSSRANK_NUM_THREADS", "1")
    monkeypatch.setenv("CROSSRANK_DRAIN_TIMEOUT", "1")
    monkeypatch.setenv("CROSSRANK_PORT_8080_TCP_ADDR", "10.0.0.1")  # of Kubernetes
    monkeypatch.setenv("CROSSRANK_API_SERVICE_HOST", "10.0.0.1")
    done = crossrank("--version")
    assert done.code == 0
    assert done.err == ("warning: CROSSRANK_TIMEOUTS is set and has no effect; is CROSSRANK_TIMEOUT meant?\n")


def test_the_help_of_all_commands_has_the_first_line_of_each_ones_own() -> None:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    for lazy in root.commands.values():
        assert isinstance(lazy, _LazyCommand)
        command = lazy.load()
        assert command.help.split("\n\n")[0].replace("\n", " ") == lazy.help


@pytest.mark.parametrize("command", ["rank", "eval", "serve", "bulk", "play", "verify"])
def test_help_says_what_a_user_gives(crossrank: Run, command: str) -> None:
    text = crossrank(command, "--help").out
    assert not re.search(r"--\w.*(<list|<bool| range>|INTEGER)", text)
    usage = text.split("Usage: ")[1].splitlines()[0]
    assert usage.strip().endswith(
        {"rank": "{QUERY} [DOCUMENTS]...", "bulk": "{FILE}"}.get(command, "[OPTIONS]")
    )


def test_help_does_not_say_what_type_a_flag_is(crossrank: Run) -> None:
    done = crossrank("rank", "--help")
    assert "--json" in done.out
    assert "-h" in done.out
    assert "<bool>" not in done.out
