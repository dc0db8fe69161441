from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress

import pytest
from starlette.types import Message

from crossrank.server.http.faults import Fault
from crossrank.server.http.limits import (
    MAX_CONTAINERS,
    Bodies,
    ClientGone,
    Gate,
    check_containers,
    check_texts,
    read_body,
    request_timeout,
)
from crossrank.server.settings import Limits


def read(
    parts: Sequence[bytes | float | None], limits: Limits, content_length: int | None = None
) -> bytes | Fault:
    """Parts of a body; None: the client goes; a number: so many seconds of silence."""

    async def main() -> bytes | Fault:
        left = list(parts)

        async def receive() -> Message:
            part = left.pop(0)
            if isinstance(part, float):
                await asyncio.sleep(part)
                part = left.pop(0)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        headers = [] if content_length is None else [(b"content-length", str(content_length).encode())]
        try:
            return bytes(await read_body({"headers": headers}, receive, limits))
        except Fault as fault:
            return fault

    return asyncio.run(main())


def test_a_body_in_one_part_or_many() -> None:
    limits = Limits(max_body_bytes=6)
    assert read([b"abcdef"], limits, 6) == b"abcdef"
    assert read([b"ab", b"", b"cd", b"ef"], limits) == b"abcdef"
    assert read([b""], limits) == b""


def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    found = read([], Limits(max_body_bytes=6), 7)
    assert isinstance(found, Fault)
    assert found.kind == "too_large"
    assert "larger than 6 bytes" in str(found)
    assert "--max-body" in str(found)


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large() -> None:
    found = read([b"abc", b"defg", 100.0], Limits(max_body_bytes=6))
    assert isinstance(found, Fault)
    assert found.kind == "too_large"


@pytest.mark.parametrize("parts", [[b"{", 10.0, b"}"], [b"{"] + [0.03, b" "] * 20, [10.0, b"{}"]])
def test_a_body_that_comes_too_slowly(parts: list[bytes | float]) -> None:
    found = read(parts, Limits(read_timeout=0.1))
    assert isinstance(found, Fault)
    assert found.kind == "slow"
    assert "--read-timeout" in str(found)


def test_a_client_that_goes_within_its_body() -> None:
    with pytest.raises(ClientGone):
        read([b"{", None], Limits())


def test_the_gate_lets_so_many_in() -> None:
    gate = Gate(2, 2)
    with gate(), gate():
        assert gate.inside == 2
        with pytest.raises(Fault, match="--max-concurrent-requests") as refused, gate():
            pass
        assert (refused.value.kind, refused.value.retry_after) == ("overloaded", 1.0)
    with pytest.raises(ZeroDivisionError), gate():
        raise ZeroDivisionError
    assert gate.inside == 0


def test_one_client_has_half_of_the_gate_or_as_told() -> None:
    for gate, most in ((Gate(4), 2), (Gate(5), 3), (Gate(1), 1), (Gate(8, 1), 1)):
        with ExitStack() as stack:
            for _ in range(most):
                stack.enter_context(gate("one"))
            with pytest.raises(
                Fault, match=f"{most} requests .*--max-(client|concurrent)-requests"
            ) as refused:
                gate.check("one")
            assert (refused.value.kind, refused.value.retry_after) == ("overloaded", 1.0)
            if gate.limit > most:
                with gate("another"):
                    assert gate.inside == most + 1
        with gate("one"):
            assert gate.inside == 1


def test_the_gate_can_be_asked_before() -> None:
    gate = Gate(1)
    gate.check()
    with gate(), pytest.raises(Fault, match="--max-concurrent-requests"):
        gate.check()
    gate.check()


def test_bodies_are_counted_until_they_are_answered() -> None:
    bodies = Bodies(100)
    with bodies() as take:
        take(30)
        take(20)
        assert bodies.held == 50
        with pytest.raises(Fault, match="--max-bodies") as refused:
            take(1)  # more than is left
        assert (refused.value.kind, refused.value.retry_after) == ("overloaded", 1.0)
        assert bodies.held == 50
    assert bodies.held == 0


def test_one_client_leaves_room_for_others() -> None:
    bodies = Bodies(1000)
    with ExitStack() as stack:
        for _ in range(9):
            take = stack.enter_context(bodies("greedy"))
            with suppress(Fault):
                for _ in range(1000):
                    take(1)
        assert bodies.held == 500
        stack.enter_context(bodies("modest"))(200)
    assert bodies.held == 0
    with bodies("greedy") as take:
        take(500)


def test_a_part_of_a_body_is_counted_as_it_comes() -> None:
    bodies = Bodies(10)

    async def main() -> None:
        parts = [b"abc", b"de", b"f"]

        async def receive() -> Message:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        with bodies() as take, pytest.raises(Fault, match="--max-bodies"):
            await read_body({"headers": []}, receive, Limits(), take)

    asyncio.run(main())
    assert bodies.held == 0


def nested(count: int) -> bytes:
    return b"[" + b",".join([b"[]"] * (count - 1)) + b"]"


def test_so_many_lists_and_objects() -> None:
    check_containers(nested(MAX_CONTAINERS))
    check_containers(b'{"x":' + nested(MAX_CONTAINERS - 1) + b"}")


@pytest.mark.parametrize(
    "body",
    [
        nested(MAX_CONTAINERS + 1),
        b"{" + nested(MAX_CONTAINERS) + b"}",
        b"[" * (MAX_CONTAINERS + 1),
        b'["a\\"]",' + nested(MAX_CONTAINERS) + b"]",
        b'["a\\\\",' + nested(MAX_CONTAINERS) + b"]",
        b'["",' + b'"",' * 1_000_000 + nested(MAX_CONTAINERS) + b"]",
    ],
)
def test_too_many_lists_and_objects(body: bytes) -> None:
    with pytest.raises(Fault, match="more than 100000 lists and objects") as refused:
        check_containers(bytearray(body))
    assert refused.value.kind == "limit"


def test_brackets_in_texts_are_neither_lists_nor_objects() -> None:
    text = 'a[0] = {"b": "\\"}; ' * 1000
    check_containers(json.dumps({"texts": [text] * 200}).encode())


def test_texts_within_the_limits() -> None:
    limits = Limits(max_documents=2, max_document_chars=5)
    check_texts(limits, ["12345"], ["12345", "中文中文中"])
    for queries, documents, message in (
        (["q"], ["a", "b", "c"], "batch size 3 > maximum allowed batch size 2 .--max-documents"),
        (["123456"], ["a"], "query has 6 characters, and this server reads at most 5 .--max-document-chars"),
        (["q"], ["a", "123456"], "document 1 has 6 characters"),
        (["q", "123456"], ["a", "b"], "query 1 has 6 characters"),
    ):
        with pytest.raises(Fault, match=message) as fault:
            check_texts(limits, queries, documents)
        assert fault.value.kind == "limit"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 60.0), ("2", 2.0), ("0.5", 0.5), ("61", 60.0), ("inf", 60.0), ("1e9", 60.0)],
)
def test_a_request_may_ask_for_less_time(header: str | None, seconds: float) -> None:
    assert request_timeout(header, Limits(timeout=60)) == seconds


@pytest.mark.parametrize("header", ["", "0", "-1", "nan", "soon"])
def test_what_is_no_time(header: str) -> None:
    with pytest.raises(Fault, match="X-Request-Timeout"):
        request_timeout(header, Limits())
