"""What ``make test`` does about a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).with_name("chromium.sh")


def run(path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The script where there is nothing but a shell and the commands in ``path``."""
    shell = shutil.which("sh")
    assert shell
    env = {"PATH": str(path), **env}
    return subprocess.run([shell, str(SCRIPT)], env=env, capture_output=True, text=True, check=False)


def command(path: Path, name: str, script: str) -> None:
    path.mkdir(exist_ok=True)
    (path / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
    (path / name).chmod(0o755)


def test_a_browser_that_is_there_is_left_alone(tmp_path: Path) -> None:
    command(tmp_path / "a", "chromium", "exit 0")
    done = run(tmp_path / "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command(tmp_path / "b", "mine", "exit 0")
    assert run(tmp_path / "b", CROSSRANK_CHROMIUM=str(tmp_path / "b" / "mine")).returncode == 0


def test_one_is_installed_by_root_on_debian(tmp_path: Path) -> None:
    command(tmp_path / "bin", "id", "echo 0")
    command(tmp_path / "bin", "true", "exit 0")
    command(tmp_path / "bin", "env", 'shift; exec "$@"')
    command(tmp_path / "bin", "apt-get", f'echo "$@" >> {tmp_path}/asked')
    assert run(tmp_path / "bin").returncode == 0
    asked = (tmp_path / "asked").read_text()
    assert asked.splitlines()[0] == "update -qq"
    assert " chromium fonts-noto-cjk" in asked


def test_another_user_gets_playwrights_own_and_no_sudo(tmp_path: Path) -> None:
    for name in ("sudo", "apt-get", "playwright"):
        command(tmp_path / "bin", name, f'echo {name} "$@" >> {tmp_path}/asked')
    command(tmp_path / "bin", "id", "echo 1000")
    assert run(tmp_path / "bin").returncode == 0
    assert (tmp_path / "asked").read_text() == "playwright install chromium\n"


def test_where_nothing_can_be_installed_it_says_what_to_do(tmp_path: Path) -> None:
    for name, script in (("id", "echo 1000"), ("sudo", "exit 1"), ("apt-get", "exit 1")):
        command(tmp_path / "bin", name, script)
    done = run(tmp_path / "bin")
    assert done.returncode == 1
    assert "apt-get install chromium" in done.stderr
    assert "CROSSRANK_CHROMIUM=" in done.stderr
