import dataclasses
import importlib.metadata
import importlib.util
import json
import sys
from typing import Any

import pytest
import torch

from crossrank.cli import doctor
from crossrank.cli.doctor import examine
from crossrank.engines import choose, native
from crossrank.evaluation.findings import Finding, Level
from tests.cli.conftest import Run
from tests.hub import Hub


def findings(model: str = "crossrank-mini") -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(model, network=False)}


def test_a_machine_that_can_rerank(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = crossrank("doctor", "--no-network")
    assert done.code == 0, done.out
    assert "Reranking can run here." in done.out
    for part in ("Python", "Processor", "native on cpu", "crossrank-mini", "models"):
        assert part in done.out


def test_the_precision_that_auto_takes_is_said_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "gpu_is_possible", lambda: False)
    for precision in ("int8", "bf16", "fp32"):
        monkeypatch.setattr(native, "auto_precision", lambda precision=precision: precision)
        found = findings()["Engine"].found
        assert f"the precision auto is {precision} here: the fastest with this instruction set" in found
    gpu = choose.Choice("torch", "cuda:0", "fp16", "a CUDA GPU is there")
    monkeypatch.setattr(doctor, "choose_engine", lambda: gpu)
    assert "the precision auto is fp16 here: what a GPU computes fastest" in doctor._engine().found


def test_json(crossrank: Run) -> None:
    answer = json.loads(crossrank("doctor", "--no-network", "--json").out)
    assert answer["ok"] is True
    assert {"subject", "state", "found", "cure"} == set(answer["findings"][0])


def test_a_model_that_is_not_there_stops_the_main_job(crossrank: Run) -> None:
    done = crossrank("doctor", "--no-network", "--model", "some/unknown")
    assert done.code == 1
    assert "some/unknown" in done.out
    assert "crossrank models pull some/unknown" in done.out


def test_without_torch_the_native_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def not_found(name: str, *rest: Any) -> Any:
        return None if name == "torch" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", not_found)
    found = findings()
    assert found["Engine"].level is Level.OK
    assert "native on cpu" in found["Engine"].found
    # A GPU that lies idle for want of PyTorch is said.
    monkeypatch.setattr(doctor, "gpu_is_possible", lambda: True)
    monkeypatch.setattr(doctor, "_nvidia_gpu", lambda: "NVIDIA H100")
    gpu = findings()["GPU"]
    assert gpu.level is Level.WARNING
    assert "pip install torch transformers" in gpu.cure


@pytest.mark.parametrize(
    ("installed", "warned"),
    [
        ({"keras": "3.4.1", "tensorflow": "2.17.0"}, True),
        ({"keras": "3.4.1", "tensorflow": "2.17.0", "tf-keras": "2.17.0"}, False),
        ({"keras": "2.15.0", "tensorflow": "2.15.0"}, False),
        ({"keras": "3.4.1"}, False),
        ({}, False),
    ],
)
def test_keras_3_beside_tensorflow(
    installed: dict[str, str], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = findings()
    assert ("TensorFlow" in found) is warned
    if warned:
        assert "tf-keras" in found["TensorFlow"].cure
    assert "tensorflow" not in sys.modules


def test_a_cpu_only_torch_on_a_gpu_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "_nvidia_gpu", lambda: "NVIDIA H100")
    gpu = findings()["GPU"]
    assert gpu.level is Level.WARNING
    assert "NVIDIA H100 was found" in gpu.found
    assert "CUDA build" in gpu.cure


def test_a_gpu_and_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "gpu_is_possible", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6 * 2**30, 80 * 2**30))
    found = findings()
    assert found["GPU cuda:0"].found == "NVIDIA H100, 6.0 of 80.0 GiB free"
    assert found["GPU memory"].level is Level.OK
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**20, 80 * 2**30))
    assert findings()["GPU memory"].level is Level.WARNING


def test_a_torch_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: True)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(choose, "gpu_is_possible", lambda: True)
    engine = findings()["Engine"]
    assert engine.level is Level.ERROR
    assert "cannot be imported" in engine.found


def test_too_little_memory_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a processor that is fastest in fp32, whatever this one is.
    choice = dataclasses.replace(choose.choose_engine(), precision="fp32")
    monkeypatch.setattr(doctor, "choose_engine", lambda: choice)
    monkeypatch.setattr(doctor, "_available_memory", lambda: 100 * 2**20)
    memory = findings()["Memory"]
    assert memory.level is Level.ERROR
    assert "0.1 GiB available" in memory.found
    monkeypatch.setattr(doctor, "_available_memory", lambda: 150 * 2**20)
    memory = findings()["Memory"]
    assert memory.level is Level.WARNING
    assert "int8" in memory.cure


def test_available_memory_is_measured() -> None:
    available = doctor._available_memory()
    assert sys.platform != "linux" or (available is not None and available > 2**20)


def test_whether_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert doctor._hub().level is Level.OK
        assert hub.url in doctor._hub().found
    assert doctor._hub().level is Level.WARNING
    assert "HF_ENDPOINT" in doctor._hub().cure
