"""List what is installed with CrossRank: its licenses, which must be of a known kind, and an SBOM.

    make licenses

Reads the wheel in dist/ and installs it, with the extras that serve, into an empty environment. Writes
dist/licenses.json (pip-licenses) and dist/sbom.json (CycloneDX). A license that is not of a known kind is
exit code 1.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from release.wheel import DIST

EXTRAS = "client,mcp,otel,server"

KNOWN = re.compile(
    r"Apache|BSD|3-Clause BSD|ISC\b|MIT\b|Mozilla Public License 2|MPL-2|PSF-2|Python Software Foundation"
    r"|The Unlicense|0BSD|CC0|Zlib"
)
"""How names of licenses begin that Apache-2.0 may be combined with in what is installed."""

TOOLS = ("pip", "pip-licenses", "prettytable", "wcwidth")
"""What is in the environment and not CrossRank's."""


def license_command(python: Path, output: Path) -> list[str]:
    """List the licenses of an environment."""
    return [
        *(sys.executable, "-m", "piplicenses", "--python", str(python), "--from", "mixed"),
        *("--format", "json", "--with-urls", "--output-file", str(output)),
        *("--ignore-packages", *TOOLS),
    ]


def unknown(packages: list[dict[str, str]]) -> list[str]:
    """The packages of which a license is of no known kind; of "A OR B", both must be."""
    found = []
    for package in packages:
        parts = re.split(r" AND | OR |; ", package["License"])
        if not all(KNOWN.match(part.lstrip("( ")) for part in parts):
            found.append(f"{package['Name']} {package['Version']}: {package['License']}")
    return found


def sbom_command(python: Path, output: Path) -> list[str]:
    """Write the bill of materials of an environment."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    return [*command, "--output-file", str(output), str(python)]


def main() -> None:
    wheels = list(DIST.glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{DIST} holds {len(wheels)} wheels instead of one; run make wheel first")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        subprocess.run([*install, f"{wheels[0]}[{EXTRAS}]"], check=True)
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "pip"], check=True)
        subprocess.run(sbom_command(python, DIST / "sbom.json"), check=True)
        subprocess.run(license_command(python, DIST / "licenses.json"), check=True)
    faults = unknown(json.loads((DIST / "licenses.json").read_text("utf-8")))
    if faults:
        print("a license is of no known kind; add it to KNOWN in release/licenses.py, or drop its package:")
        sys.exit("\n".join(faults))
    print(f"licenses and SBOM: {DIST / 'licenses.json'}, {DIST / 'sbom.json'}")


if __name__ == "__main__":
    main()
