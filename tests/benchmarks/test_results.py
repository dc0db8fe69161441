"""The figures on the pages are those of benchmarks/results/."""

from copy import deepcopy
from pathlib import Path

import pytest

from benchmarks.contest import report
from benchmarks.contest.models import OURS
from benchmarks.limits import ROWS

ROOT = Path(__file__).resolve().parents[2]
MACHINES = report.read(ROOT / "benchmarks" / "results")


@pytest.mark.parametrize(("language", "suffix"), [("en", ""), ("zh", ".zh-CN")])
def test_the_pages_show_the_results_that_are_kept(language: str, suffix: str) -> None:
    assert report.page(MACHINES, language) in (ROOT / f"docs/performance{suffix}.md").read_text()
    assert report.claim(MACHINES, language) in (ROOT / f"README{suffix}.md").read_text()


def test_each_machine_has_its_folder_and_chart() -> None:
    folders = {path.name for path in (ROOT / "benchmarks" / "results").iterdir()}
    assert folders == {report.machine_slug(results) for results, *_ in MACHINES}
    for results, *_ in MACHINES:
        assert (ROOT / "docs" / report.chart_name(results)).is_file()


def test_a_machine_is_named_by_its_processor_and_kernels() -> None:
    machine = {"cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "kernels": "avx512_amx"}
    assert report.machine_slug({"machine": machine}) == "intel-xeon-platinum-8481c-avx512-amx"


def test_the_results_keep_what_is_promised_for_their_machines() -> None:
    for results in (results for machine in MACHINES for results in machine):
        assert results["machine"]["row"] in ROWS
        verdicts = report.verdicts(results)
        assert [str(verdict) for verdict in verdicts if verdict.kept is False] == []
        promised = {"v2-m3-shape": 11, "modernbert-base-shape": 5, "qwen3-reranker-0.6b-shape": 3}
        assert len(verdicts) == promised.get(results["model"], 0)


def test_slower_results_break_promises() -> None:
    for results, *_ in MACHINES:
        slower = deepcopy(results)
        rates = slower["sides"][OURS]["pairs_per_second"]
        rates.update({cell: rate / 1.5 for cell, rate in rates.items()})
        slower["machine"]["resident_mb"] = 901
        broken = [verdict.limit.what for verdict in report.verdicts(slower) if verdict.kept is False]
        assert len(broken) == 9
