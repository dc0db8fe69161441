"""What the repository holds: no binaries by accident, and files that GitHub and others read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
# Files that are no text. A new one needs a reason: git keeps every version of it.
BINARY = re.compile(r"docs/images/[\w.-]+\.png|src/crossrank/bundled/model\.safetensors")
# The largest file of text but for the bundled tokenizer; data belongs elsewhere.
MAX_BYTES = 1 << 20


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is not a clone")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def is_text(content: bytes) -> bool:
    if b"\0" in content:
        return False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_no_binary_is_tracked_by_accident() -> None:
    names = tracked()
    assert "pyproject.toml" in names
    strange = [
        name for name in names if not BINARY.fullmatch(name) and not is_text((ROOT / name).read_bytes())
    ]
    assert strange == []
    allowed = {"src/crossrank/bundled/tokenizer.json", "src/crossrank/bundled/model.safetensors"}
    assert {name for name in names if (ROOT / name).stat().st_size > MAX_BYTES} <= allowed


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\x7fELF\x02\x01\x01\0", False), (b"\x89PNG\r\n", False), ("中文\n".encode(), True), (b"", True)],
)
def test_what_counts_as_text(content: bytes, expected: bool) -> None:
    assert is_text(content) is expected


SCHEMAS = [
    ("vendor.github-workflows", sorted(GITHUB.glob("workflows/*.yml"))),
    ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
    ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
    (
        "vendor.github-issue-forms",
        [GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "feature", "model")],
    ),
    ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
]


@pytest.mark.parametrize(
    ("schema", "files"), SCHEMAS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_files_are_what_their_readers_expect(schema: str, files: list[Path]) -> None:
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job.get("steps", [])]


@pytest.mark.parametrize("workflow", sorted(GITHUB.glob("workflows/*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_and_may_only_read(workflow: Path) -> None:
    text = workflow.read_text("utf-8")
    for line in re.findall(r"uses:.*", text):
        assert re.fullmatch(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"}
    granted = {name: job["permissions"] for name, job in content["jobs"].items() if "permissions" in job}
    # Only what publishes gets a token, for PyPI, and it waits for the environment's reviewer.
    assert granted in ({}, {"publish": {"id-token": "write"}})
    for name in granted:
        assert content["jobs"][name]["environment"]["name"] == "pypi"
        assert content["jobs"][name]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_one_action_has_one_version() -> None:
    used = {step["uses"] for path in GITHUB.glob("workflows/*.yml") for step in steps(path) if "uses" in step}
    assert len({name.split("@")[0] for name in used}) == len(used)


def test_the_version_is_in_one_place_and_the_address_the_same_everywhere() -> None:
    metadata = (ROOT / "pyproject.toml").read_text("utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert "version" not in citation
    assert '\ndynamic = ["version"]\n' in metadata
    assert '\nmetadata.version.input = "src/crossrank/__init__.py"\n' in metadata
    package = (ROOT / "src/crossrank/__init__.py").read_text("utf-8")
    held = re.findall(r'^__version__ = "([^"]+)"', package, re.MULTILINE)
    changes = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert held == changes[:1]
    assert f'\nRepository = "{citation["repository-code"]}"\n' in metadata
