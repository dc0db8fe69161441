from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossrank import CheckpointError, InputError, Reranker
from crossrank.engines.fake import FakeEngine
from crossrank.loading import LoadedModel, load_model
from crossrank.packing import build_pack
from tests.checkpoints import write_xlm_roberta


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


def test_a_loaded_model_scores_as_a_reranker_does(folder: Path) -> None:
    model = load_model(folder, precision="fp32", device="cpu", max_length=32, batch_tokens=70, threads=1)
    assert model.checkpoint is not None
    assert model.checkpoint.folder == folder
    assert (model.encoder.max_length, model.batch_tokens, model.engine.precision) == (32, 70, "fp32")
    texts = ["one", "two words"]
    logits = model.engine.logits(build_pack(model.encoder.encode("query", texts)))
    with Reranker(folder, precision="fp32", device="cpu", max_length=32, threads=1) as reranker:
        assert logits.tolist() == reranker.logits([("query", text) for text in texts]).tolist()


def test_the_largest_pack_is_the_engines_unless_a_number_is_given(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    assert model.batch_tokens == model.engine.batch_tokens
    assert LoadedModel(model.encoder, FakeEngine(batch_tokens=30)).batch_tokens == 30
    assert LoadedModel(model.encoder, FakeEngine(batch_tokens=30), batch_tokens=20).batch_tokens == 20


def test_a_reranker_holds_the_model_that_it_loads(folder: Path) -> None:
    reranker = Reranker(folder, device="cpu", batch_tokens=70)
    assert isinstance(reranker.model, LoadedModel)
    assert (reranker.model.batch_tokens, reranker.model.engine) == (70, reranker.engine)


def test_a_window_beyond_the_models_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="max_length is 100000; tiny reads at most"):
        load_model(folder, max_length=100_000)


def test_a_models_config_says_how_long_windows_are(tmp_path: Path) -> None:
    assert load_model().encoder.window_length == 256
    assert load_model(max_length=100).encoder.window_length == 100
    folder = write_xlm_roberta(tmp_path / "tiny")
    assert load_model(folder, max_length=100).encoder.window_length == 100
    config = json.loads((folder / "config.json").read_text())
    for window, right in ((50, True), (0, False), ("50", False), (True, False)):
        (folder / "config.json").write_text(json.dumps(config | {"crossrank": {"window": window}}))
        if right:
            assert load_model(folder, max_length=100).encoder.window_length == 50
        else:
            with pytest.raises(CheckpointError, match=r"crossrank\.window"):
                load_model(folder, max_length=100)
