"""The access log: one line per request, with client, route, status and the time of each phase.

A finished request only records a note; the lines are written in batches a few milliseconds later,
which takes half the time, and hardly any of it during requests.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from asgi_correlation_id import correlation_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from app.observability.clients import address_of
from app.observability.labels import PROBES, Labels, method, phases
from app.observability.logs import trace_id
from app.observability.tracing import SCOPE_KEY

CLIENT_LEFT = 499
"""The status logged, but never sent, for a client that disconnected before the response."""
FLUSH_S = 0.01


class Note(NamedTuple):
    """What is known about a finished request until its line is written."""

    scope: Scope
    start: Message | None
    """The `http.response.start` message, with status and headers."""
    broken: bool
    """Whether the app raised, before or after the response had started."""
    sent_bytes: int
    took_s: float
    ended_s: float
    """As a Unix timestamp."""
    request_id: str | None
    trace_id: str | None


class AccessLog:
    """Middleware that logs every request but probes; pending lines are written on shutdown."""

    def __init__(self, app: ASGIApp, labels: Labels, logger: FilteringBoundLogger) -> None:
        self._app = app
        self._labels = labels
        self._logger = logger
        self._noted: list[Note] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
        else:
            await self._watch(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write_first(message: Message) -> None:
            self._flush()
            await send(message)

        await self._app(scope, receive, write_first)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, start, sent, broken = time.perf_counter(), None, 0, True

        async def watch(message: Message) -> None:
            nonlocal start, sent
            if message["type"] == "http.response.start":
                start = message
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
            broken = False
        finally:
            took_s, request_id = time.perf_counter() - begun, correlation_id.get()
            trace = trace_id() if SCOPE_KEY in scope else None
            if not self._noted:
                asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
            self._noted.append(
                Note(scope, start, broken, sent, took_s, time.time(), request_id, trace)
            )

    def _flush(self) -> None:
        noted, self._noted = self._noted, []
        for note in noted:
            fields, status = self._fields(note)
            write = self._logger.error if status >= 500 else self._logger.info
            write("request", **fields)

    def _fields(self, note: Note) -> tuple[dict[str, Any], int]:
        scope, start = note.scope, note.start
        route, layer = self._labels.find(scope["path"])
        headers = dict(start.get("headers", ())) if start else {}
        status = 500 if note.broken else start["status"] if start else CLIENT_LEFT
        length = dict(scope["headers"]).get(b"content-length", b"")[:18]
        fields = {
            "time": datetime.fromtimestamp(note.ended_s, UTC),
            "request_id": note.request_id,
            "method": method(scope["method"]),
            "path": route,
            "layer": layer,
            "status": status,
            "duration_ms": round(note.took_s * 1e3, 3),
            **phases(headers.get(b"server-timing", b"")),
            "request_bytes": int(length) if length.isdigit() else None,
            "response_bytes": note.sent_bytes,
            "client": address_of(scope),
            "client_id": scope.get("state", {}).get("client_id"),
            "trace_id": note.trace_id,
        }
        return {key: value for key, value in fields.items() if value is not None}, status
