"""``crossrank doctor``: what can run here, and what prevents the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from crossrank.cli import options as o
from crossrank.cli.checking import compared_with, print_findings
from crossrank.cli.writing import console, write_json
from crossrank.engines import choose_engine
from crossrank.engines.choose import gpu_is_possible, import_torch
from crossrank.errors import CrossRankError, EngineError, InputError
from crossrank.evaluation.findings import Finding, Level
from crossrank.evaluation.golden import published_scores
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.hub import hub_cache, hub_endpoint
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.reranker import Reranker

__all__ = ["examine"]

# Processor features that decide the speed of matrix products, by their names on Linux.
_FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "NEON int8 matrix product",
    "bf16": "NEON BF16",
    "sve": "SVE",
}


def examine(model: str = BUNDLED, *, network: bool = True) -> Iterator[Finding]:
    """Examine everything that reranking needs, the cheapest first."""
    yield Finding("Python", Level.OK, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield _processor()
    engine = _engine()
    yield engine
    yield from _graphics()
    yield from _tensorflow()
    yield _folders()
    found = list(_model(model))
    yield from found
    if model != BUNDLED and all(finding.level is not Level.ERROR for finding in (engine, *found)):
        yield _scores(model)
    if network:
        yield _hub()


def doctor(
    model: o.Model = BUNDLED,
    json: o.Json = False,
    network: Annotated[bool, typer.Option(help="Check that the hub answers.")] = True,
) -> None:
    """Report what can run here, and what prevents the rest; exit 1 if it cannot, or scores are wrong."""
    findings = list(examine(model, network=network))
    failed = any(finding.level is Level.ERROR for finding in findings)
    if json:
        found = [
            {"subject": f.subject, "state": f.level.value, "found": f.found, "cure": f.cure} for f in findings
        ]
        write_json({"ok": not failed, "findings": found}, indent=2)
    else:
        out = console()
        print_findings(out, findings)
        out.print(_verdict([finding.subject for finding in findings if finding.level is Level.ERROR]))
    if failed:
        raise typer.Exit(1)


def _verdict(failed: list[str]) -> str:
    """The last line, by the subjects of errors."""
    if not failed:
        return "[green]Reranking can run here.[/green]"
    if failed == ["Scores"]:
        return "[red]Reranking can run here, but the model's scores are not right.[/red]"
    return "[red]Reranking cannot run here.[/red]"


def _processor() -> Finding:
    name, flags = platform.processor() or platform.machine(), set[str]()
    if sys.platform == "linux":
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        name = found.group(1) if found else platform.machine()
        listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        flags = set(listed.group(1).split()) if listed else flags
    elif sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        name = asked.stdout.strip() or name
    features = [label for flag, label in _FEATURES.items() if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("Processor", Level.OK, ", ".join([f"{name}, cores for this process: {cores}", *features]))


def _engine() -> Finding:
    try:
        choice = choose_engine()
        if choice.engine == "native":
            from crossrank.engines import native  # it may not be built

            with_what = f"instruction set {native.instruction_set()}, {native.default_threads()} threads"
        else:
            torch = import_torch()
            with_what = f"PyTorch {torch.__version__}, transformers {_version('transformers')}"
    except CrossRankError as error:
        message, _, cure = str(error).partition("; ")
        return Finding("Engine", Level.ERROR, message, cure)
    found = f"{choice.engine} on {choice.device} in {choice.precision}, because {choice.reason} ({with_what})"
    why = "what a GPU computes fastest"
    if choice.device == "cpu":
        why = "the fastest with this instruction set"
    return Finding("Engine", Level.OK, f"{found}; the precision auto is {choice.precision} here: {why}")


def _graphics() -> Iterator[Finding]:
    """GPUs and their free memory; a warning if PyTorch cannot use the GPU."""
    try:
        torch = import_torch()
    except EngineError as error:
        name = _nvidia_gpu() if gpu_is_possible() else ""
        if name:
            message, _, cure = str(error).partition("; ")
            yield Finding("GPU", Level.WARNING, f"{name} was found, but {message}", cure)
        return

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = (bytes_ / 2**30 for bytes_ in torch.cuda.mem_get_info(i))
            found = f"{torch.cuda.get_device_name(i)}, {free:.1f} of {total:.1f} GiB free"
            yield Finding(f"GPU cuda:{i}", Level.OK, found)
    elif torch.backends.mps.is_available():
        yield Finding("GPU mps", Level.OK, "Apple GPU")
    elif name := _nvidia_gpu():
        why = "built without CUDA" if torch.version.cuda is None else "unable to start CUDA"
        yield Finding(
            "GPU",
            Level.WARNING,
            f"{name} was found, but this PyTorch is {why}, so the CPU is used",
            "install the CUDA build of PyTorch for your driver: pytorch.org, 'Get started'",
        )
    else:
        yield Finding("GPU", Level.OK, "none; the CPU is used")


def _nvidia_gpu() -> str:
    """The name of an NVIDIA GPU, from the driver's own tool; "" if there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        asked = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip().splitlines()[0] if asked.returncode == 0 and asked.stdout.strip() else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _tensorflow() -> Iterator[Finding]:
    """A warning if transformers 4 would fail: Keras 3 with TensorFlow needs tf-keras. Nothing is imported."""
    keras, tensorflow = _version("keras"), _version("tensorflow") or _version("tensorflow-cpu")
    if keras.startswith("3") and tensorflow and not _version("tf-keras"):
        yield Finding(
            "TensorFlow",
            Level.WARNING,
            f"Keras {keras} with TensorFlow {tensorflow} but without tf-keras: other programs that use "
            "transformers' TensorFlow models fail (CrossRank never imports TensorFlow)",
            "pip install tf-keras, or set USE_TF=0",
        )


