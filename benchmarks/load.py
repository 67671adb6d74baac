"""Sends requests and measures: one connection, many in a closed loop, or at fixed times."""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; of none, 0."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """Where a request goes, and its bytes."""

    path: str
    body: bytes
    headers: str = "Content-Type: application/json\r\n"

    @property
    def wire(self) -> bytes:
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\n{self.headers}"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


class Connection:
    """A kept connection that does nothing but send bytes and read answers.

    With a `buffer` of the caller's no memory is taken while an answer comes in.
    """

    def __init__(self, port: int, buffer: bytearray | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20) if buffer is None else buffer
        self._got = 0

    def post(self, request: Request) -> memoryview:
        """The body of the answer; raises unless its status is 200."""
        self.socket.sendall(request.wire)
        while (answer := self.receive()) is None:
            pass
        return answer

    def receive(self) -> memoryview | None:
        """Read once; the answer's body where it is whole by that."""
        if self._got == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        count = self.socket.recv_into(memoryview(self._buffer)[self._got :])
        if not count:
            raise ConnectionError("the server closed the connection")
        self._got += count
        end = self._buffer.find(b"\r\n\r\n", 0, self._got)
        if end < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        body = self._body(head, end + 4)
        if body is None:
            return None
        if b" 200" not in head[:15]:
            raise RuntimeError(bytes(self._buffer[: min(self._got, 600)]).decode("l1"))
        self._got = 0
        return body

    def _body(self, head: bytes, start: int) -> memoryview | None:
        if b"transfer-encoding: chunked" in head:
            if not self._buffer.endswith(b"0\r\n\r\n", start, self._got):
                return None
            return memoryview(_unchunked(bytes(self._buffer[start : self._got])))
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if self._got < start + length:
            return None
        return memoryview(self._buffer)[start : start + length]


def _unchunked(data: bytes) -> bytes:
    parts = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        data = rest[length + 2 :] if length else b""
    return b"".join(parts)


def rate(connection: Connection, request: Request, count: int) -> float:
    """Requests a second over one connection, each sent when the one before is answered."""
    begun = time.perf_counter()
    for _ in range(count):
        connection.post(request)
    return count / (time.perf_counter() - begun)


def closed_loop(port: int, request: Request, connections: int, seconds: float) -> list[float]:
    """Latencies, s, of `connections` clients that each send when they were answered."""
    selector, wire = selectors.DefaultSelector(), request.wire
    sent: dict[Connection, float] = {}
    for _ in range(connections):
        connection = Connection(port)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        sent[connection] = time.perf_counter()
        connection.socket.sendall(wire)
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(0.1):
            connection = key.data
            if connection.receive() is not None:
                now = time.perf_counter()
                latencies.append(now - sent[connection])
                sent[connection] = now
                connection.socket.sendall(wire)
    for connection in sent:
        connection.socket.close()
    return latencies


def open_loop(port: int, request: Request, per_second: float, seconds: float) -> list[float]:
    """Latencies, s, from the moment at which each request was due, whether it could go or not."""
    selector, wire = selectors.DefaultSelector(), request.wire
    idle = [Connection(port) for _ in range(32)]
    for connection in idle:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    due_of: dict[Connection, float] = {}
    waiting: list[float] = []
    latencies: list[float] = []
    begun, number, total = time.perf_counter(), 0, int(per_second * seconds)
    while len(latencies) < total and time.perf_counter() - begun < 3 * seconds:
        now = time.perf_counter()
        while number < total and begun + number / per_second <= now:
            waiting.append(begun + number / per_second)
            number += 1
        while waiting and idle:
            connection = idle.pop()
            due_of[connection] = waiting.pop(0)
            connection.socket.sendall(wire)
        pause = max(0.0, begun + number / per_second - time.perf_counter())
        for key, _ in selector.select(min(pause, 0.01)):
            if key.data.receive() is not None:
                latencies.append(time.perf_counter() - due_of.pop(key.data))
                idle.append(key.data)
    for connection in (*idle, *due_of):
        connection.socket.close()
    return latencies
