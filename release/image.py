"""Build the image of examples/serving/Dockerfile and use it, without Docker and without a registry.

    make image

The base is made of Debian's packages by debootstrap, in place of Docker Hub's python, and buildah builds
without a daemon: both are Debian packages, and need root. The image is looked at, and runs: it starts without
root, answers, passes its health check and stops on SIGTERM. So does one with a model inside, which comes from
a hub on this machine. A fault is exit code 1.
"""
# ruff: noqa: S310, S607

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.hub import Hub

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "examples" / "serving" / "Dockerfile"
BASE = "localhost/crossrank-base"
SUITE, MIRROR = "trixie", "http://deb.debian.org/debian"
PACKAGES = "python3,python3-venv,ca-certificates"

IMAGE_MB = 450
"""Most megabytes (10^6 bytes) of all files of the image."""

SECONDS = 120
"""Most seconds from the start until the server is ready, and from SIGTERM until it has stopped."""

LABELS = frozenset(
    f"org.opencontainers.image.{name}"
    for name in ("title", "description", "source", "documentation", "licenses", "version", "revision")
)


def buildah(*command: str) -> str:
    """What a command of buildah prints; what it tells goes to stderr."""
    done = subprocess.run(["buildah", *command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def make_base(folder: Path) -> None:
    """Python on Debian, from Debian's packages alone."""
    rootfs = folder / "base"
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(rootfs), MIRROR]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for caches in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(rootfs / caches)
        (rootfs / caches / "partial").mkdir(parents=True)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(rootfs), "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", container)
    buildah("commit", "--quiet", "--rm", container, BASE)


def build(name: str, folder: Path, **arguments: str) -> None:
    """Build the image, as Docker would."""
    arguments["PYTHON"], arguments["BUILD_PACKAGES"] = BASE, "g++ python3-dev"
    arguments["VERSION"], arguments["REVISION"] = version(), revision()
    certificates = Path("/etc/ssl/certs")
    pip = folder / "pip.conf"
    pip.write_text(f"[global]\ncert = {certificates}/ca-certificates.crt\n", encoding="utf-8")
    buildah(
        *("build", "--layers", "--isolation", "chroot", "--format", "docker", "--pull=never"),
        *("--ignorefile", f"{DOCKERFILE}.dockerignore", "--file", str(DOCKERFILE), "--tag", name),
        *(f"--build-arg={key}={value}" for key, value in arguments.items()),
        # The certificates of a proxy that this machine may be behind.
        *(f"--volume={certificates}:{certificates}:ro", f"--volume={pip}:/etc/pip.conf:ro"),
        str(ROOT),
    )


