"""Programs of virtual environments whose libraries do not fit ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["run_in"]

_ROOT = Path(__file__).resolve().parents[1]


def run_in(
    environment: str,
    program: str,
    *arguments: str | Path,
    variables: Mapping[str, str],
    timeout: float = 300,
    cwd: Path | None = None,
) -> str:
    """Run a program of an environment, and return its standard output; it must end with exit code 0.

    Args:
        environment: name of a folder at the root, which ``make test`` sets up.
        program: name of a file in its ``bin``.
        arguments: of the program.
        variables: environment variables to add.
        timeout: in seconds.
        cwd: folder to run in; by default the current one.
    """
    path = _ROOT / environment / "bin" / program
    assert path.exists(), f"{path} is missing: `make test` sets up this environment"
    # Without PYTHONPATH: its packages are not for that Python.
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [path, *arguments],
        env={**own, **variables},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return done.stdout
