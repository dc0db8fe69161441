"""The figures on the pages are those of benchmarks/results/."""

from pathlib import Path

from benchmarks.contest import report

ROOT = Path(__file__).resolve().parents[2]


def test_the_pages_show_the_results_that_are_kept() -> None:
    paths = [ROOT / "benchmarks" / "results" / f"{model}.json" for model in report.TITLES]
    known = [report.read(path) for path in paths if path.is_file()]
    assert known[0]["model"] == "v2-m3-shape"
    for language, suffix in (("en", ""), ("zh", ".zh-CN")):
        assert report.page(known, language) in (ROOT / f"docs/performance{suffix}.md").read_text()
        assert report.claim(known[0], language) in (ROOT / f"README{suffix}.md").read_text()
