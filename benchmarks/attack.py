"""Attacks on a server, and good clients beside them.

    python -m benchmarks.attack                # ten minutes; make attack
    python -m benchmarks.attack --minutes 1

``crossrank serve`` runs crossrank-mini with its defaults as a process of its own. Good clients ask it for a
while alone, then beside the attackers, which are another process and have another address. It holds, and
the exit status is 0, where

- every good request is answered as it was alone, or refused for its own sake (a bad request with 400);
- none takes twenty times as long as its kind took alone (the slowest of the quiet time counts, as a machine
  has pauses of its own);
- the server's memory, once the attackers have gone and it is idle, is within 20 % of what it was before
  they came, when it was idle, too, and had scored long documents;
- no attack is answered with 500, which is no answer that anybody meant.

It needs Linux, where every address 127.x.y.z is this machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from benchmarks.serving import Server, serving

SLOWER = 20.0
"""Times its quiet time that a good request may take."""

GROWTH = 0.2
"""Share of its memory by which the server may grow."""

GOOD, BAD = ("127.0.0.2", "127.0.0.3"), "127.0.0.66"
"""The addresses of the clients: a server without keys tells clients apart by them."""

ATTACKERS = 6
PATIENCE = 90.0
"""Seconds after which an attacker gives an answer up; the server's own limits are 60 and less."""

DEAF_SECONDS = 70.0
"""Seconds for which an attacker does not read: twice the server's --write-timeout, and some."""

SETTLE_SECONDS, IDLE_SECONDS = 15.0, 0.5
"""A server that takes no more processor time in so many seconds is idle, and has returned free memory to the
system, which it does every 10. What it does for clients that left may last: a text is read to its end."""

CLOSED, NO_ANSWER = 0, -1
"""Instead of a status: the connection was closed without an answer; it stayed open without one."""


# --- the attacks ---


