"""Many clients at once: kept connections, closed and open loops, crowds, probes of health.

The client is cheap: raw connections, one parser each, no headers of its own. In an open loop
latency counts from the planned start, so a client that falls behind shows up as slow answers and
never hides them (coordinated omission).
"""

import asyncio
import http.client
import json
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import httptools
import uvloop

from benchmarks.load import percentile
from tests._wire import get

__all__ = [
    "PROBLEM", "Answer", "Connection", "Connections", "Crowd", "Probes", "Sample", "arrivals",
    "ask", "closed_loop", "gauges", "kinds", "open_loop", "percentile", "run", "settled",
]  # fmt: skip
PROBLEM = "application/problem+json"
T = TypeVar("T")


@dataclass
class Answer:
    """What came back; status 0 is a connection that broke before its answer was whole."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    length: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One connection, one request at a time on it."""

    transport: asyncio.Transport

    def __init__(self, *, keep_bytes: int = 1 << 30) -> None:
        self.reusable = True
        self._keep_bytes = keep_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._done: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, port: int, *, keep_bytes: int = 1 << 30) -> "Connection":
        """A new connection, which keeps so much of each answer's body."""
        loop = asyncio.get_running_loop()
        make = partial(cls, keep_bytes=keep_bytes)
        _, connection = await loop.create_connection(make, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> Answer:
        """The answer to these bytes."""
        self.expect()
        self.transport.write(request)
        return await self.answer()

    def expect(self) -> None:
        """Begin to wait for an answer, to what the caller writes by itself."""
        self._answer = Answer()
        self._done = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self._done.set_result(self._answer)

    async def answer(self) -> Answer:
        assert self._done is not None
        return await self._done

    def close(self) -> None:
        """End the connection; what is not sent yet is dropped."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        self.transport.close()

    def reset(self) -> None:
        """End the connection with RST."""
        self.transport.abort()

    # What asyncio and the parser call.
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._done is not None and not self._done.done():
            self._done.set_result(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode().lower()] = value.decode()

    def on_body(self, piece: bytes) -> None:
        self._answer.length += len(piece)
        self._answer.body += piece[: max(0, self._keep_bytes - len(self._answer.body))]

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self.reusable = self._parser.should_keep_alive()
        if self._done is not None and not self._done.done():
            self._done.set_result(self._answer)


async def ask(port: int, request: bytes) -> Answer:
    """One request on a connection of its own."""
    connection = await Connection.open(port)
    try:
        return await connection.ask(request)
    finally:
        connection.close()


class Connections:
    """As many connections as are needed at a time, kept for the next request."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, request: bytes) -> Answer:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                break
        else:
            connection = await Connection.open(self._port)
        answer = await connection.ask(request)
        if connection.reusable:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


@dataclass(frozen=True)
class Sample:
    """One request: its kind, when it should have started and when it ended, s, and its answer."""

    kind: str
    planned_s: float
    began_s: float
    ended_s: float
    answer: Answer

    @property
    def took_ms(self) -> float:
        return (self.ended_s - self.planned_s) * 1e3


def arrivals(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Starting times with exponential gaps, s, fixed before the first is sent."""
    chance, now, times = random.Random(seed), 0.0, list[float]()
    while (now := now + chance.expovariate(rate)) < seconds:
        times.append(now)
    return times


def kinds(mix: Mapping[str, int], number: int, seed: int = 0) -> list[str]:
    """`number` kinds of request, drawn in the mix's proportions."""
    return random.Random(seed).choices(list(mix), list(mix.values()), k=number)


async def open_loop(
    port: int, requests: Mapping[str, bytes], plan: Sequence[tuple[float, str]]
) -> list[Sample]:
    """Send each kind of request at its time; all samples, in the order of the plan."""
    connections, begin_s = Connections(port), time.perf_counter() + 0.05

    async def one(at_s: float, kind: str) -> Sample:
        began_s = time.perf_counter()
        try:
            answer = await connections.ask(requests[kind])
        except OSError:
            answer = Answer()
        return Sample(kind, begin_s + at_s, began_s, time.perf_counter(), answer)

    tasks: list[asyncio.Task[Sample]] = []
    for at_s, kind in plan:
        left_s = begin_s + at_s - time.perf_counter()
        if left_s > 0:
            await asyncio.sleep(left_s)
        tasks.append(asyncio.create_task(one(at_s, kind)))
    samples = [await task for task in tasks]
    connections.close()
    return samples


async def closed_loop(
    port: int, requests: Mapping[str, bytes], order: Sequence[str], clients: int
) -> list[Sample]:
    """Send the requests in order, as many at a time as there are clients."""
    connections, left = Connections(port), iter(order)
    samples: list[Sample] = []

    async def client() -> None:
        for kind in left:
            began_s = time.perf_counter()
            answer = await connections.ask(requests[kind])
            samples.append(Sample(kind, began_s, began_s, time.perf_counter(), answer))

    await asyncio.gather(*(client() for _ in range(clients)))
    connections.close()
    return samples


@dataclass
class Sent:
    """One request of a crowd: when it went out, and what came of it."""

    at: float
    outcome: str = "lost"
    asked_to_close: bool = False


@dataclass
class Crowd:
    """Clients that each send their next request once the last one is answered.

    Those of `keeping` keep their connections while they may.
    """

    port: int
    requests: list[bytes]
    keeping: int = 8
    fresh: int = 4
    sent: list[Sent] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    stopping: bool = False

    @property
    def answered(self) -> int:
        return sum(sent.outcome == "200" for sent in self.sent)

    async def run(self) -> None:
        """Send until `stopping`, or until the server takes no more connections."""
        clients = [self._client(True, n) for n in range(self.keeping)]
        clients += [self._client(False, n) for n in range(self.fresh)]
        await asyncio.gather(*clients)

    async def _client(self, keep: bool, turn: int) -> None:
        while not self.stopping:
            try:
                connection = await Connection.open(self.port)
            except OSError:
                self.refused_at.append(time.perf_counter())
                return
            again = True
            while again:
                turn += 1
                sent = Sent(time.perf_counter())
                self.sent.append(sent)
                answer = await connection.ask(self.requests[turn % len(self.requests)])
                if answer.status:
                    sent.outcome = str(answer.status)
                    sent.asked_to_close = answer.headers.get("connection") == "close"
                ended = sent.asked_to_close or sent.outcome == "lost"
                again = keep and not ended and not self.stopping
            connection.close()


class Probes(threading.Thread):
    """Asks /livez `number` times at fixed times; how long each answer took from its time, ms."""

    def __init__(self, port: int, number: int, rate_hz: float) -> None:
        super().__init__()
        self.took_ms: list[float] = []
        self.missed = 0
        self._port, self._number, self._rate_hz = port, number, rate_hz

    def run(self) -> None:
        begin_s = time.perf_counter()
        for number in range(self._number):
            at_s = begin_s + number / self._rate_hz
            time.sleep(max(0.0, at_s - time.perf_counter()))
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                connection.request("GET", "/livez")
                answer = connection.getresponse()
                answer.read()
                connection.close()
                self.missed += answer.status != 200
            except OSError:
                self.missed += 1
            self.took_ms.append((time.perf_counter() - at_s) * 1e3)


async def gauges(port: int) -> dict[str, float]:
    """What requests hold just now, as `/metrics` says."""
    text = (await ask(port, get("/metrics"))).body.decode()
    names = ("lamina_in_flight_requests", "lamina_queued_requests", "lamina_reserved_bytes")
    found = dict(re.findall(r"^(lamina_\w+) ([0-9.e+-]+)$", text, re.MULTILINE))
    return {name: float(found[name]) for name in names}


async def settled(port: int, seconds: float = 60) -> dict[str, float]:
    """The gauges once they are all 0, or what they still are after so long."""
    until = time.monotonic() + seconds
    while any((found := await gauges(port)).values()) and time.monotonic() < until:
        await asyncio.sleep(0.02)
    return found


def run(main: Callable[[], Awaitable[T]]) -> T:
    """The coroutine's result, on a fast event loop."""

    async def whole() -> Any:
        return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: T = runner.run(whole())
        return result
