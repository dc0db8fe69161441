"""``query_share=0.75`` gives the token ids and logits of FlagEmbedding's FlagReranker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import Reranker
from tests.checkpoints import write_bert, write_xlm_roberta
from tests.environments import run_in
from tests.parity import PAIRS, WINDOWS, encode

pytestmark = pytest.mark.full  # an environment of its own
_WRITERS = {"xlm-roberta": write_xlm_roberta, "bert": write_bert}

Case = tuple[Path, int, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What FlagEmbedding says; asked once, since its start is slow."""
    base = tmp_path_factory.mktemp("flagembedding")
    folders = {}
    for kind, write in _WRITERS.items():
        (base / kind).mkdir()
        folders[kind] = str(write(base / kind))
    source, target = base / "request.json", base / "answer.json"
    source.write_text(json.dumps({"folders": list(folders.values()), "windows": WINDOWS, "pairs": PAIRS}))
    script = Path(__file__).with_name("flagembedding_scores.py")
    alone = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run_in(".venv-flagembedding", "python", script, source, target, variables=alone)
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
