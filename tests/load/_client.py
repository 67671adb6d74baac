"""A cheap HTTP/1.1 client: raw connections, one parser each, no headers of its own."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httptools

JSON = "application/json"
PROBLEM = "application/problem+json"


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


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a POST; with a Transfer-Encoding, the body is sent as it is."""
    lines = {"Host": "lamina.test", "Content-Type": JSON} | dict(headers or {})
    if "Transfer-Encoding" not in lines:
        lines.setdefault("Content-Length", str(len(body)))
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode() + body


def get(path: str) -> bytes:
    """The bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: lamina.test\r\n\r\n".encode()


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
