"""``verify --golden`` and ``verify --server``: reports, exit codes and mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import Reranker
from crossrank.evaluation import golden
from crossrank.evaluation.golden import published_scores
from tests.cli.conftest import Run
from tests.evaluation.wrong_servers import Floats, Wrong, app, serve, sigmoid

PAIRS = [("capital of France", "Paris"), ("tea", "a pot of green tea")]


@pytest.fixture
def known(tiny: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The small random model, with published scores of its own, one of them a rounded sigmoid."""
    logits = Reranker(tiny, device="cpu", precision="fp32").logits(PAIRS).tolist()
    folder = tmp_path / "known-model"
    shutil.copytree(tiny, folder)
    row = {
        "kind": "logit",
        "precision": "fp32",
        "decimals": 4,
        "tolerance": 0.02,
        "source": "A card",
        "read": "2026-11-30",
    }
    scores = [round(logit, 4) for logit in logits]
    rounded = {
        **row,
        "kind": "sigmoid",
        "decimals": 2,
        "scores": [round(float(sigmoid(np.array(x))), 2) for x in logits],
    }
    contents = {
        "texts": {"a": {"pairs": PAIRS}},
        "models": [
            {
                "names": ["someone/known-model"],
                "published": [{"texts": "a", **row, "scores": scores}, {"texts": "a", **rounded}],
            }
        ],
        "nothing_found": ["someone/searched"],
    }
    file = tmp_path / "golden.json"
    file.write_text(json.dumps(contents))
    monkeypatch.setattr(golden, "_FILE", file)
    golden._contents.cache_clear()
    yield str(folder)
    golden._contents.cache_clear()


