"""Sends requests and measures: one connection, many in a closed loop, or at fixed times."""

import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
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

    def post(self, wire: bytes) -> memoryview:
        """The body of the answer; raises unless its status is 200."""
        self.socket.sendall(wire)
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


class Clients:
    """Connections that send without blocking, each one request at a time.

    A client that blocked while it sends could not read the answer that the server wants to be rid
    of before it reads on.
    """

    def __init__(self, port: int, wire: bytes, count: int) -> None:
        self.idle = [Connection(port) for _ in range(count)]
        self._busy: set[Connection] = set()
        self._wire = wire
        self._left: dict[Connection, memoryview] = {}
        self._selector = selectors.DefaultSelector()
        for connection in self.idle:
            connection.socket.setblocking(False)
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def send(self) -> Connection:
        """Start a request on an idle connection, and return that."""
        connection = self.idle.pop()
        self._busy.add(connection)
        self._go_on(connection, memoryview(self._wire))
        return connection

    def answered(self, wait_s: float) -> list[Connection]:
        """The connections whose answer has come, idle again; waits for news at most that long."""
        done = []
        for key, events in self._selector.select(wait_s):
            connection: Connection = key.data
            if connection not in self._busy:
                self._drop(connection)
                continue
            if events & selectors.EVENT_WRITE:
                self._go_on(connection, self._left[connection])
            if events & selectors.EVENT_READ and connection.receive() is not None:
                done.append(connection)
        self.idle += done
        self._busy.difference_update(done)
        return done

    def _drop(self, connection: Connection) -> None:
        """Give up an idle connection, which the server has closed."""
        self.idle.remove(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if not self.idle and not self._busy:
            raise ConnectionError("the server closed all connections")

    def _go_on(self, connection: Connection, left: memoryview) -> None:
        """Send what the kernel takes."""
        with suppress(BlockingIOError):
            left = left[connection.socket.send(left) :]
        if left:
            self._left[connection] = left
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
        elif self._left.pop(connection, None) is None:
            return
        else:
            events = selectors.EVENT_READ
        self._selector.modify(connection.socket, events, connection)


def one_client(port: int, wire: bytes, count: int, buffer: bytearray | None = None) -> float:
    """Seconds that `count` requests take, each sent when the one before is answered."""
    # A new connection each time: some servers close those that idle.
    connection = Connection(port, buffer)
    begun = time.perf_counter()
    for _ in range(count):
        connection.post(wire)
    took_s = time.perf_counter() - begun
    connection.socket.close()
    return took_s


def closed_loop(port: int, wire: bytes, clients: int, count: int) -> tuple[float, list[float]]:
    """Seconds that `count` requests take, of clients that each send when they were answered, and
    the latency of each, s.
    """
    latencies: list[float] = []
    with Clients(port, wire, clients) as all_of_them:
        begun, sent = time.perf_counter(), 0
        sent_at: dict[Connection, float] = {}
        while len(latencies) < count:
            while all_of_them.idle and sent < count:
                now = time.perf_counter()
                sent_at[all_of_them.send()] = now
                sent += 1
            done = all_of_them.answered(10)
            now = time.perf_counter()
            latencies += [now - sent_at[connection] for connection in done]
    return now - begun, latencies


def open_loop(port: int, wire: bytes, per_second: float, seconds: float) -> list[float]:
    """Latencies, s, from the moment at which each request was due, whether it could go or not."""
    latencies: list[float] = []
    with Clients(port, wire, 32) as clients:
        due_of: dict[Connection, float] = {}
        waiting: deque[float] = deque()
        begun, number, total = time.perf_counter(), 0, int(per_second * seconds)
        while len(latencies) < total and time.perf_counter() - begun < 3 * seconds:
            now = time.perf_counter()
            while number < total and begun + number / per_second <= now:
                waiting.append(begun + number / per_second)
                number += 1
            while waiting and clients.idle:
                due = waiting.popleft()
                due_of[clients.send()] = due
            pause = max(0.0, begun + number / per_second - time.perf_counter())
            for connection in clients.answered(min(pause, 0.01)):
                latencies.append(time.perf_counter() - due_of.pop(connection))
    return latencies
