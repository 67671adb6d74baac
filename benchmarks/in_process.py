"""Lamina in this process: its ASGI app, called without a socket.

All of what a request passes is there (middleware, admission, metrics, the log, which is written to
nowhere), except uvicorn's protocol.
"""

import asyncio
import gc
import os
import time
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import uvloop

from app.observability import logs
from app.observability.log_stream import LogStream
from app.server.worker import build
from app.settings import load_settings
from benchmarks.load import Request

Message = MutableMapping[str, Any]


class Lamina:
    """The app, started; `answer` and `seconds` send it requests, one at a time."""

    def __init__(self) -> None:
        logs.STREAM = LogStream(os.open(os.devnull, os.O_WRONLY))
        self.app = build(load_settings())
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._state: dict[str, Any] = {}

    def __enter__(self) -> "Lamina":
        self._runner.run(self._start())
        gc.collect()
        gc.freeze()  # as each serving process does
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._stop())
        self._runner.close()

    def answer(self, request: Request) -> bytes:
        """The body of the answer; raises unless its status is 200."""
        return self._runner.run(self._answer(request))

    def seconds(self, request: Request, count: int) -> tuple[float, float]:
        """Time and processor time of one request, the means of `count`."""
        return self._runner.run(self._seconds(request, count))

    async def _start(self) -> None:
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        self._life = asyncio.create_task(self._live(scope))
        await self._events.put({"type": "lifespan.startup"})
        assert (await self._told.get())["type"] == "lifespan.startup.complete"

    async def _live(self, scope: Message) -> None:
        await self.app(scope, self._events.get, self._told.put)

    async def _stop(self) -> None:
        await self._events.put({"type": "lifespan.shutdown"})
        await self._life

    async def _answer(self, request: Request) -> bytes:
        sent = await self._call(request, _headers(request))
        if sent[0]["status"] != 200:
            raise RuntimeError(b"".join(message["body"] for message in sent[1:])[:600])
        return b"".join(message["body"] for message in sent[1:])

    async def _seconds(self, request: Request, count: int) -> tuple[float, float]:
        headers = _headers(request)
        for _ in range(2):
            await self._call(request, headers)
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            await self._call(request, headers)
            await asyncio.sleep(0)  # the event loop's own work, such as writing the log
        return (time.perf_counter() - begun) / count, (time.process_time() - cpu) / count

    async def _call(self, request: Request, headers: list[tuple[bytes, bytes]]) -> list[Message]:
        sent: list[Message] = []
        body: list[bytes] = [request.body]

        async def receive() -> Message:
            if not body:
                await asyncio.Event().wait()  # the client stays
            return {"type": "http.request", "body": body.pop(), "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": self._state.copy(),
        }
        await self.app(scope, receive, send)
        return sent


def _headers(request: Request) -> list[tuple[bytes, bytes]]:
    lines = [line.partition(": ") for line in request.headers.splitlines()]
    named = {"host": "localhost", **{name.lower(): value for name, _, value in lines}}
    named["content-length"] = str(len(request.body))
    return [(name.encode(), value.encode()) for name, value in named.items()]
