"""What a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Sourced as ~/.bashrc does it; the words of a line are what bash gives to the function.
SCRIPT = """
eval "$(_CROSSRANK_COMPLETE=source_bash crossrank)"
[[ "$(complete -p crossrank)" == *"-F _crossrank_completion crossrank" ]]
for line in "$@"; do
    COMP_WORDS=($line)
    [[ "$line" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _crossrank_completion crossrank
    echo "${COMPREPLY[@]}"
done
"""
LINES = {
    "crossrank s": "score serve",
    "crossrank models ": "list pull show path remove clean",
    "crossrank serve --al": "--allowed-host --alias",
    "crossrank serve --dialect v": "vllm voyage",
    "crossrank rank -m cross": "crossrank-mini",
    "crossrank models show ": "crossrank-mini",
    # An option without effect is not worth a warning while the line is typed.
    "crossrank rank --keep 5 --precision b": "bf16",
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")
def test_bash_completes_commands_options_and_values(tmp_path: Path) -> None:
    here = str(Path(sys.executable).parent)
    variables = {"PATH": f"{here}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(tmp_path)}
    # A variable without effect is not, either.
    variables |= {"HF_HOME": str(tmp_path), "CROSSRANK_UNKNOWN": "1"}
    command = ["bash", "--norc", "-euo", "pipefail", "-c", SCRIPT, "bash", *LINES]
    done = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert dict(zip(LINES, done.stdout.splitlines(), strict=True)) == LINES
