import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from crossrank import InputError, Reranker
from crossrank.data.collection import Collection, load_collection
from crossrank.data.rows import Document, Row
from crossrank.data.trec import Run, read_run
from crossrank.evaluation.measure import (
    METRICS,
    System,
    bootstrap,
    candidates,
    compare,
    first_stage,
    measure,
    parse_metrics,
    rerank,
)
from tests.checkpoints import write_xlm_roberta

CRANFIELD = str(Path(__file__).parents[1] / "data" / "cranfield")
# trec_eval's names of METRICS; it knows MRR without a cutoff only.
TREC = {
    "nDCG@10": "ndcg_cut_10",
    "MRR": "recip_rank",
    "MAP": "map",
    "Recall@100": "recall_100",
    "P@10": "P_10",
}


@pytest.fixture(scope="module")
def cranfield() -> Collection:
    return load_collection(CRANFIELD)


@pytest.fixture(scope="module")
def texts(cranfield: Collection) -> dict[str, str]:
    return cranfield.texts()


def write_run(path: Path, run: Run, digits: int) -> Path:
    lines = [
        f"{query} Q0 {document} {rank} {score:.{digits}f} test\n"
        for query, found in run.items()
        for rank, (document, score) in enumerate(found.items())
    ]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("digits", [6, 0], ids=["a real run", "a run full of ties"])
def test_measures_are_trec_evals(
    cranfield: Collection, texts: dict[str, str], tmp_path: Path, digits: int
) -> None:
    run = first_stage(cranfield, texts, 100).run
    path = write_run(tmp_path / "bm25.run", run, digits)
    system = System("run", read_run(path), is_given=True)
    queries = list(cranfield.queries)
    measure(system, cranfield.qrels, queries, parse_metrics(list(TREC)))
    with path.open() as file:
        reference = pytrec_eval.RelevanceEvaluator(cranfield.qrels, set(TREC.values())).evaluate(
            pytrec_eval.parse_run(file)
        )
    for name, theirs in TREC.items():
        expected = [reference[query][theirs] for query in queries]
        np.testing.assert_allclose(system.measures[name], expected, atol=1e-6)
        assert 0 < np.mean(expected) < 1 or name == "Recall@100"


def test_a_measure_may_be_asked_for_by_several_names(cranfield: Collection, texts: dict[str, str]) -> None:
    system = first_stage(cranfield, texts, 10)
    measure(system, cranfield.qrels, list(cranfield.queries), parse_metrics(["MRR@10", "RR@10", "mrr@10"]))
    first, *others = system.measures.values()
    assert first.mean() > 0
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_query_without_results_counts_as_nothing(cranfield: Collection, texts: dict[str, str]) -> None:
    system = first_stage(cranfield, texts, 10)
    metrics = parse_metrics(METRICS)
    queries = list(cranfield.queries)
    measure(system, cranfield.qrels, queries, metrics)
    before = system.measures["nDCG@10"]
    del system.run[queries[0]]
    measure(system, cranfield.qrels, queries, metrics)
    assert before[0] > 0
    assert system.measures["nDCG@10"][0] == 0
    np.testing.assert_array_equal(system.measures["nDCG@10"][1:], before[1:])


def test_equal_scores_keep_crossranks_order_and_trec_evals_in_a_file() -> None:
    # trec_eval puts the larger document id first.
    run, qrels = {"q": {"a": 1.0, "b": 1.0}}, {"q": {"a": 1, "b": 0}}
    ours, given = System("ours", run), System("given", run, is_given=True)
    for system in (ours, given):
        measure(system, qrels, ["q"], parse_metrics(["P@1"]))
    assert ours.measures["P@1"].tolist() == [1.0]
    assert given.measures["P@1"].tolist() == [0.0]


@pytest.mark.parametrize("name", ["nDGC@10", "Recall", "nDCG@x", "", "P@0.5", "__import__('os')"])
def test_unknown_metrics_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"metric .* is unknown; use one such as nDCG@10"):
        parse_metrics([name])