class End(Enum):
    """What an attacker does once everything is sent."""

    READ = "it reads the answer"
    WAIT = "it has not sent everything, and waits until the server closes the connection"
    DEAF = "it reads a little of the answer, and the rest only when the server should have dropped it"
    LEAVE = "it closes the connection"


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: of the table.
        sends: the bytes, piece after piece.
        right: the statuses that are right, ``CLOSED`` among them.
        end: what follows.
        connections: so many at a time.
    """

    name: str
    sends: Callable[[], Iterable[bytes]]
    right: frozenset[int]
    end: End = End.READ
    connections: int = 1


BUSY = frozenset([429, 503, 504])
"""What an attacker may be told at any time: too much, or too late."""


def http(path: str, body: bytes, *headers: str) -> bytes:
    """A request."""
    head = [f"POST {path} HTTP/1.1", "host: localhost", "connection: close", *headers]
    return "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body


def attacks(scale: float = 1.0) -> list[Attack]:
    """All of them.

    Args:
        scale: of their sizes; 1.0: as large as the server's limits let them be.
    """

    def times(count: int) -> int:
        return max(1, int(scale * count))

    found: list[Attack] = []

    def add(name: str, sends: Callable[[], Iterable[bytes]], *right: int, **options: object) -> None:
        statuses = frozenset(right) | (BUSY if 200 in right or 400 in right else frozenset())
        found.append(Attack(name, sends, statuses, **options))  # type: ignore[arg-type]

    def post(name: str, path: str, body: object, *right: int, headers: Sequence[str] = ()) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        add(name, lambda: [http(path, data, *headers)], *right)

    # Work on texts.
    for name, text in {
        "full stops": "." * times(900_000) + "a",
        "exclamation marks": "a" + "!" * times(900_000) + "b",
        "spaces": "a" + " " * times(900_000) + "b",
        "Thai": "\u0e01" + " " * times(900_000) + "x",
        "sentences between spaces": ("Cat sat." + " " * 4100 + "\n") * times(160) + "😀",
    }.items():
        post(f"explain: {name}", "/explain", {"query": "q", "document": text}, 200, 400)
    swelling = {"query": "q", "truncate": False, "texts": ["\ufdfa" * times(1_000_000)]}
    post("a text that swells", "/rerank", swelling, 400, 413, 422)
    # Equal texts are read once.
    lines = ["\n" * (times(1_000_000) - i) for i in range(7)]
    post("new lines", "/rerank", {"query": "q", "texts": lines}, 200)
    many = [chr(0x4E00 + i) for i in range(max(2, times(150)))]
    wanted = "".join(chr(0x4E00 + i % 20_000) for i in range(times(1_000_000)))
    post("compare: a long query", "/compare", {"query": wanted, "documents": many}, 200)
    documents = [f"a b c {i} " * 45 for i in range(times(2048))]
    post("2,048 documents", "/v1/rerank", {"query": "q", "documents": documents}, 200)
    post("2,049 documents", "/v1/rerank", {"query": "q", "documents": ["a"] * 2049}, 400)

    # Bodies that become large.
    for path, name in (("/rerank", "texts"), ("/score", "documents"), ("/compare", "documents")):
        post(f"numbers for {name} of {path}", path, {"query": "q", name: [0] * times(4_000_000)}, 400, 422)
    fields: dict[str, object] = {"query": "q", "documents": [{"text": "a"}] * 1000}
    post("rank_fields", "/v1/rerank", fields | {"rank_fields": ["text"] * times(1_000_000)}, 400)
    post("numbers for rank_fields", "/v1/rerank", fields | {"rank_fields": [0] * times(1_000_000)}, 400)
    pair: dict[str, object] = {"query": "q", "texts": ["a"]}
    empty = b'{"query":"q","texts":["a"],"x":[%b]}'
    post("many lists", "/rerank", empty % b",".join([b"[]"] * times(5_000_000)), 200, 400, 422)
    post("nested lists", "/rerank", empty % (b"[" * 100_000 + b"]" * 100_000), 400, 422)
    post("many numbers", "/rerank", pair | {"x": [1.5] * times(2_000_000)}, 200)
    post("a long model name", "/v1/rerank", {"model": "\U000e0001" * times(3_900_000)} | fields, 400, 404)
    post("a long field name", "/rerank", pair | {"y" * times(15_000_000): 1}, 200, 400, 422)
    post("NaN", "/rerank", b'{"query":"q","texts":["a"],"x":NaN}', 400, 422)
    post("not UTF-8", "/rerank", b'{"query":"\xff","texts":["a"]}', 400, 422)

    # Heads and bodies that do not end, or come slowly, or say two things.
    line, large = b"POST /rerank HTTP/1.1\r\nhost: localhost\r\n", b"x" * 65536
    pieces = times(400)  # of 64 KiB
    add("headers without end", lambda: [line, *[b"a:\r\n" * 16_384] * pieces], 431, CLOSED)
    add("a header without end", lambda: [line + b"a: ", *[large] * pieces], 431, CLOSED)
    add("a path without end", lambda: [b"GET /", *[large] * pieces], 414, CLOSED)
    chunked = line + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    trailers = chunked + b"2\r\n{}\r\n0\r\n"
    add("trailers without end", lambda: [trailers, *[b"a:\r\n" * 16_384] * pieces], 431, CLOSED, 422)
    chunk = b"10000\r\n" + large + b"\r\n"
    add("a body without end", lambda: [chunked, *[chunk] * times(1600)], 413, 408, CLOSED)
    grains = b"1\r\na\r\n" * 10_000
    add("a body in grains", lambda: [chunked, *[grains] * times(60), b"0\r\n\r\n"], 400, 413, 422, CLOSED)
    add("a large Content-Length", lambda: [line + b"content-length: 100000000\r\n\r\n"], 413)
    both = line + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    add("two lengths", lambda: [both], 400, CLOSED)
    add("TLS", lambda: [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512)], 400, CLOSED)
    add("a bare line end", lambda: [b"POST /rerank HTTP/1.1\rhost: a\r\r"], 400, CLOSED, end=End.WAIT)
    live = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    add("a pipeline", lambda: [live * 199 + live.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")], 200)
    slow = line + b"content-length: 100\r\n\r\n{"
    add("slow bodies", lambda: [slow], 408, CLOSED, *BUSY, end=End.WAIT, connections=times(500))
    add("slow heads", lambda: [b"POST /rerank HTT"], CLOSED, 503, end=End.WAIT, connections=times(200))
    long = " " * 14_000 + "a"  # quick to score
    echo = {"query": "q", "documents": [long] * 1000, "return_documents": True}
    echoed = http("/v1/rerank", json.dumps(echo).encode())
    add("answers unread", lambda: [echoed], 200, CLOSED, end=End.DEAF, connections=times(4))
    work = http("/v1/rerank", json.dumps({"query": "q", "documents": documents[: times(500)]}).encode())
    add("clients that leave", lambda: [work], CLOSED, end=End.LEAVE, connections=times(20))
    small = http("/v1/rerank", json.dumps({"query": "q", "documents": ["a b c", "d e f"]}).encode())
    add("many clients of one address", lambda: [small], 200, connections=times(200))
    add("many large requests of one address", lambda: [work], 200, connections=times(40))

    # Who asks, and what is written of it.
    plain = http("/rerank", json.dumps(pair).encode(), "origin: http://evil.example")
    add("a foreign page", lambda: [plain], 403)
    rebound = plain.replace(b"host: localhost", b"host: evil.example")
    add("a foreign page by another name", lambda: [rebound], 403, 400, 421)
    forged = 'x-client-name: a" status=500 request_id=x'
    post("a forged log line", "/rerank", pair, 200, headers=[forged, "x-request-id: a status=500"])
    post("an odd time-out", "/rerank", pair, 400, 422, headers=["x-request-timeout: nan"])
    post("a compressed body", "/rerank", pair, 400, 415, 422, headers=["content-encoding: gzip"])
    return found


async def attack(
    port: int, attack: Attack, patience: float = PATIENCE, deaf: float = DEAF_SECONDS
) -> Counter[int]:
    """Do it once; the statuses of its connections."""
    one = [_connection(port, attack, patience, deaf) for _ in range(attack.connections)]
    return Counter(await asyncio.gather(*one))


async def _connection(port: int, attack: Attack, patience: float, deaf: float) -> int:
    try:
        return await asyncio.wait_for(_talk(port, attack, deaf), patience)
    except asyncio.TimeoutError:
        return NO_ANSWER
    except OSError:
        return CLOSED


async def _talk(port: int, attack: Attack, deaf: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(BAD, 0))
    sending = asyncio.ensure_future(_send(writer, attack.sends()))
    try:
        if attack.end is End.LEAVE:
            await sending
            return CLOSED
        if attack.end is End.DEAF:
            await reader.read(100)
            await asyncio.sleep(deaf)
            while await reader.read(1 << 16):
                pass
            return CLOSED
        head = await reader.read(100)  # the answer may come before everything is sent
        if not head.startswith(b"HTTP/1.1 413"):  # the server waits a while for what it does not read
            while await reader.read(1 << 16):
                pass
        return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else CLOSED
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await sending
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, pieces: Iterable[bytes]) -> None:
    with contextlib.suppress(OSError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()


def attackers(port: int, seconds: float) -> None:
    """The other process: what it met goes to standard output as JSON, by attack and status."""
    os.nice(5)
    met: dict[str, Counter[int]] = defaultdict(Counter)
    turns = itertools.cycle(attacks())
    end = time.monotonic() + seconds

    async def run() -> None:
        async def one() -> None:
            while time.monotonic() < end:
                turn = next(turns)
                met[turn.name] += await attack(port, turn, min(PATIENCE, max(1.0, end - time.monotonic())))

        await asyncio.gather(*[one() for _ in range(ATTACKERS)])

    asyncio.run(run())
    print(json.dumps(met))


# --- the good clients ---


@dataclass(frozen=True)
class Good:
    """A request of a good client, and the status that it must get."""

    name: str
    data: bytes
    status: int = 200


def good() -> list[Good]:
    """One of each kind."""
    query = "中国的首都是哪里？"
    texts = ["上海是中国最大的城市。", "北京是中国的政治中心。", "Beijing is the capital of China.", "Paris"]
    report = "Cats sleep most of the day. Dogs do not. Beijing is the capital of China. Rain fell."
    kinds: list[tuple[str, str, object, int]] = [
        ("rerank", "/v1/rerank", {"query": query, "documents": texts}, 200),
        (
            "rerank, 50 documents",
            "/rerank",
            {"query": query, "texts": [f"{i}: {report}" for i in range(50)]},
            200,
        ),
        ("score", "/score", {"text_1": query, "text_2": texts}, 200),
        ("explain", "/explain", {"query": query, "document": report}, 200),
        ("compare", "/compare", {"query": query, "documents": texts}, 200),
        ("a bad request", "/v1/rerank", {"query": query, "documents": []}, 400),
    ]
    found = [Good("live", b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")]
    for name, path, body, status in kinds:
        data = json.dumps(body, ensure_ascii=False).encode()
        request = http(path, data).replace(b"connection: close\r\n", b"", 1)
        found.append(Good(name, request, status))
    return found


@dataclass(frozen=True)
class Row:
    """What a good request met.

    Attributes:
        kind: its name.
        seconds: until its answer.
        status: of the answer; ``CLOSED`` where none came.
        order: the places of the documents in the answer, best first.
        message: of an error.
    """

    kind: str
    seconds: float
    status: int
    order: tuple[int, ...] = ()
    message: str = ""


_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_INDEX = re.compile(rb'"index":(\d+)')


class Client:
    """A good client: it keeps its connection, and opens another where an idle one was closed."""

    def __init__(self, port: int, address: str) -> None:
        self._port = port
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, good: Good) -> Row:
        begun = time.perf_counter()
        status, body = CLOSED, b""
        for _ in range(2):
            kept = self._streams is not None
            try:
                status, body = await asyncio.wait_for(self._ask(good.data), PATIENCE)
                break
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                self.close()
                body = repr(error).encode()
                if not kept or isinstance(error, asyncio.TimeoutError):
                    break
        message = "" if status == good.status else body[:200].decode(errors="replace")
        order = tuple(int(place) for place in _INDEX.findall(body))
        return Row(good.name, time.perf_counter() - begun, status, order, message)

    async def _ask(self, data: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, local_addr=(self._address, 0)
            )
        reader, writer = self._streams
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None


async def ask_for(port: int, seconds: float, pause: float = 0.2, at_least: int = 0) -> list[Row]:
    """Every kind of good request from every address, one after the other, for so long or so often."""
    rows: list[Row] = []
    end = time.monotonic() + seconds

    async def one(client: Client, kind: Good) -> None:
        turn = 0
        while time.monotonic() < end or turn < at_least:
            turn += 1
            rows.append(await client.ask(kind))
            await asyncio.sleep(pause)
        client.close()

    await asyncio.gather(*[one(Client(port, address), kind) for address in GOOD for kind in good()])
    return rows


async def fill(port: int) -> None:
    """Have the server use as much memory as it keeps on purpose: an engine's grows to the longest pairs."""
    body = {"query": "q", "texts": [f"{place} " + "a b c " * 400 for place in range(30)]}
    long = Good("long documents", http("/rerank", json.dumps(body).encode()))
    rows = await asyncio.gather(*[Client(port, address).ask(long) for address in GOOD])
    wrong = next((row for row in rows if row.status != long.status), None)
    if wrong is not None:
        raise SystemExit(f"{wrong.kind}: {wrong.status} {wrong.message}")


