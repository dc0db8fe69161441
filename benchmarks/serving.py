"""What the service costs and how it behaves: throughput, overhead, fairness, and far too many requests.

    python -m benchmarks.serving                       # everything; 8 minutes
    python -m benchmarks.serving --parts throughput,overhead,fairness
    python -m benchmarks.serving --write               # the table goes into docs/serving*.md

It exits 1 where a promise of benchmarks/limits.py is broken.

``crossrank serve`` runs as a process of its own with its defaults; the library in another. This process
sends: bytes made beforehand, over connections that stay open, niced, and it tells which share of the
machine it took itself. The texts are those that ``crossrank verify`` brings, in eight languages.

throughput   the same requests through ``Reranker.rank_many`` and through the server, in turn
overhead     10 short documents, in turn by ``Reranker.rank`` and over HTTP, one request at a time
fairness     requests of 5 documents, alone and while two connections send requests of 1,000 all the time
overload     as many requests as three servers could answer, at random times over 256 connections
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

import uvloop

from benchmarks import limits
from benchmarks.contest.machine import processor
from benchmarks.limits import Verdict
from benchmarks.pages import between
from crossrank import Reranker
from crossrank.engines.native import default_threads, instruction_set

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("throughput", "overhead", "fairness", "overload")
Ranked = tuple[str, list[str]]


def texts() -> list[Ranked]:
    """Queries and documents of real texts."""
    source = files("crossrank.evaluation").joinpath("verify.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in source.splitlines()]
    return [(row["query"], row["documents"]) for row in rows]


def requests_of(sizes: Sequence[int], seed: int = 0, longest: int | None = None) -> list[Ranked]:
    """Requests with so many documents each; ``longest``: only documents of no more characters."""
    dice = random.Random(seed)
    groups = texts()
    documents = [d for _, group in groups for d in group if longest is None or len(d) <= longest]
    return [(dice.choice(groups)[0], dice.choices(documents, k=size)) for size in sizes]


# --- the server and the library, each a process of its own ---


class Server:
    """A running server, and what it takes of the machine."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.pid = process.pid
        self.port = port

    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(model: str, *options: str) -> Iterator[Server]:
    """A server that is ready."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        command = [sys.executable, "-m", "crossrank", "serve", "--model", model, "--port", "0", *options]
        process = subprocess.Popen(command, stderr=log)
        try:
            for what in (rb"listening on http://127\.0\.0\.1:(\d+)", rb" is ready: "):
                while not (found := re.search(what, Path(log.name).read_bytes())):
                    if process.poll() is not None:
                        raise SystemExit(Path(log.name).read_text())
                    time.sleep(0.05)
                if found.groups():
                    port = int(found[1])
            yield Server(process, port)
        finally:
            process.terminate()
            process.wait()


class Library:
    """``Reranker`` in a process of its own, so that neither side's memory or threads are the other's."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "benchmarks.serving", "--library", "--model", model]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.precision, self.threads = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def times(self, requests: list[Ranked], *, together: bool) -> list[float]:
        """Seconds of each request by ``rank``; of all of them by ``rank_many``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([together, requests]) + "\n")
        self._process.stdin.flush()
        times: list[float] = self._read()
        return times

    def close(self) -> None:
        self._process.communicate("")


def library(model: str) -> None:
    """The other side of ``Library``."""
    reranker = Reranker(model)
    print(json.dumps([reranker.engine.precision, default_threads()]), flush=True)
    for line in sys.stdin:
        together, requests = json.loads(line)
        times = []
        for many in [requests] if together else [[request] for request in requests]:
            begun = time.perf_counter()
            done = list(reranker.rank_many(many)) if together else [reranker.rank(*many[0])]
            times.append(time.perf_counter() - begun)
            assert len(done) == len(many)
        print(json.dumps(times), flush=True)


# --- sending ---


@dataclass(frozen=True)
class Request:
    """What goes over a connection, and how many results come back."""

    data: bytes
    documents: int


def wire(requests: Sequence[Ranked]) -> list[Request]:
    made = []
    for query, documents in requests:
        body = json.dumps({"query": query, "documents": documents}, ensure_ascii=False).encode()
        head = f"POST /v1/rerank HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        made.append(Request(head.encode() + body, len(documents)))
    return made


_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One request at a time over a connection that stays."""

    def __init__(self) -> None:
        self.body = b""  # of the last answer
        self._buffer = b""
        self._need = 0
        self._waits: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waits is not None and not self._waits.done():
            self._waits.set_exception(exc or ConnectionResetError("closed"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._need:
            end = self._buffer.find(b"\r\n\r\n")
            found = _LENGTH.search(self._buffer, 0, end) if end > 0 else None
            if found is None:
                return
            self._need = end + 4 + int(found[1])
        if len(self._buffer) >= self._need and self._waits is not None:
            answer, self._buffer, self._need = self._buffer[: self._need], b"", 0
            self._waits.set_result(answer)

    async def send(self, request: Request) -> int:
        """The status of the answer, which has every result if it is 200.

        Raises:
            OSError: the connection broke.
            ValueError: the answer is not whole.
        """
        if self._transport is None:
            raise ConnectionResetError("closed")
        self._waits = asyncio.get_running_loop().create_future()
        self._transport.write(request.data)
        answer = await self._waits
        status = int(answer[9:12])
        self.body = answer[answer.index(b"\r\n\r\n") + 4 :]
        if status == 200 and answer.count(b'"relevance_score"') != request.documents:
            raise ValueError("an answer without all of its results")
        return status

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(server: Server) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", server.port)
    return connection


async def timed(connection: Connection, requests: Sequence[Request], pause: float = 0.0) -> list[float]:
    """Seconds of each request, one after the other."""
    times = []
    for request in requests:
        begun = time.perf_counter()
        status = await connection.send(request)
        times.append(time.perf_counter() - begun)
        if status != 200:
            raise SystemExit(f"a request was answered {status}: {connection.body.decode()}")
        if pause:
            await asyncio.sleep(pause)
    return times


async def saturate(server: Server, requests: Sequence[Request], connections: int) -> float:
    """Seconds for all requests over so many connections, each sending its next as soon as it may."""
    left = deque(requests)

    async def work(connection: Connection) -> None:
        while left:
            await timed(connection, [left.popleft()])

    opened = [await connect(server) for _ in range(connections)]
    begun = time.perf_counter()
    await asyncio.gather(*[work(connection) for connection in opened])
    seconds = time.perf_counter() - begun
    for connection in opened:
        connection.close()
    return seconds


T = TypeVar("T")
# A thread's niceness is its own, and what it starts has it: servers are started by another.
_SENDER = ThreadPoolExecutor(1, "sender", initializer=lambda: os.nice(5) and None)


def send(work: Coroutine[Any, Any, T]) -> T:
    """Run what sends, in a thread that waits for the server where both want a core."""
    return _SENDER.submit(uvloop.run, work).result()


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --- the parts ---


@dataclass
class Throughput:
    """Pairs per second of the library and the server, one figure for each round."""

    documents: int
    connections: int
    library: list[float]
    server: list[float]
    share: float
    sender_cpu: float


def throughput(model: str, seconds: float, rounds: int) -> Throughput:
    asked = Library(model)
    sizes = [50] * 40
    rate = 2000 / asked.times(requests_of(sizes), together=True)[0]
    requests = requests_of([50] * max(20, int(rate * seconds / 50)), seed=1)
    pairs = 50 * len(requests)
    found = Throughput(50, 8, [], [], 0.0, 0.0)
    sent = wire(requests)
    with serving(model) as server:
        send(saturate(server, sent[:40], 8))
        for _ in range(rounds):
            found.library.append(pairs / asked.times(requests, together=True)[0])
            before = time.process_time()
            took = send(saturate(server, sent, found.connections))
            found.sender_cpu = (time.process_time() - before) / took
            found.server.append(pairs / took)
    asked.close()
    found.share = statistics.median(found.server) / statistics.median(found.library)
    return found


@dataclass
class Overhead:
    """Milliseconds of a request of 10 short documents."""

    library_p50: float
    server_p50: float
    server_p99: float
    more: float


def overhead(model: str, count: int) -> Overhead:
    asked = Library(model)
    requests = requests_of([10] * count, seed=2, longest=60)
    sent = wire(requests)
    here: list[float] = []
    there: list[float] = []
    with serving(model) as server:
        for first in range(-20, count, 20):  # the first slice warms up
            if first < 0:
                asked.times(requests[:20], together=False)
            else:
                here += asked.times(requests[first : first + 20], together=False)

            async def some(part: Sequence[Request]) -> list[float]:
                connection = await connect(server)
                times = await timed(connection, part)
                connection.close()
                return times

            times = send(some(sent[max(0, first) : max(0, first) + 20]))
            if first >= 0:
                there += times
    asked.close()
    p50 = [1000 * statistics.median(each) for each in (here, there)]
    return Overhead(p50[0], p50[1], 1000 * percentile(there, 0.99), p50[1] - p50[0])


@dataclass
class Fairness:
    """Milliseconds of a request of 5 documents, and seconds of one of 1,000 beside it."""

    idle_p50: float
    idle_p95: float
    busy_p50: float
    busy_p95: float
    ratio: float
    requests: int
    large: int
    large_p50_s: float


def fairness(model: str, seconds: float) -> Fairness:
    small = wire(requests_of([5] * 200, seed=3))
    large = wire(requests_of([1000] * 4, seed=4))
    pause = 0.02

    async def run(server: Server) -> Fairness:
        connection = await connect(server)
        await timed(connection, small[:20])
        idle = await timed(connection, small, pause)
        took: list[float] = []
        over = False

        async def press(other: Connection, offset: int) -> None:
            turn = offset
            while not over:
                took.extend(await timed(other, [large[turn % len(large)]]))
                turn += 1

        others = [await connect(server) for _ in range(2)]
        pressing = [asyncio.ensure_future(press(other, i)) for i, other in enumerate(others)]
        await asyncio.sleep(0.5)
        end = time.monotonic() + seconds
        busy: list[float] = []
        while time.monotonic() < end:
            busy += await timed(connection, small[:20], pause)
        over = True
        await asyncio.gather(*pressing)
        for each in (connection, *others):
            each.close()
        idle, busy = ([1000 * value for value in values] for values in (idle, busy))
        return Fairness(
            statistics.median(idle),
            percentile(idle, 0.95),
            statistics.median(busy),
            percentile(busy, 0.95),
            percentile(busy, 0.95) / statistics.median(idle),
            len(busy),
            len(took),
            statistics.median(took),
        )

    with serving(model) as server:
        return send(run(server))


@dataclass
class Overload:
    """Far too many requests.

    ``offered`` and ``answered_rate`` are documents per second, ``capacity`` that of a saturated server;
    ``memory_mb`` the medians of the second and of the last fifth of the time, and the most. A request is
    refused (429) when it comes, or late (504): its time was over while it waited.
    """

    seconds: float
    connections: int
    timeout: float
    capacity: float
    offered: float
    answered_rate: float
    statuses: dict[str, int]
    lost: int = 0
    hung: int = 0
    held_back: int = 0
    accepted_p50_s: float = 0.0
    accepted_p99_s: float = 0.0
    late_p50_s: float = 0.0
    late_p99_s: float = 0.0
    refused_p50_ms: float = 0.0
    refused_p99_ms: float = 0.0
    memory_mb: list[float] = field(default_factory=list)
    growth: float = 0.0
    sender_cpu: float = 0.0
    server_cpu: float = 0.0
    after: str = ""


def overload(model: str, seconds: float, connections: int, times: float, timeout: float) -> Overload:
    dice = random.Random(5)
    sizes = [dice.choice([5, 10, 20, 50, 100]) for _ in range(300)]
    sent = wire(requests_of(sizes, seed=6))
    mean = statistics.mean(sizes)

    async def run(server: Server) -> Overload:
        await saturate(server, sent[:60], 4)
        took = await saturate(server, sent, 4)
        capacity = sum(sizes) / took
        rate = times * capacity / mean
        found = Overload(seconds, connections, timeout, capacity, 0.0, 0.0, {})
        statuses: Counter[int] = Counter()
        accepted: list[float] = []
        refused: list[float] = []
        late: list[float] = []
        memory: list[float] = []
        answered = offered = 0
        free = deque([await connect(server) for _ in range(connections)])
        working: set[asyncio.Task[None]] = set()
        begun_at, cpu, server_cpu = time.monotonic(), time.process_time(), server.cpu_seconds()

        async def one(connection: Connection, request: Request) -> None:
            nonlocal answered
            begun = time.monotonic()
            try:
                status = await connection.send(request)
            except (OSError, ValueError) as error:
                found.lost += 1
                print(f"lost: {error!r}", file=sys.stderr)
                connection = await connect(server)
            else:
                statuses[status] += 1
                into = {200: accepted, 504: late}.get(status, refused)
                into.append(time.monotonic() - begun)
                answered += request.documents if status == 200 else 0
            free.append(connection)

        async def watch() -> None:
            while True:
                memory.append(server.memory_mb())
                await asyncio.sleep(min(1.0, seconds / 50))

        watching = asyncio.ensure_future(watch())
        due = begun_at
        waiting = 0  # that should have been sent, and found no connection free
        while (now := time.monotonic()) < begun_at + seconds:
            while due <= now:
                waiting += 1
                due += dice.expovariate(rate)
            while waiting and free:
                waiting -= 1
                request = dice.choice(sent)
                offered += request.documents
                task = asyncio.ensure_future(one(free.popleft(), request))
                working.add(task)
                task.add_done_callback(working.discard)
            await asyncio.sleep(0.002)
        watching.cancel()
        elapsed = time.monotonic() - begun_at
        found.held_back = waiting
        found.sender_cpu = (time.process_time() - cpu) / elapsed
        found.server_cpu = (server.cpu_seconds() - server_cpu) / elapsed
        found.answered_rate = answered / elapsed
        found.offered = offered / elapsed
        if working:
            _, hung = await asyncio.wait(working, timeout=timeout + 10)
            found.hung = len(hung)
        found.statuses = {str(status): count for status, count in sorted(statuses.items())}
        fifth = max(1, len(memory) // 5)
        ends = [statistics.median(memory[fifth : 2 * fifth]), statistics.median(memory[-fifth:])]
        found.memory_mb = [*ends, max(memory)]
        found.growth = ends[1] / ends[0] - 1
        found.accepted_p50_s, found.accepted_p99_s = (percentile(accepted, p) for p in (0.5, 0.99))
        if late:
            found.late_p50_s, found.late_p99_s = (percentile(late, p) for p in (0.5, 0.99))
        if refused:
            found.refused_p50_ms, found.refused_p99_ms = (1000 * percentile(refused, p) for p in (0.5, 0.99))
        last = await connect(server)
        found.after = str(await last.send(sent[0]))
        return found

    with serving(model, "--timeout", str(timeout)) as server:
        return send(run(server))


# --- what is told of it ---


@dataclass
class Figures:
    """All that was measured; a part that was left out is None.

    ``others_cpu``: for each part, cores that neither side nor this process used: 0 on a quiet machine.
    """

    cpu: str
    cores: int
    model: str
    precision: str
    threads: int
    others_cpu: dict[str, float] = field(default_factory=dict)
    throughput: Throughput | None = None
    overhead: Overhead | None = None
    fairness: Fairness | None = None
    overload: Overload | None = None


def busy_seconds() -> tuple[float, float]:
    """Seconds of all cores since the machine started: in use, and in use by this and what it has started."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = (int(each) for each in ticks[:8])
    own = os.times()
    in_use = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return in_use, own.user + own.system + own.children_user + own.children_system


def table(figures: Figures) -> str:
    rows = [
        ("CPU", f"{figures.cpu}, {figures.cores} cores", ""),
        ("model", f"{figures.model}, {figures.precision}, {figures.threads} threads", ""),
    ]
    if (t := figures.throughput) is not None:
        here, there = (statistics.median(each) for each in (t.library, t.server))
        rows += [
            ("library, pairs/s", f"{here:.0f}", ""),
            (f"server, {t.connections} connections, pairs/s", f"{there:.0f}", ""),
            ("server / library", f"{100 * t.share:.1f} %", "≥ 95 %"),
        ]
    if (o := figures.overhead) is not None:
        rows += [
            ("10 short documents: library, p50", f"{o.library_p50:.2f} ms", ""),
            ("10 short documents: HTTP, p50 (p99)", f"{o.server_p50:.2f} ms ({o.server_p99:.2f})", ""),
            ("HTTP adds", f"{o.more:.2f} ms", "≤ 3 ms"),
        ]
    if (f := figures.fairness) is not None:
        rows += [
            ("5 documents, idle server: p50 (p95)", f"{f.idle_p50:.1f} ms ({f.idle_p95:.1f})", ""),
            ("5 documents beside 1,000s: p50 (p95)", f"{f.busy_p50:.1f} ms ({f.busy_p95:.1f})", ""),
            ("p95 beside / p50 idle", f"{f.ratio:.1f}", "≤ 3"),
        ]
    if (v := figures.overload) is not None:
        counts = ", ".join(f"{status}: {count:,}" for status, count in v.statuses.items())
        rows += [
            (
                f"overload, {v.connections} connections, {v.seconds:.0f} s: offered / capacity",
                f"{v.offered:.0f} / {v.capacity:.0f} documents/s = {v.offered / v.capacity:.1f}",
                "3",
            ),
            ("answers by status", counts, "200, 429, 504 only"),
            ("lost, hung", f"{v.lost}, {v.hung}", "0, 0"),
            ("answered with scores / capacity", f"{100 * v.answered_rate / v.capacity:.0f} %", ""),
            (
                "accepted requests: p50, p99",
                f"{v.accepted_p50_s:.1f} s, {v.accepted_p99_s:.1f} s",
                f"p99 ≤ {v.timeout:g} s (--timeout)",
            ),
            (
                "refused when they came (429): p50, p99",
                f"{v.refused_p50_ms:.0f} ms, {v.refused_p99_ms:.0f} ms",
                "p99 ≤ 100 ms",
            ),
            (
                "their time was over while they waited (504): p50, p99",
                f"{v.late_p50_s:.1f} s, {v.late_p99_s:.1f} s",
                "",
            ),
            (
                "memory, second and last fifth",
                f"{v.memory_mb[0]:.0f} and {v.memory_mb[1]:.0f} MB ({100 * v.growth:+.1f} %)",
                "± 5 %",
            ),
            ("share of one core that the sender took", f"{100 * v.sender_cpu:.0f} %", ""),
        ]
    others = ", ".join(f"{part} {100 * share:.0f} %" for part, share in figures.others_cpu.items())
    rows.append(("share of one core that other processes took meanwhile", others, ""))
    lines = [f"| {what} | {figure} | {wanted} |" for what, figure, wanted in rows]
    return "\n".join(["| what | figure | promised |", "|---|---|---|", *lines])


def verdicts(figures: Figures) -> list[Verdict]:
    """The promises that these figures say something of."""
    row = limits.row()
    found = []
    if figures.throughput is not None:
        found.append(limits.THROUGHPUT.check(figures.throughput.share, row))
    if figures.fairness is not None:
        found.append(limits.FAIRNESS.check(figures.fairness.ratio, row))
    if figures.overload is not None and "429" in figures.overload.statuses:
        found.append(limits.REFUSAL.check(figures.overload.refused_p99_ms, row))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="crossrank-mini")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; empty: only show what --json has"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of a round of throughput, and of fairness"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of throughput")
    parser.add_argument("--calls", type=int, default=400, help="of overhead")
    parser.add_argument("--overload-seconds", type=float, default=300.0)
    parser.add_argument("--connections", type=int, default=256, help="of overload")
    parser.add_argument("--times", type=float, default=3.0, help="the capacity that overload offers")
    parser.add_argument("--timeout", type=float, default=10.0, help="the server's, for overload")
    parser.add_argument(
        "--json",
        type=Path,
        help="write all figures to this file, and take from it what is "
        "there already of parts that do not run now",
    )
    parser.add_argument("--write", action="store_true", help="write the table into docs/serving*.md")
    parser.add_argument("--library", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.library:
        library(arguments.model)
        return
    probe = Library(arguments.model)
    cpu = f"{processor()[0]} ({instruction_set()})"
    figures = Figures(cpu, os.cpu_count() or 1, arguments.model, probe.precision, probe.threads)
    probe.close()
    if arguments.json and arguments.json.exists():
        earlier = json.loads(arguments.json.read_text())
        figures.others_cpu = earlier["others_cpu"]
        for name, kind in zip(PARTS, (Throughput, Overhead, Fairness, Overload), strict=True):
            if earlier.get(name):
                setattr(figures, name, kind(**earlier[name]))
    a = arguments
    runs: dict[str, Callable[[], Any]] = {
        "throughput": lambda: throughput(a.model, a.seconds, a.rounds),
        "overhead": lambda: overhead(a.model, a.calls),
        "fairness": lambda: fairness(a.model, a.seconds),
        "overload": lambda: overload(a.model, a.overload_seconds, a.connections, a.times, a.timeout),
    }
    for part in filter(None, arguments.parts.split(",")):
        begun, before = time.monotonic(), busy_seconds()
        setattr(figures, part, runs[part]())
        in_use, own = (after - first for after, first in zip(busy_seconds(), before, strict=True))
        figures.others_cpu[part] = max(0.0, (in_use - own) / (time.monotonic() - begun))
    text = table(figures)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    if arguments.write:
        for path in sorted((ROOT / "docs").glob("serving*.md")):
            between(path, "measured", text)
    if limits.report(verdicts(figures)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