def test_a_model_that_meets_its_published_scores(crossrank: Run, known: str) -> None:
    done = crossrank("verify", "--golden", "--model", known, "--precision", "fp32", "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    assert "on cpu (native engine) in fp32, against published scores" in done.out
    assert "All 4 scores are right in fp32: logits differ by 0.0000 at most." in done.out
    assert "Published in: A card" in done.out
    assert "0.02" in done.out


def test_each_precision_has_its_tolerance(crossrank: Run, known: str) -> None:
    options = ("--precision", "fp32", "--precision", "int8", "--device", "cpu", "--json")
    found = json.loads(crossrank("verify", "--golden", "--model", known, *options).out)
    fp32, int8 = found["comparisons"]
    assert (fp32["precision"], fp32["right"], int8["precision"], int8["right"]) == (
        "fp32",
        True,
        "int8",
        True,
    )
    assert [row["tolerance"] for row in fp32["scores"]] == [0.02] * 4
    assert [row["tolerance"] for row in int8["scores"]] == pytest.approx([1.02] * 4)
    assert int8["scores"][0]["query"] == "capital of France"


def test_a_model_that_does_not_meet_them(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    folder = tmp_path / "ms-marco-MiniLM-L6-v2"
    shutil.copytree(tiny, folder)
    done = crossrank("verify", "--golden", "--model", str(folder), "--device", "cpu")
    assert done.code == 1
    assert "too far" in done.out
    assert "of 8 scores are not right in" in done.out
    # doctor says the same of it.
    done = crossrank("doctor", "--no-network", "--model", str(folder))
    assert done.code == 1
    assert "of 8 published scores are not met in" in done.out
    assert "Reranking can run here, but the model's scores are not right." in done.out


def test_doctor_compares_with_what_is_known(crossrank: Run, known: str, tiny: str) -> None:
    done = crossrank("doctor", "--no-network", "--model", known)
    assert done.code == 0
    assert "Scores: 4 published scores are met in" in done.out
    done = crossrank("doctor", "--no-network", "--model", tiny)
    assert done.code == 0
    assert f"Scores: not compared: no published scores of {tiny} are known" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [("crossrank-mini", "no published scores of crossrank-mini are known"), ("searched", "have none")],
)
def test_without_published_scores_there_is_one_line(
    crossrank: Run, known: str, name: str, message: str
) -> None:
    done = crossrank("verify", "--golden", "--model", name)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--golden", "--pairs", "x"], "--pairs is not for --golden"),
        (["--server", "http://x", "--pairs", "x"], "--pairs is not for --server"),
        (["--dialect", "tei"], "--dialect is for a server"),
        (["--timeout", "3"], "--timeout is for a server"),
        (["--api-key", "k"], "--api-key is for a server"),
        (["--server", "http://x"], "which model does the server have? Name it with --model"),
        (["--server", "http://x", "-m", "m", "--precision", "fp32", "--precision", "bf16"], "is given twice"),
        (["--server", "nonsense", "-m", "m"], "'nonsense' is not an address"),
    ],
)
def test_options_that_do_not_go_together(crossrank: Run, arguments: list[str], message: str) -> None:
    done = crossrank("verify", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_right_server_beside_the_model_here(crossrank: Run) -> None:
    with serve(app(Wrong(Reranker(device="cpu", precision="fp32")))) as url:
        options = ("--model", "crossrank-mini", "--device", "cpu", "--timeout", "300")
        done = crossrank("verify", "--server", url, *options)
    assert (done.code, done.err) == (0, "")
    assert f"{url} (tei) beside this machine's model in fp32" in done.out
    assert "Scores: sigmoids of the logits;" in done.out
    assert done.out.splitlines()[-1] == "Nothing is wrong with its scores."


class FromTable(Wrong):
    """A server that gives published scores for their texts, and crossrank-mini's for the rest."""

    def __init__(self, reranker: Reranker, table: dict[tuple[str, str], float]) -> None:
        super().__init__(reranker)
        self.table = table

    def scores(self, query: str, texts: Sequence[str], truncate: bool) -> Floats:
        own = super().scores(query, texts, truncate)
        return np.array(
            [self.table.get((query, text), score) for text, score in zip(texts, own, strict=True)]
        )


def test_a_server_beside_published_scores(
    crossrank: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "BAAI/bge-reranker-base"
    table: dict[tuple[str, str], float] = {}
    for published in published_scores(name):
        low, high = published.bounds()
        middle = sigmoid((low + high) / 2).tolist()
        table.update(zip(published.pairs, middle, strict=True))
    # It takes a while to score all of it, so the one server is asked twice.
    with serve(app(FromTable(Reranker(device="cpu", precision="int8"), table))) as url:
        options = ("--server", url, "--dialect", "v1", "--timeout", "300", "--model")
        done = crossrank("verify", *options, name, "--offline", "--json")
        found = json.loads(done.out)
        assert (found["reference"], found["dialect"]) == ("the published scores", "v1")
        subjects: dict[str, Any] = {finding["subject"]: finding for finding in found["findings"]}
        assert subjects["Scores"]["level"] == "ok"
        assert subjects["Scores"]["found"].startswith("sigmoids of the logits")
        assert (done.code, found["ok"]) == (0, True)
        done = crossrank("verify", *options, "someone/unknown", "--offline")
        assert (done.code, done.out) == (2, "")
        assert "someone/unknown does not load here" in done.err
        assert "no published scores of someone/unknown are known" in done.err


def test_a_server_that_has_lost_the_template(crossrank: Run) -> None:
    name = "Qwen/Qwen3-Reranker-0.6B"
    [bare] = published_scores(name, template=False)
    table = dict(zip(bare.pairs, bare.scores, strict=True))
    [right] = published_scores(name)
    table.update(dict.fromkeys(right.pairs, 0.7))
    with serve(app(FromTable(Reranker(device="cpu", precision="int8"), table))) as url:
        done = crossrank("verify", "--golden", "--server", url, "--model", name, "--timeout", "300")
    assert done.code == 1
    assert "Scores: the template is missing" in done.out
    assert done.out.splitlines()[-1] == "Its scores, or their order, are wrong."


def test_a_server_that_does_not_answer_is_no_mistake_of_the_user(crossrank: Run) -> None:
    with serve(app(Wrong(Reranker(device="cpu")))) as url:
        pass
    done = crossrank("verify", "--server", url, "--timeout", "2", "--model", "crossrank-mini")
    assert (done.code, done.out) == (1, "")
    assert "does not answer" in done.err
