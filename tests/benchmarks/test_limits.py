"""Promises are held against figures; nothing is measured here."""

from dataclasses import replace

import pytest

from benchmarks import limits, promises, serving
from benchmarks.limits import AMX, REFUSAL, ROWS, ZEN_4, ZEN_5, Limit


def cpuinfo(vendor: str, family: int, flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: fpu {flags}\n\n" * 2


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "row"),
    [
        ("GenuineIntel", 6, "avx2 avx512f avx512_vnni amx_bf16 amx_tile amx_int8", AMX),
        ("GenuineIntel", 6, "avx2 avx512f avx512_vnni", None),
        ("AuthenticAMD", 26, "avx2 avx512f avx512_vnni", ZEN_5),
        ("AuthenticAMD", 25, "avx2 avx512f avx512_vnni", ZEN_4),
        ("AuthenticAMD", 25, "avx2", None),  # Zen 3
        ("AuthenticAMD", 27, "avx2 avx512_vnni", None),
    ],
)
def test_a_machine_is_known_by_its_processor(vendor: str, family: int, flags: str, row: str | None) -> None:
    assert limits.row(cpuinfo(vendor, family, flags)) == row


def test_a_machine_without_flags_has_no_row() -> None:
    assert limits.row("Processor : AArch64\nFeatures : asimd\n") is None
    assert limits.row("") is None
    assert limits.row() in (*ROWS, None)


def test_a_promise_is_kept_up_to_its_bound() -> None:
    least, most = Limit("rate", 2.0, at_least=True), Limit("time", 3.0, unit=" s")
    assert [least.check(figure, None).kept for figure in (1.99, 2.0, 9.0)] == [False, True, True]
    assert [most.check(figure, None).kept for figure in (0.0, 3.0, 3.01)] == [True, True, False]
    assert str(most.check(4, None)) == "BROKEN  time: 4 s; at most 3 s"


def test_nothing_is_broken_where_nothing_is_promised(capsys: pytest.CaptureFixture[str]) -> None:
    limit = Limit("rate", {AMX: 2.0}, at_least=True)
    unknown, other, broken = (limit.check(1, row) for row in (None, ZEN_4, AMX))
    assert (unknown.kept, other.kept, broken.kept) == (None, None, False)
    assert limits.report([unknown, other]) == 0
    assert limits.report([other, broken]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "-       rate: 1; nothing is promised for this processor, which no row describes"
    assert told[1] == "-       rate: 1; nothing is promised for the row Zen 4"


def test_the_server_is_held_to_what_it_refuses_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "row", lambda: AMX)
    overload = serving.Overload(60, 256, 10, 900, 2700, 800, {"200": 900, "429": 500, "504": 90})
    overload = replace(overload, refused_p99_ms=100.5, late_p99_s=10.0, memory_mb=[150, 150, 160])
    figures = serving.Figures("cpu", 2, "model", "int8", 2, overload=overload)
    assert [(verdict.limit, verdict.kept) for verdict in serving.verdicts(figures)] == [(REFUSAL, False)]
    figures.overload = replace(overload, refused_p99_ms=99.5)
    assert serving.verdicts(figures)[0].kept
    # Nobody was refused: nothing can be said.
    figures.overload = replace(overload, statuses={"200": 900})
    assert serving.verdicts(figures) == []
    assert "| refused when they came (429): p50, p99 |" in serving.table(figures)


def test_the_whole_exits_1_where_one_promise_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(promises, "PROMISES", {"good": lambda: 0, "bad": lambda: 1})
    monkeypatch.setattr("sys.argv", ["promises"])
    with pytest.raises(SystemExit, match="broken: bad"):
        promises.main()
    monkeypatch.setattr("sys.argv", ["promises", "good"])
    promises.main()
    monkeypatch.setattr("sys.argv", ["promises", "other"])
    with pytest.raises(SystemExit):
        promises.main()
    assert "no such promise: other" in capsys.readouterr().err
