import gc
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossrank import EngineError, InputError, Reranker
from crossrank.bulk import job as bulk
from crossrank.bulk import output
from crossrank.bulk.job import Counts, Source
from crossrank.data.lines import read_lines
from crossrank.data.rows import Row
from crossrank.data.trec import read_run
from crossrank.engines.fake import FakeEngine
from crossrank.pairs import PairEncoder
from tests.checkpoints import CORPUS, write_xlm_roberta

CRANFIELD = str(Path(__file__).parents[1] / "data" / "cranfield")
WORDS = " ".join(CORPUS).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("bulk") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Reranker:
    return Reranker(folder, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries of 0 to 9 documents of 0 to 40 words."""
    dice = random.Random(11)

    def words(most: int) -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(0, most)))

    path = tmp_path_factory.mktemp("bulk") / "big.jsonl"
    rows = [
        {"id": f"q{n}", "query": words(8), "documents": [words(40) for _ in range(dice.randrange(10))]}
        for n in range(600)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer_with(reranker: Reranker, **options: Any) -> bulk.Answers:
    def answers(rows: Iterator[Row], _before: int) -> Iterator[bulk.Answer]:
        return bulk.answers(reranker, rows, **options)

    return answers


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for _, line in read_lines(path)]


def test_answers_are_the_librarys_in_input_order(tiny: Reranker, big: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    bulk.run(Source(str(big)), out, answer_with(tiny, top_n=3, with_text=True), {})
    rows = read(big)[:200]
    answers = read(out)
    assert len(answers) == 600
    for row, answer in zip(rows, answers[:200], strict=True):
        ranking = tiny.rank(row["query"], row["documents"], top_n=3)
        assert (answer["id"], answer["query"]) == (row["id"], row["query"])
        assert [hit["index"] for hit in answer["results"]] == [hit.index for hit in ranking]
        assert [hit["text"] for hit in answer["results"]] == [hit.text for hit in ranking]
        expected = [hit.logit for hit in ranking]
        assert [hit["logit"] for hit in answer["results"]] == pytest.approx(expected, abs=1e-4)


def test_pairs_are_answered_as_pairs(tiny: Reranker, tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("q\tthe panda\nr\tParis\n")
    bulk.run(Source(str(tmp_path / "in.tsv")), tmp_path / "o.jsonl", answer_with(tiny), {})
    scores = tiny.score([("q", "the panda"), ("r", "Paris")])
    found = read(tmp_path / "o.jsonl")
    assert [sorted(row) for row in found] == [["id", "logit", "score", "truncated"]] * 2
    assert [row["score"] for row in found] == pytest.approx(scores.tolist(), abs=1e-5)


def test_a_query_that_was_cut_is_called_the_query(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"query": "long " * 100, "documents": ["a", "b"]})
        + "\n"
        + json.dumps({"query": "q", "documents": ["a", "long " * 100]})
    )
    short = Reranker(folder, threads=1, max_length=32)
    bulk.run(Source(str(tmp_path / "in.jsonl")), tmp_path / "o.jsonl", answer_with(short), {})
    first, second = read(tmp_path / "o.jsonl")
    assert first["query_truncated"]
    assert "query_truncated" not in second
    cut = [{hit["index"]: hit["truncated"] for hit in answer["results"]} for answer in (first, second)]
    assert cut == [{0: False, 1: False}, {0: False, 1: True}]


BLOCK_BYTES = 2000  # so that a kill finds it in the middle of many
KILLED = f"""
import sys
from crossrank.bulk import output
from crossrank.cli import main
output._BLOCK_BYTES = {BLOCK_BYTES}
sys.argv[0] = "crossrank"
main()
"""


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_killed_at_any_moment_it_loses_and_doubles_nothing(
    folder: Path,
    tiny: Reranker,
    big: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    whole, out = tmp_path / f"whole-{name}", tmp_path / name
    monkeypatch.setattr(output, "_BLOCK_BYTES", BLOCK_BYTES)
    bulk.run(Source(str(big)), whole, answer_with(tiny), {})
    options = ["--model", str(folder), "--precision", "fp32", "--device", "cpu", "--batch-tokens", "512"]
    command = [sys.executable, "-c", KILLED, "bulk", str(big), *options]
    partial = out.with_name(name + ".partial")
    dice, size, killed = random.Random(name), whole.stat().st_size, 0
    for share in (0.0, 0.3, 0.6):
        wait_for = int(size * (share + 0.15 * dice.random()))
        process = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.PIPE)
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > wait_for):
            time.sleep(0.001)
        time.sleep(0.02 * dice.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not out.exists()
    assert killed == 3
    done = subprocess.run([*command, "-o", str(out)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "from before" in done.stderr
    expected, found = read(whole), read(out)
    assert [row["id"] for row in found] == [f"q{n}" for n in range(600)]
    for left, right in zip(expected, found, strict=True):
        assert [hit["id"] for hit in left["results"]] == [hit["id"] for hit in right["results"]]
        logits = [[hit["logit"] for hit in row["results"]] for row in (left, right)]
        assert logits[0] == pytest.approx(logits[1], abs=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, whole.name])


def test_cycles_are_looked_for_seldom_and_afterwards_as_before(
    tiny: Reranker, big: Path, tmp_path: Path
) -> None:
    before, collections = gc.get_threshold(), list[str]()

    def count(phase: str, _: Any) -> None:
        collections.append(phase)

    gc.callbacks.append(count)
    try:
        bulk.run(Source(str(big)), tmp_path / "out.jsonl", answer_with(tiny), {})
    finally:
        gc.callbacks.remove(count)
    assert len(collections) <= 2
    assert gc.get_threshold() == before
    with pytest.raises(InputError):
        bulk.run(Source("none.jsonl"), tmp_path / "none.out.jsonl", answer_with(tiny), {})
    assert gc.get_threshold() == before


def test_another_input_is_not_gone_on_with(tiny: Reranker, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": f"q{n}", "query": "q", "documents": ["d"]} for n in range(3)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def two(found: Iterator[Row], before: int) -> Iterator[bulk.Answer]:
        answers = bulk.answers(tiny, found)
        yield next(answers)
        yield next(answers)
        raise EngineError("the engine broke")

    with pytest.raises(EngineError, match="broke"):
        bulk.run(Source(str(source)), out, two, {})
    assert not out.exists()
    source.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]))
    with pytest.raises(InputError, match=r"continues with 'q0' where the input has 'q2' \(.*line 1\)"):
        bulk.run(Source(str(source)), out, answer_with(tiny), {})
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[tuple[int, int]] = []
    resumed = bulk.run(
        Source(str(source)),
        out,
        answer_with(tiny),
        {},
        progress=lambda queries, pairs: told.append((queries, pairs)),
    )
    assert resumed == Counts(2, 2)
    assert told == [(2, 2), (3, 3)]
    assert [row["id"] for row in read(out)] == ["q0", "q1", "q2"]


def test_a_run_finds_its_texts_in_a_collection(tiny: Reranker, tmp_path: Path) -> None:
    run = tmp_path / "first.run"
    run.write_text("3 Q0 5 1 2.5 t\n3 Q0 6 2 1.5 t\n3 Q0 90 3 0.5 t\n1 Q0 12 1 9 t\n1 Q0 184 2 8 t\n")
    out = tmp_path / "out.run"
    source = Source(str(run), CRANFIELD, depth=2)
    assert bulk.check(source, out) == Counts(2, 4)
    bulk.run(source, out, answer_with(tiny), {})
    found = read_run(out)
    assert {query: set(scores) for query, scores in found.items()} == {"3": {"5", "6"}, "1": {"12", "184"}}
    with pytest.raises(InputError, match=r"first\.run is a run, which has no texts"):
        bulk.check(Source(str(run)), out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 Q0 4444 1 1 t\n", "line 2: cranfield has no document 4444, which query 3 names"),
        ("999 Q0 12 1 1 t\n", "line 2: cranfield has no query 999"),
        ("3 Q0 12 1 1 t\n1 Q0 184 1 1 t\n", "line 3: query 1 appeared before"),
        ("3 Q0 12 1 1\n", "line 2: 5 columns"),
    ],
)
def test_what_a_run_asks_for_must_be_there(tmp_path: Path, line: str, message: str) -> None:
    run = tmp_path / "first.run"
    run.write_text("1 Q0 12 1 9 t\n" + line)
    with pytest.raises(InputError) as caught:
        bulk.check(Source(str(run), CRANFIELD), tmp_path / "out.jsonl")
    assert message in str(caught.value)


def test_what_a_run_cannot_hold_is_refused_before_the_work(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a b", "query": "q", "documents": []}\n')
    with pytest.raises(InputError, match="line 1: the id 'a b' is empty or has white space"):
        bulk.check(Source(str(source)), tmp_path / "out.run.gz")
    source.write_text('{"query": "q", "document": "d"}\n')
    with pytest.raises(InputError, match="pairs cannot be written as a run"):
        bulk.check(Source(str(source)), tmp_path / "out.run")
    assert bulk.check(Source(str(source)), tmp_path / "out.parquet") == Counts(1, 1)


def test_a_logit_that_is_none_names_the_query(folder: Path, tmp_path: Path) -> None:
    engine = FakeEngine(lambda ids: float("nan") if len(ids) > 20 else 1.0)
    reranker = Reranker.from_parts(PairEncoder(folder / "tokenizer.json"), engine)
    source = tmp_path / "in.jsonl"
    rows = [
        {"id": "fine", "query": "q", "documents": ["d"]},
        {"id": "bad", "query": "q", "documents": ["d " * 50]},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EngineError, match=r"line 2, query bad: pair 0 has the logit nan"):
        bulk.run(Source(str(source)), tmp_path / "o.jsonl", answer_with(reranker), {})


def test_another_instruction_of_a_row_is_another_input(tmp_path: Path) -> None:
    digests = set()
    for told in (None, "one", "two", ""):
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps({"query": "q", "documents": ["d"], "instruction": told}) + "\n")
        digests.add(bulk.check(Source(str(path)), tmp_path / "out.jsonl").digest)
    assert len(digests) == 4
