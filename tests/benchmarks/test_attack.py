"""The attacks of ``make attack``, each once and small, and how what was measured is judged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.attack import CLOSED, NO_ANSWER, SLOWER, Attack, Row, ask_for, attack, attacks, good, judge
from tests.server.process import Server, serving

pytestmark = pytest.mark.full  # a server under attack, for minutes
ATTACKS = {each.name: each for each in attacks(0.01)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--model", "crossrank-mini", "--threads", "1", "--read-timeout", "1", "--write-timeout", "1"]
    with serving(tmp_path_factory.mktemp("server"), *options) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("each", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_gets_its_answer(each: Attack, server: Server) -> None:
    met = asyncio.run(attack(server.port, each, deaf=3.0))
    assert met.total() == each.connections
    assert set(met) <= each.right
    assert server.request("GET", "/health")[0] == 200


def test_good_clients_get_their_answers(server: Server) -> None:
    rows = asyncio.run(ask_for(server.port, 0.0, at_least=1))
    status = {kind.name: kind.status for kind in good()}
    assert {row.kind for row in rows} == set(status)
    assert all(row.status == status[row.kind] for row in rows)
    assert judge(rows, rows, (100.0, 100.0), {}) == []


QUIET = [Row(kind.name, 0.01, kind.status, (1, 0)) for kind in good()]
MEMORY = (300.0, 300.0)


def changed(kind: str, **changes: object) -> list[Row]:
    return [replace(row, **changes) if row.kind == kind else row for row in QUIET]  # type: ignore[arg-type]


def test_what_is_as_it_was_alone_holds() -> None:
    assert judge(QUIET, QUIET, (300.0, 359.0), {"spaces": {200: 1, 429: 2, CLOSED: 3, NO_ANSWER: 1}}) == []
    assert judge(QUIET, changed("rerank", seconds=0.01 * SLOWER), MEMORY, {}) == []


@pytest.mark.parametrize(
    ("rows", "memory", "met", "said"),
    [
        (changed("rerank", status=503, message="busy"), MEMORY, {}, "rerank: 1 of 1 .*: 503 busy"),
        (changed("a bad request", status=503), MEMORY, {}, "a bad request: 1 of 1 .*: 503"),
        (changed("a bad request", status=200), MEMORY, {}, "a bad request: 1 of 1 .*: 200"),
        (changed("live", status=CLOSED), MEMORY, {}, "live: 1 of 1 .*: no answer"),
        (changed("rerank", order=(0, 1)), MEMORY, {}, "rerank: 1 of 1 have another order"),
        (changed("score", seconds=0.21), MEMORY, {}, "score: 1 of 1 took more than 20 times 10 ms.* 210 ms"),
        ([row for row in QUIET if row.kind != "score"], MEMORY, {}, "score: no request"),
        (QUIET, (300.0, 361.0), {}, "memory: 300 MB before the attacks, 361 MB after"),
        (QUIET, MEMORY, {"spaces": {200: 3, 500: 1}}, "'spaces' was answered with 500"),
    ],
)
def test_what_is_broken_is_told_in_a_line(
    rows: list[Row], memory: tuple[float, float], met: dict[str, dict[int, int]], said: str
) -> None:
    (line,) = judge(QUIET, rows, memory, met)
    assert re.search(said, line)


def test_a_server_that_fails_without_attacks_does_not_hold() -> None:
    assert judge(changed("rerank", status=503), QUIET, MEMORY, {})
