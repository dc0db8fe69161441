"""Which licenses `make licenses` lets pass."""

from __future__ import annotations

import pytest

from release.licenses import unknown


def listed(license_name: str) -> list[dict[str, str]]:
    return [{"Name": "package", "Version": "1.0", "License": license_name}]


@pytest.mark.parametrize(
    "name",
    [
        "MIT",
        "MIT-0",
        "BSD License",
        "3-Clause BSD License",
        "Mozilla Public License 2.0 (MPL 2.0)",
        "Apache Software License; MIT License",
        "MPL-2.0 AND (Apache-2.0 OR MIT)",
        "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    ],
)
def test_free_licenses_pass(name: str) -> None:
    assert unknown(listed(name)) == []


@pytest.mark.parametrize(
    "name", ["UNKNOWN", "", "GNU General Public License v3", "MIT AND GPL-3.0-only", "Other; MIT License"]
)
def test_others_are_named(name: str) -> None:
    assert unknown(listed(name)) == [f"package 1.0: {name}"]