# --- what is said of it ---


def by_kind(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.kind].append(row)
    return found


def judge(
    quiet: Sequence[Row],
    rows: Sequence[Row],
    memory: tuple[float, float],
    met: dict[str, dict[int, int]],
) -> list[str]:
    """What is broken, a line each; nothing: it holds.

    Args:
        quiet: what good requests met alone.
        rows: and beside the attacks.
        memory: of the server in MB, before and after.
        met: for each attack, how often it met which status.
    """
    right = {request.name: request.status for request in good()}
    alone, beside = by_kind(quiet), by_kind(rows)
    broken: list[str] = []
    for kind, found in alone.items():
        wrong = [row for row in found if row.status != right[kind]]
        if wrong:
            broken.append(f"{kind}: {_status(wrong[0].status)} without any attack: {wrong[0].message}")
    for kind in right:
        found = beside.get(kind, [])
        if not found or not alone.get(kind):
            broken.append(f"{kind}: no request was made")
            continue
        wrong = [row for row in found if row.status != right[kind]]
        if wrong:
            first = f"{_status(wrong[0].status)} {wrong[0].message}".strip()
            broken.append(f"{kind}: {len(wrong)} of {len(found)} were not answered as they should: {first}")
        order = alone[kind][0].order
        other = [row for row in found if row.status == right[kind] and row.order != order]
        if other:
            broken.append(f"{kind}: {len(other)} of {len(found)} have another order than without attacks")
        usual, most = (max(row.seconds for row in each) for each in (alone[kind], found))
        if most > SLOWER * usual:
            slow = sum(row.seconds > SLOWER * usual for row in found)
            broken.append(
                f"{kind}: {slow} of {len(found)} took more than {SLOWER:g} times {1000 * usual:.0f} ms, "
                f"the slowest {1000 * most:.0f} ms"
            )
    before, after = memory
    if after > (1 + GROWTH) * before:
        broken.append(f"memory: {before:.0f} MB before the attacks, {after:.0f} MB after them")
    broken += [f"the attack {name!r} was answered with 500" for name, found in met.items() if 500 in found]
    return broken


