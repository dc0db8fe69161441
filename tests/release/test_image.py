"""What `make image` looks for in an image; the rest of it is tried by running it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from crossrank import __version__
from release.image import DOCKERFILE, LABELS, faults_of, megabytes, strangers, version

GOOD: dict[str, Any] = {
    "User": "10001:10001",
    "Labels": dict.fromkeys(LABELS, "something"),
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Entrypoint": ["crossrank"],
    "Cmd": ["serve"],
}


def test_a_good_configuration_has_no_faults() -> None:
    assert faults_of(GOOD) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"User": "root"}, "the user is 'root'; it must be a number that is not root's"),
        ({"User": "0:0"}, "the user is '0:0'; it must be a number that is not root's"),
        ({"Healthcheck": None}, "there is no health check"),
        ({"Cmd": None}, "it does not say what it runs"),
    ],
)
def test_a_fault_is_named(changed: dict[str, Any], fault: str) -> None:
    assert faults_of(GOOD | changed) == [fault]


def test_every_label_is_wanted() -> None:
    assert len(faults_of(GOOD | {"Labels": {}})) == len(LABELS)
    written = set(re.findall(r"org\.opencontainers\.image\.\w+", DOCKERFILE.read_text("utf-8")))
    assert written == LABELS


def test_what_builds_the_image_is_not_left_in_it() -> None:
    wrong = ["/usr/bin/g++", "/usr/bin/g++-14", "/src/native/model.cpp", "/lib/site-packages/pip/__init__.py"]
    right = ["/usr/bin/python3", "/opt/crossrank/lib/python3.13/site-packages/crossrank/_native.abi3.so"]
    assert strangers([*wrong, *right]) == wrong


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(1_000_000))
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    (tmp_path / "other").write_bytes(bytes(500_000))
    assert megabytes(tmp_path) == pytest.approx(1.5)


def test_the_version_is_the_packages() -> None:
    assert version() == __version__