def version() -> str:
    """The package's version, which src/crossrank/__init__.py holds."""
    text = (ROOT / "src" / "crossrank" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        sys.exit("src/crossrank/__init__.py has no __version__")
    return found[1]


def revision() -> str:
    """The commit that is checked out."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def faults_of(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with an image's configuration."""
    faults = []
    user = str(config.get("User") or "")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        faults.append(f"the user is {user!r}; it must be a number that is not root's")
    labels = config.get("Labels") or {}
    faults += [f"the label {name} is missing" for name in sorted(LABELS) if not labels.get(name)]
    if not (config.get("Healthcheck") or {}).get("Test"):
        faults.append("there is no health check")
    if not (config.get("Entrypoint") and config.get("Cmd")):
        faults.append("it does not say what it runs")
    return faults


def strangers(names: Sequence[str]) -> list[str]:
    """Files of the image that it does not need to serve: of build tools, tests, sources."""
    wrong = re.compile(r"/g\+\+[\d-]*$|/cc1plus$|/native/\w+\.cpp$|/site-packages/(pip|tests)/|_native_test")
    return [name for name in names if wrong.search(name)]


@contextlib.contextmanager
def container_of(name: str) -> Iterator[tuple[str, Path]]:
    """A container of an image, and the folder of its files."""
    container = buildah("from", "--pull=never", name)
    try:
        yield container, Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def megabytes(folder: Path) -> float:
    """Of all files below a folder; one with several names counts once."""
    found = [path.lstat() for path in folder.rglob("*")]
    files = {status.st_ino: status.st_size for status in found if stat.S_ISREG(status.st_mode)}
    return sum(files.values()) / 1e6


def config_of(name: str) -> dict[str, Any]:
    """What an image says of how it is run."""
    config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
    return config


def serve(name: str, model: str) -> list[str]:
    """Start a server of an image, use it and stop it; what was wrong."""
    faults, config = [], config_of(name)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with container_of(name) as (container, _):
        run = ["buildah", "run", "--isolation", "chroot", f"--env=CROSSRANK_PORT={port}", container, "--"]
        command = ["sh", "-c", 'echo $$; exec "$@"', "sh", *config["Entrypoint"], *config["Cmd"]]
        with (
            tempfile.TemporaryFile("w+") as told,
            subprocess.Popen([*run, *command], stdout=subprocess.PIPE, stderr=told, text=True) as server,
        ):
            assert server.stdout is not None
            process = int(server.stdout.readline())
            try:
                owner = os.stat(f"/proc/{process}").st_uid  # noqa: PTH116 - of a process
                if owner == 0:
                    faults.append("the server runs as root")
                health = wait_for(url + "/health")
                if health != 200:
                    told.seek(0)
                    faults.append(f"/health is {health}: {told.read()[-2000:]}")
                else:
                    faults += ask(url, model)
                    test = config["Healthcheck"]["Test"][1:]
                    if subprocess.run([*run, *test], check=False).returncode != 0:
                        faults.append("the health check fails")
            finally:
                begun = time.monotonic()
                os.kill(process, signal.SIGTERM)
                code = server.wait(SECONDS)
            print(f"{name}: stopped {time.monotonic() - begun:.1f} s after SIGTERM, exit code {code}")
            if code != 0:
                faults.append(f"the exit code after SIGTERM is {code}")
            told.seek(0)
            faults += [line.strip() for line in told if '"level":"warning"' in line.replace(" ", "")]
    return [f"{name}: {fault}" for fault in faults]


def wait_for(url: str) -> int:
    """The status of a server that starts; 0 if it does not answer."""
    status = 0
    for _ in range(SECONDS):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return int(answer.status)
        except OSError as error:
            status = getattr(error, "code", 0)
        time.sleep(1)
    return status


def ask(url: str, model: str) -> list[str]:
    """What is wrong with a ranking of the server's."""
    body = {
        "model": model,
        "query": "capital of France",
        "documents": ["Lyon is a city.", "Paris is the seat of the French government."],
    }
    request = urllib.request.Request(
        url + "/v1/rerank", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        best = json.load(answer)["results"][0]["index"]
    return [] if best == 1 else ["the wrong document comes first"]


def try_image(name: str, model: str) -> list[str]:
    """What is wrong with an image."""
    faults = [f"{name}: {fault}" for fault in faults_of(config_of(name))]
    with container_of(name) as (_, folder):
        size = megabytes(folder)
        faults += [f"{name}: the image has {file}" for file in strangers([str(p) for p in folder.rglob("*")])]
        sbom = json.loads((folder / "opt" / "crossrank" / "sbom.json").read_text("utf-8"))
        components = {component["name"] for component in sbom["components"]}
    print(f"{name}: {size:.0f} MB, {len(components)} packages in its SBOM")
    if size > IMAGE_MB:
        faults.append(f"{name}: {size:.0f} MB; the limit is {IMAGE_MB}")
    if not {"crossrank", "uvicorn"} <= components:
        faults.append(f"{name}: the SBOM lacks crossrank or uvicorn")
    return faults + serve(name, model)


def main() -> None:
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is missing: apt-get install buildah debootstrap")
    if os.geteuid() != 0:
        sys.exit("debootstrap needs root: sudo make image")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if subprocess.run(["buildah", "inspect", BASE], capture_output=True, check=False).returncode != 0:
            make_base(folder)
        build("crossrank", folder)
        faults = try_image("crossrank", "crossrank-mini")
        with Hub() as hub:
            hub.add("example/reranker", ROOT / "src" / "crossrank" / "bundled")
            build("crossrank-with-model", folder, MODEL="example/reranker", HF_ENDPOINT=hub.url)
        # The hub is gone: the model must be in the image.
        faults += serve("crossrank-with-model", "example/reranker")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