def _status(status: int) -> str:
    return {CLOSED: "no answer,", NO_ANSWER: "no answer in time,"}.get(status, str(status))


def table(quiet: Sequence[Row], rows: Sequence[Row], met: dict[str, dict[int, int]]) -> Iterator[str]:
    """Lines for people."""
    alone, beside = by_kind(quiet), by_kind(rows)
    yield f"{'good request':24}{'number':>8}{'quiet p50':>12}{'quiet max':>12}{'p50':>10}{'max':>10}  (ms)"
    for kind, found in beside.items():
        usual, now = (sorted(1000 * row.seconds for row in each) for each in (alone.get(kind, found), found))
        times = (usual[len(usual) // 2], usual[-1], now[len(now) // 2], now[-1])
        yield f"{kind:24}{len(found):8}{times[0]:12.1f}{times[1]:12.1f}{times[2]:10.1f}{times[3]:10.1f}"
    yield ""
    yield f"{'attack':40}answers (0: connection closed, -1: none when the time was over)"
    for name, counts in met.items():
        yield f"{name:40}" + ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()))


def settled_mb(server: Server) -> float:
    """The server's memory, once it has been idle for so long that it returned what it does not need."""
    for _ in range(12):
        used = server.cpu_seconds()
        time.sleep(SETTLE_SECONDS)
        if server.cpu_seconds() - used < IDLE_SECONDS:
            break
    return min(server.memory_mb() for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", default="crossrank-mini")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    if arguments.attack is not None:
        attackers(arguments.attack, seconds)
        return
    quiet_seconds = max(5.0, seconds / 10)
    with serving(arguments.model) as server:
        asyncio.run(fill(server.port))
        asyncio.run(ask_for(server.port, 3.0))  # warm
        print(f"{quiet_seconds:g} s without attacks", flush=True)
        quiet = asyncio.run(ask_for(server.port, quiet_seconds))
        before = settled_mb(server)
        print(f"{seconds:g} s of attacks", flush=True)
        command = [
            sys.executable,
            "-m",
            "benchmarks.attack",
            "--attack",
            str(server.port),
            "--minutes",
            str(arguments.minutes),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            rows = asyncio.run(ask_for(server.port, seconds))
            output, _ = other.communicate()
        if other.returncode:
            raise SystemExit("the attackers' process failed")
        after = settled_mb(server)
    met = {name: {int(k): n for k, n in counts.items()} for name, counts in json.loads(output).items()}
    print("\n".join(table(quiet, rows, met)))
    print(f"\nmemory: {before:.0f} MB before, {after:.0f} MB after")
    broken = judge(quiet, rows, (before, after), met)
    if not met:
        broken.append("no attack was made: the machine is too busy, or --minutes too short")
    for line in broken:
        print(f"BROKEN {line}")
    if broken:
        raise SystemExit(1)
    print(f"it holds: {len(rows)} good requests")


if __name__ == "__main__":
    main()
