"""What `make wheel` looks for in a wheel; the rest of it is tried by running it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from release.wheel import strangers


def a_wheel(folder: Path, *names: str) -> Path:
    path = folder / "crossrank-0.1.0-cp312-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("crossrank/__init__.py", "crossrank/_native.abi3.so", *names):
            archive.writestr(name, "")
    return path


def test_a_wheel_may_have_its_package_and_what_describes_it(tmp_path: Path) -> None:
    names = "crossrank-0.1.0.dist-info/METADATA", "crossrank/bundled/model.safetensors"
    assert strangers(a_wheel(tmp_path, *names)) == []


@pytest.mark.parametrize(
    "name",
    [
        "tests/test_pairs.py",
        "crossrank/_native_test.abi3.so",
        "crossrank/_native_test.pyi",
        "crossrank/native.h",
    ],
)
def test_tests_and_sources_are_strangers(tmp_path: Path, name: str) -> None:
    assert strangers(a_wheel(tmp_path, name)) == [name]
