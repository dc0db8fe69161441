from __future__ import annotations

import pytest

from crossrank._progress import progress_bar


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("total", [10, None])
def test_nothing_is_drawn_where_nobody_watches(
    wanted: bool, total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(wanted, "packing", total) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich: as if it were a terminal
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(True, "packing", 10) as advance:
        advance(5)
    out, drawn = capsys.readouterr()
    assert out == ""
    assert "packing" in drawn