def _folders() -> Finding:
    places = ["the package (crossrank-mini)", str(Path("models").absolute()), str(hub_cache())]
    return Finding("Models are looked for in", Level.OK, ", ".join(places))


def _model(model: str) -> Iterator[Finding]:
    """Check that the model is here and complete, and that it fits into memory."""
    try:
        checkpoint = Checkpoint(resolve(model, offline=True))
    except CrossRankError as error:
        message, _, cure = str(error).partition("; ")
        yield Finding(f"Model {model}", Level.ERROR, message, cure)
        return
    parameters = checkpoint.parameters()
    yield Finding(
        f"Model {model}", Level.OK, f"{parameters / 1e6:.0f} million weights in {checkpoint.folder}"
    )
    yield from _memory(parameters)


def _scores(model: str) -> Finding:
    """Compare the model, as it is loaded here, with the scores that were published for it."""
    try:
        known = published_scores(model)
    except InputError as error:
        return Finding("Scores", Level.OK, f"not compared: {str(error).partition(';')[0]}")
    try:
        with Reranker(model, offline=True) as reranker:
            rows = compared_with(reranker, known)
            precision = reranker.engine.precision
    except CrossRankError as error:
        message, _, cure = str(error).partition("; ")
        return Finding("Scores", Level.ERROR, message, cure)
    worst = max(rows, key=lambda row: row.difference - row.tolerance)
    wrong = sum(not row.right for row in rows)
    differs = f"the logits differ by up to {max(row.difference for row in rows):.4f}"
    if not wrong:
        found = (
            f"{len(rows)} published scores are met in {precision}: {differs} (tolerance {worst.tolerance})"
        )
        return Finding("Scores", Level.OK, found)
    return Finding(
        "Scores",
        Level.ERROR,
        f"{wrong} of {len(rows)} published scores are not met in {precision}: {differs} "
        f"(tolerance {worst.tolerance})",
        f"crossrank verify --golden --model {model} --precision fp32 shows each; if they differ there, too, "
        "fetch the model again",
    )


def _memory(parameters: int) -> Iterator[Finding]:
    """Check that a model with so many weights fits into memory, on a GPU in fp16.

    Args:
        parameters: the number of weights.
    """
    try:
        choice = choose_engine()
    except CrossRankError:
        return
    if choice.device.startswith("cuda"):
        import torch

        free, needed = torch.cuda.mem_get_info(0)[0], parameters * 2 * 1.5
        found = f"{free / 2**30:.1f} GiB free, about {needed / 2**30:.1f} GiB needed in fp16"
        level = Level.OK if free >= needed else Level.WARNING
        yield Finding("GPU memory", level, found, "" if free >= needed else "the CPU will be used")
    available = _available_memory()
    if available is None:
        return
    # Reading the weights takes up to half of their size again.
    precision = choice.precision if choice.device == "cpu" else "fp32"
    needed = parameters * {"fp32": 4, "bf16": 2, "int8": 1}[precision] * 1.5
    found = f"{available / 2**30:.1f} GiB available, about {needed / 2**30:.1f} GiB needed in {precision}"
    if available >= needed:
        yield Finding("Memory", Level.OK, found)
    elif available >= parameters * 1.5:
        yield Finding("Memory", Level.WARNING, found, "use --precision int8, which needs less")
    else:
        yield Finding("Memory", Level.ERROR, found, "stop other programs, or use a smaller model")


def _available_memory() -> int | None:
    """Bytes of memory that the process can still use, within its control group; None if unknown."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
    available = int(found.group(1)) * 1024 if found else None
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if available is not None and limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return available


def _hub() -> Finding:
    endpoint = hub_endpoint()
    cure = "set HF_ENDPOINT to a mirror, use --from modelscope, or copy the model's folder to models/"
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310 - the user's own endpoint
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return Finding("Hub", Level.OK, f"{endpoint} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        error.close()  # it keeps the connection open
        if error.code < 500:
            return Finding("Hub", Level.OK, f"{endpoint} answers ({error.code})")
        return Finding("Hub", Level.WARNING, f"{endpoint} answers with an error ({error.code})", cure)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("Hub", Level.WARNING, f"{endpoint} does not answer: {reason}", cure)
