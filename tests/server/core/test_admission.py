"""Which requests are accepted: numbers in, an answer out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crossrank.errors import CrossRankError, DeadlineError, InputError, OverloadedError
from crossrank.server.core.admission import LATER, MAX_LATENESS, SOONER, Admission
from crossrank.server.core.job import Job
from crossrank.server.core.work import Work

RATE = 1000.0


def request(
    tokens: int,
    client: str = "",
    priority: int = 0,
    *,
    deadline: float | None = None,
    reading_s: float = 0.0,
    rate: float = RATE,
) -> Job:
    """A request, in numbers."""
    work = Work(["q"], ["text"], priority=priority, deadline=deadline, client=client)
    model: Any = SimpleNamespace(rate=rate, reading_rate=1000.0)
    future: Any = None
    return Job(work, model, future, [tokens], unread=int(1000 * reading_s), quantum=100, begun=0.0)


def asked(admission: Admission, new: Job, *waiting: Job, now: float = 0.0) -> tuple[str, str]:
    """The reason and the kind of error; none of both for a request that is accepted."""
    refusal = admission.refusal(new, waiting, now)
    return ("", "") if refusal is None else (refusal.reason, type(refusal.error).__name__)


YES = ("", "")
FULL = ("queue", "OverloadedError")
LATE = ("deadline", "OverloadedError")
NEVER = ("deadline", "DeadlineError")


def test_alone_a_request_may_have_the_whole_queue_and_no_more() -> None:
    admission = Admission(800)
    assert asked(admission, request(800)) == YES
    assert asked(admission, request(801)) == ("too_large", "InputError")


@pytest.mark.parametrize(
    ("queued", "need", "answer"), [(600, 100, YES), (600, 101, FULL), (700, 1, FULL), (1, 799, FULL)]
)
def test_an_eighth_is_kept_for_others(queued: int, need: int, answer: tuple[str, str]) -> None:
    assert asked(Admission(800), request(need, "a"), request(queued, "a")) == answer


def test_who_has_little_in_the_queue_gets_what_is_kept() -> None:
    admission = Admission(800)
    many = request(700, "many")
    assert asked(admission, request(100, "other"), many) == YES
    assert asked(admission, request(101, "other"), many) == FULL
    assert asked(admission, request(60, "third"), many, request(60, "other")) == FULL
    # Also where texts had more tokens than estimated, and the queue is longer than it may be.
    assert asked(admission, request(100, "other"), request(2000, "many")) == YES


@pytest.mark.parametrize(("rate", "retry"), [(1000.0, 1.0), (10.0, 10.0), (0.01, 300.0)])
def test_when_to_try_again_is_when_there_will_be_room(rate: float, retry: float) -> None:
    refusal = Admission(800).refusal(request(100, "a"), [request(700, "a", rate=rate)], 0.0)
    assert refusal is not None
    assert isinstance(refusal.error, OverloadedError)
    assert refusal.error.retry_after == pytest.approx(retry)


def test_without_a_deadline_or_a_known_speed_nobody_is_late() -> None:
    admission = Admission(10**6)
    waiting = [request(10**5, name) for name in "abc"]
    assert asked(admission, request(1000, "z"), *waiting) == YES
    assert asked(admission, request(1000, "z", deadline=0.1, rate=0.0), *waiting) == YES


@pytest.mark.parametrize(("tokens", "answer"), [(1999, YES), (2001, NEVER)])
def test_alone_a_request_may_seem_to_take_twice_its_time(tokens: int, answer: tuple[str, str]) -> None:
    assert asked(Admission(10**6), request(tokens, deadline=51.0), now=50.0) == answer


@pytest.mark.parametrize(("seconds", "answer"), [(1.9, YES), (2.1, NEVER)])
def test_the_time_of_its_texts_counts_as_well(seconds: float, answer: tuple[str, str]) -> None:
    assert asked(Admission(10**6), request(10, reading_s=seconds, deadline=1.0)) == answer


def test_what_goes_before_a_request_must_leave_it_time() -> None:
    admission, new = Admission(10**6), request(1000, "a", deadline=4.0)
    assert asked(admission, new, request(2900, "a")) == YES
    # Two large requests of a client take turns, so another one costs it no more than its own tokens.
    assert asked(admission, new, request(5000, "a")) == YES
    assert asked(admission, new, *[request(5000, "a")] * 4) == LATE
    # Those of another client, no more than this client's own.
    assert asked(admission, new, *[request(5000, "b")] * 9) == YES
    assert asked(admission, new, *[request(5000, name) for name in "bcde"]) == LATE
    # What has a lower priority comes later, and small requests wait for no large one.
    assert asked(admission, new, *[request(5000, name, 1) for name in "bcde"]) == YES
    assert asked(admission, request(10, "a", deadline=0.1), *[request(5000, "a")] * 9) == YES


def test_texts_of_all_priorities_are_read_in_turns() -> None:
    new = request(10, "a", deadline=4.0, reading_s=1.0)
    others = [request(10, name, 999, reading_s=9.0) for name in "bcdef"]
    assert asked(Admission(10**6, text_threads=1), new, *others) == LATE
    assert asked(Admission(10**6, text_threads=4), new, *others[:2]) == YES


def test_large_requests_that_were_late_make_others_wait_longer() -> None:
    admission = Admission(10**6)
    new, small = request(1000, "a", deadline=4.0), request(100, "b")
    waiting = [request(2500, "a")]
    admission.ended(small, in_time=False)
    assert admission.lateness == 1.0
    assert asked(admission, new, request(900, "b"), request(900, "a")) == YES
    for _ in range(10):
        admission.ended(new, in_time=False)
    assert admission.lateness == pytest.approx(LATER**10)
    assert asked(admission, new, request(1500, "b"), request(900, "a")) == LATE
    for _ in range(100):
        admission.ended(new, in_time=False)
    assert admission.lateness == MAX_LATENESS
    admission.ended(small, in_time=True)
    assert admission.lateness == MAX_LATENESS
    admission.ended(new, in_time=True)
    assert admission.lateness == MAX_LATENESS * SOONER
    for _ in range(2000):
        admission.ended(new, in_time=True)
    assert admission.lateness == 1.0
    assert asked(admission, new, *waiting) == YES


@pytest.mark.parametrize(
    ("tokens", "rate", "left", "answer"),
    [
        (801, 0.0, None, True),
        (800, 0.0, 0.001, False),
        (100, 10.0, 9.0, True),
        (100, 10.0, 11.0, False),
        (100, 10.0, None, False),
    ],
)
def test_what_might_be_refused_though_it_is_alone(
    tokens: int, rate: float, left: float | None, answer: bool
) -> None:
    assert Admission(800).may_refuse(tokens, rate, left) is answer


def test_a_refusal_is_an_error_that_says_what_to_do() -> None:
    wanted: list[tuple[type[CrossRankError], Job, str]] = [
        (InputError, request(900), "send fewer documents at once"),
        (DeadlineError, request(700, deadline=0.1), "send fewer documents at once, or allow more time"),
    ]
    for kind, new, message in wanted:
        refusal = Admission(800).refusal(new, [], 0.0)
        assert refusal is not None
        assert isinstance(refusal.error, kind)
        assert message in str(refusal.error)
