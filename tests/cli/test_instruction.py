"""--instruction, and the field of rows, with a small language model that takes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossrank import Reranker
from tests.cli.conftest import Run
from tests.decoders import write_decoder

QUERY, DOCUMENTS = "capital of China", ["a panda", "Beijing", "Paris"]
OWN = "Find what contradicts the query"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "Qwen3-Reranker-0.6B"
    return write_decoder(folder, "qwen3", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def reranker(decoder: Path) -> Reranker:
    return Reranker(decoder, device="cpu", precision="fp32")


@pytest.fixture
def model(decoder: Path) -> list[str]:
    return ["--model", str(decoder), "--device", "cpu", "--precision", "fp32"]


def test_rank_score_and_explain(crossrank: Run, reranker: Reranker, model: list[str], tmp_path: Path) -> None:
    told: tuple[list[str], str | None] = (["--instruction", OWN], OWN)
    own: tuple[list[str], str | None] = ([], None)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{QUERY}\t{document}\n" for document in DOCUMENTS))
    logits = [reranker.logits([(QUERY, d) for d in DOCUMENTS], instruction=OWN).tolist()]
    logits.append(reranker.logits([(QUERY, d) for d in DOCUMENTS]).tolist())
    assert logits[0] != logits[1]
    for options, instruction in (told, own):
        wanted = reranker.logits([(QUERY, d) for d in DOCUMENTS], instruction=instruction).tolist()
        hits = json.loads(crossrank("rank", QUERY, *DOCUMENTS, "--json", *model, *options).out)["results"]
        found = [hit["logit"] for hit in sorted(hits, key=lambda hit: hit["index"])]
        assert found == pytest.approx(wanted, abs=1e-5)
        rows = json.loads(crossrank("score", str(pairs), "--json", *model, *options).out)["results"]
        assert [row["logit"] for row in rows] == pytest.approx(wanted, abs=1e-5)
        explained = json.loads(crossrank("explain", QUERY, DOCUMENTS[0], "--json", *model, *options).out)
        assert explained["logit"] == pytest.approx(wanted[0], abs=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["rank", QUERY, "a"],
        ["score", "pairs.tsv"],
        ["explain", QUERY, "a"],
        ["bulk", "rows.jsonl", "-o", "-"],
        ["eval", "--data", "rows.jsonl", "-m", "crossrank-mini"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_model_without_one_is_a_mistake(
    crossrank: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.tsv").write_text("q\td\n")
    Path("rows.jsonl").write_text(json.dumps({"query": "q", "documents": ["a"], "labels": [1]}) + "\n")
    done = crossrank(*arguments, "--instruction", OWN)
    assert (done.code, done.out) == (2, "")
    message = f"error: instruction is '{OWN}', but crossrank-mini takes none; leave it out"
    assert done.err.splitlines()[-1] == message


def write_rows(path: Path) -> None:
    row = {"query": QUERY, "documents": DOCUMENTS, "labels": [0, 1, 0]}
    rows = [{"id": "own", **row}, {"id": "told", **row, "instruction": OWN}]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def test_rows_of_bulk_have_their_own(
    crossrank: Run, reranker: Reranker, model: list[str], tmp_path: Path
) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(rows)
    for options, default in (([], None), (["--instruction", "Find the opposite"], "Find the opposite")):
        done = crossrank("bulk", str(rows), "-o", str(out), "--overwrite", *model, *options)
        assert done.code == 0, done.err
        for line, instruction in zip(out.read_text().splitlines(), (default, OWN), strict=True):
            hits = sorted(json.loads(line)["results"], key=lambda hit: int(hit["index"]))
            pairs = [(QUERY, document) for document in DOCUMENTS]
            wanted = reranker.logits(pairs, instruction=instruction).tolist()
            assert [hit["logit"] for hit in hits] == pytest.approx(wanted, abs=1e-5)
        out.unlink()


def test_a_row_with_one_is_named_where_the_model_takes_none(crossrank: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows)
    done = crossrank("bulk", str(rows), "-o", "-", "--device", "cpu")
    assert done.code == 2
    message = f"error: {rows}, line 2: there is an instruction, and the model takes none; leave it out"
    assert done.err.splitlines()[-1] == message


def test_eval_compares_models_with_and_without(
    crossrank: Run, reranker: Reranker, decoder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows)
    options = ("--device", "cpu", "--precision", "fp32", "--metric", "MRR", "--json")
    done = crossrank("eval", "--data", str(rows), "-m", str(decoder), "-m", "crossrank-mini", *options)
    assert done.code == 0, done.err
    found = {system["name"]: system for system in json.loads(done.out)["systems"]}
    ranks = []
    for instruction in (None, OWN):
        ranking = reranker.rank(QUERY, DOCUMENTS, instruction=instruction)
        ranks.append(next(hit.rank for hit in ranking if hit.index == 1))
    wanted = sum(1 / rank for rank in ranks) / 2
    assert found["Qwen3-Reranker-0.6B fp32"]["metrics"]["MRR"]["mean"] == pytest.approx(wanted)
    assert "crossrank-mini fp32" in found
