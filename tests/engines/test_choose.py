import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from crossrank.engines import Engine, choose, choose_engine, native
from crossrank.engines.choose import Choice
from crossrank.engines.fake import FakeEngine
from crossrank.errors import EngineError, InputError
from crossrank.models.checkpoint import Checkpoint
from tests.checkpoints import write_bert
from tests.decoders import write_decoder


@pytest.fixture(autouse=True)
def _a_driver_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "gpu_is_possible", lambda: True)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_is_the_native_engine() -> None:
    fast = native.auto_precision()
    assert choose_engine() == Choice("native", "cpu", fast, "no GPU that PyTorch can use")
    assert choose_engine("cpu", "int8") == Choice("native", "cpu", "int8", "asked for")


def test_a_model_that_the_native_engine_cannot_run_takes_torch(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m")
    assert choose_engine("cpu", checkpoint=Checkpoint(folder)).engine == "native"
    checkpoint = Checkpoint(folder)
    checkpoint.config["hidden_act"] = "mish"
    choice = choose_engine("cpu", checkpoint=checkpoint)
    assert choice == Choice("torch", "cpu", "fp32", "asked for, and its activation is mish")
    with pytest.raises(InputError, match=r"int8.*its activation is mish"):
        choose_engine("cpu", "int8", checkpoint)
    checkpoint.config |= {"hidden_act": "gelu", "model_type": "deberta-v2"}
    assert "model_type is deberta-v2" in choose_engine("cpu", checkpoint=checkpoint).reason


def test_without_a_driver_torch_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "gpu_is_possible", lambda: False)
    monkeypatch.setattr(choose, "import_torch", lambda: pytest.fail("imported"))
    assert choose_engine().engine == "native"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_taken_and_runs_in_fp16() -> None:
    assert choose_engine() == Choice("torch", "cuda:0", "fp16", "a CUDA GPU is there")
    assert choose_engine("cuda", "bf16").precision == "bf16"
    assert choose_engine("cuda:1").device == "cuda:1"
    assert choose_engine("cpu").engine == "native"
    with pytest.raises(InputError, match="int8"):
        choose_engine("cuda", "int8")
    with pytest.raises(InputError, match="there are 2 GPUs"):
        choose_engine("cuda:2")


@pytest.mark.usefixtures("two_gpus")
def test_a_decoder_runs_in_bf16_on_a_gpu(tmp_path: Path) -> None:
    decoder = Checkpoint(write_decoder(tmp_path / "Qwen3-Reranker-0.6B", "qwen3"))
    assert choose_engine(checkpoint=decoder).precision == "bf16"
    assert choose_engine("cuda", "fp16", decoder).precision == "fp16"
    assert choose_engine(checkpoint=Checkpoint(write_bert(tmp_path / "m"))).precision == "fp16"


def test_an_apple_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_engine().device == "mps"
    assert choose_engine("mps").precision == "fp16"


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"built without CUDA.*crossrank doctor"):
        choose_engine("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match="no GPU answers"):
        choose_engine("cuda")
    with pytest.raises(InputError, match="no Apple GPU"):
        choose_engine("mps")


@pytest.mark.parametrize("device", ["", "gpu", "cuda:x", "cuda:-1"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(InputError, match="it must be auto, cpu, cuda"):
        choose_engine(device)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_torch_it_says_how_to_install_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def not_found(name: str, *rest: Any) -> Any:
        return None if name == missing else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", not_found)
    with pytest.raises(EngineError, match="pip install torch transformers"):
        choose_engine("cuda")
    assert choose_engine().engine == "native"


def test_the_fake_engine_is_an_engine() -> None:
    assert isinstance(FakeEngine(), Engine)
