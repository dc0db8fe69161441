"""``query_share=0.75`` gives the token ids and logits of FlagEmbedding's FlagReranker."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import Reranker
from tests.checkpoints import write_bert, write_xlm_roberta
from tests.parity import PAIRS, WINDOWS, encode

pytestmark = pytest.mark.full  # an environment of its own
_ROOT = Path(__file__).parents[2]
_PYTHON = _ROOT / ".venv-flagembedding" / "bin" / "python"
_WRITERS = {"xlm-roberta": write_xlm_roberta, "bert": write_bert}

Case = tuple[Path, int, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What FlagEmbedding says; asked once, since its start is slow."""
    assert _PYTHON.exists(), f"{_PYTHON} is missing: `make test` sets up this environment for FlagEmbedding"
    base = tmp_path_factory.mktemp("flagembedding")
    folders = {}
    for kind, write in _WRITERS.items():
        (base / kind).mkdir()
        folders[kind] = str(write(base / kind))
    source, target = base / "request.json", base / "answer.json"
    source.write_text(json.dumps({"folders": list(folders.values()), "windows": WINDOWS, "pairs": PAIRS}))
    command = [_PYTHON, Path(__file__).with_name("flagembedding_scores.py"), source, target]
    # Without PYTHONPATH: this environment's packages are not for that Python.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {"folders": folders, **json.loads(target.read_text(encoding="utf-8"))}


@pytest.fixture(params=WINDOWS)
def window(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=list(_WRITERS))
def case(request: pytest.FixtureRequest, answers: dict[str, Any], window: int) -> Case:
    folder = answers["folders"][request.param]
    return Path(folder), window, answers[f"{folder} {window}"]


def test_token_ids_are_equal(case: Case) -> None:
    folder, window, theirs = case
    for their, our in zip(theirs["inputs"], encode(folder, window, query_share=0.75), strict=True):
        assert their["input_ids"] == our.token_ids.tolist()
        assert all(their["attention_mask"])
        if our.segment_ids is not None:
            assert their["token_type_ids"] == our.segment_ids.tolist()


def test_logits_and_scores_are_equal(case: Case) -> None:
    folder, window, theirs = case
    ours = Reranker(
        folder,
        device="cpu",
        precision="fp32",
        max_length=window,
        truncation="only_second",
        query_share=0.75,
    )
    assert np.ptp(theirs["logits"]) > 1
    np.testing.assert_allclose(ours.logits(PAIRS), theirs["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.score(PAIRS), theirs["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [127])
def test_the_default_share_cuts_otherwise(case: Case) -> None:
    """Else the tests above would not show that the option is needed."""
    folder, window, theirs = case
    ours = [our.token_ids.tolist() for our in encode(folder, window)]
    assert ours != [their["input_ids"] for their in theirs["inputs"]]