def test_the_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        baseline = generator.uniform(size=60)
        system = baseline + generator.normal(0.05, 0.2, size=60)
        found = compare(system, baseline, seed=trial)
        assert found.interval is not None
        low, high = found.interval
        assert low < found.difference < high
        inside += low <= 0.05 <= high
    # Of 200 intervals of 95 %, 190 are expected; fewer than 176 has a chance of 1 in 10,000.
    assert 176 <= inside <= 200


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    generator = np.random.default_rng(0)
    baseline = generator.uniform(size=50)
    found = compare(baseline + 0.01, baseline)
    # Every query gains the same: resampling changes nothing, however much queries differ.
    assert found.interval == pytest.approx((0.01, 0.01))
    assert (found.wins, found.losses) == (50, 0)
    system = generator.uniform(size=50)
    assert compare(system, baseline) == compare(system, baseline)
    assert compare(system, baseline).difference == pytest.approx(-compare(baseline, system).difference)


def test_reranking_in_a_process_gives_the_librarys_order_and_the_cost(
    cranfield: Collection, texts: dict[str, str], tmp_path: Path
) -> None:
    model = write_xlm_roberta(tmp_path / "tiny")
    rows = candidates(cranfield, texts, first_stage(cranfield, texts, 5).run, 5)
    done: list[int] = []
    system = rerank("tiny", {"model": model, "precision": "fp32", "device": "cpu"}, rows, done.append)
    reranker = Reranker(model, precision="fp32", device="cpu")
    for row in rows:
        ranking = reranker.rank(row.query, [document.text for document in row.documents])
        assert list(system.run[str(row.id)]) == [row.documents[hit.index].id for hit in ranking]
        assert system.scores is not None
        scores = list(system.scores[str(row.id)].values())
        assert scores == pytest.approx([hit.score for hit in ranking], abs=1e-5)
    assert done[-1] == 40
    assert system.cost is not None
    assert (system.cost.precision, system.cost.pairs) == ("fp32", 40)
    assert system.cost.rate > 0
    assert 20e6 < system.cost.memory < 0.5e9  # a Python with numpy; not this process with PyTorch and all


def test_an_error_of_the_process_is_the_callers(cranfield: Collection, texts: dict[str, str]) -> None:
    rows = candidates(cranfield, texts, {"1": {"184": 1.0}}, 5)
    with pytest.raises(InputError, match="precision is 'fp8'"):
        rerank("mini", {"precision": "fp8"}, rows)


def test_a_first_stage_that_names_what_is_not_there(cranfield: Collection, texts: dict[str, str]) -> None:
    with pytest.raises(InputError, match="names document 9999, which is not in cranfield"):
        candidates(cranfield, texts, {"1": {"184": 1.0, "9999": 0.5}}, 5)


def test_sets_weigh_the_same_in_an_interval_however_many_queries_they_have() -> None:
    few, many = np.zeros(10), np.ones(1000)
    assert bootstrap([few, many], seed=1) == (0.5, 0.5)
    mixed = np.arange(10) / 9
    low, high = bootstrap([mixed], seed=1)
    assert bootstrap([mixed, many], seed=1) == pytest.approx(((low + 1) / 2, (high + 1) / 2))


def test_an_interval_takes_ten_queries() -> None:
    assert compare(np.ones(9), np.zeros(9)).interval is None
    assert compare(np.ones(9), np.zeros(9)).difference == 1.0
    assert compare(np.ones(10), np.zeros(10)).interval == (1.0, 1.0)


def test_ctrl_c_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    rows = [Row("1", "1", "tea", (Document("a", "green tea"), Document("b", "a pot")))]

    def go_on(_pairs: int) -> None:
        [process] = multiprocessing.active_children()  # Ctrl-C goes to it too
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)

    def stop(_pairs: int) -> None:
        raise KeyboardInterrupt

    assert rerank("mini", {"threads": 1}, rows, go_on).cost is not None
    with pytest.raises(KeyboardInterrupt):
        rerank("mini", {"threads": 1}, rows, stop)
    assert not multiprocessing.active_children()
    assert "Traceback" not in capfd.readouterr().err
