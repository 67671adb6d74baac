"""HTTP/1.1 on one connection: uvicorn's protocol with deadlines, limits and problem details.

There are no timers per request: `check_deadlines` is called periodically for every connection, and
checks the times recorded as bytes arrived.
"""

import asyncio
import time
from secrets import token_hex
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import (
    BodyTimeout,
    HeadersTooLarge,
    LaminaError,
    MalformedHttp,
    TooManyConnections,
)
from app.observability.clients import address_of
from app.server.config import ServingConfig
from app.server.heads import check_fields, check_size, without_upgrade
from app.server.refusals import Sparingly, answer
from app.server.sockets import is_reset, unread_bytes
from app.server.writing import Stall, Writer

LINGER_S = 2.0
LINGER_BYTES = 64 << 20
SPARE_CONNECTIONS = 256
"""Connections above the limit that may request health and metrics; any more are dropped."""
SPARE_HEADER_S = 1.0
SPARED = frozenset((b"/livez", b"/readyz", b"/metrics"))
"""Paths served even above the limit, so that a full process is not mistaken for a dead one."""
CROWDED = 0.75
"""The share of `max_connections` above which idle connections are closed after a second."""
CROWDED_IDLE_S = 1.0
NEWCOMER_S = 0.5
MAX_PIPELINED = 16
MAX_SMALL_CHUNKS = 1 << 16
SMALL_CHUNK_BYTES = 16
MAX_FRAMING_BYTES = 64 << 10
"""Limit on chunk sizes, extensions and trailers, on top of 16 times the bytes of the body."""
PROBE_S = 0.5
"""How long a request runs after a half-close before the client is probed."""
PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""Ignored by a client that still reads (RFC 9110, 15.2); one that has left answers with a reset."""

# The part of a request that the next byte belongs to.
HEAD, BODY, NEXT = range(3)


class Protocol(HttpToolsProtocol):
    """One connection."""

    config: ServingConfig
    warnings = Sparingly()

    def __init__(
        self,
        config: ServingConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        settings = config.settings
        self._max_head = settings.max_header_bytes
        self._max_fields = settings.max_header_fields
        self._max_connections = settings.max_connections
        self._header_s = settings.header_timeout_ms / 1000
        self._body_idle_s = settings.body_idle_timeout_ms / 1000
        self._stall = Stall(settings.write_timeout_ms / 1000)

        self._phase = HEAD
        self._heard_at = self._head_began = time.perf_counter()
        self._answered_at = self._linger_until = self._probe_at = 0.0
        self._piece = self._head_bytes = self._discarded = 0
        self._wire_bytes = self._body_bytes = self._chunks = 0
        self._upgrading = self._deaf = self._spare = self._half_closed = False
        self._running: RequestResponseCycle | None = None

    # Reading

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._writer = Writer(transport.write, self.linger, self._is_closing)
        open_now = len(self.connections)
        if open_now > self._max_connections + SPARE_CONNECTIONS:
            self._note(self._too_many(), "connection dropped: %d are open", open_now)
            transport.abort()
        elif open_now > self._max_connections:
            self._spare = True
            self._header_s = min(self._header_s, SPARE_HEADER_S)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._heard_at = time.perf_counter()
        self._piece = len(data)
        if self._deaf:
            self._discard()
            return
        if self._phase == BODY:
            self._wire_bytes += self._piece
        elif self._phase == HEAD:
            self._head_bytes += self._piece
        else:
            self._begin_head(self._piece)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._feed_without_upgrade(data[upgrade.args[0] :])
            if self._phase != NEXT:
                self._check_progress()
        except httptools.HttpParserError as error:
            cause = error.__context__
            known = cause if isinstance(cause, LaminaError) else None
            self.refuse(known or MalformedHttp("the request violates HTTP/1.1"))
        except LaminaError as error:
            self.refuse(error)

    def _feed_without_upgrade(self, rest: bytes) -> None:
        while True:
            data = self._without_upgrade() + rest
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            else:
                return

    def _without_upgrade(self) -> bytes:
        """Serialize the request's head without the protocol upgrade, and start a new parser for it.

        The old parser takes everything that follows, the body included, for the other protocol.
        """
        version, method = self.parser.get_http_version(), self.parser.get_method()
        self._upgrading = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return without_upgrade(method, self.url, version, self.headers)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["arrived"] = self._heard_at
        if self._phase == NEXT:  # pipelined behind another request in the same read
            self._begin_head(0)

    def _begin_head(self, size: int) -> None:
        self._phase, self._head_began, self._head_bytes = HEAD, self._heard_at, size

    def on_headers_complete(self) -> None:
        if self._spare and self.url.partition(b"?")[0] not in SPARED:
            raise self._too_many()
        self._check_head()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise MalformedHttp("CONNECT is not supported")
            self._upgrading = True
            return
        super().on_headers_complete()
        self._phase = BODY
        self._wire_bytes = self._body_bytes = self._chunks = 0
        self._answered_at = 0.0
        self.cycle.transport = self._writer  # type: ignore[assignment]
        self.cycle.keep_alive &= not self._spare
        self.headers = []  # keep trailers out of the scope

    def on_body(self, body: bytes) -> None:
        self._chunks += 1
        self._body_bytes += len(body)
        if self._chunks > MAX_SMALL_CHUNKS and self._body_bytes < self._chunks * SMALL_CHUNK_BYTES:
            raise MalformedHttp(f"expected chunks of at least {SMALL_CHUNK_BYTES} bytes on average")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrading:
            self._phase = NEXT
            super().on_message_complete()

    def _check_head(self) -> None:
        if self._head_bytes + self._piece > self._max_head:
            check_size(self.url, self.headers, self._max_head)
        check_fields(self.parser.get_http_version(), self.headers, self._max_fields)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedHttp(f"more than {MAX_PIPELINED} pipelined requests on one connection")

    def _check_progress(self) -> None:
        """Enforce the limits on a request that is still incomplete."""
        if self._phase == HEAD and self._head_bytes > self._max_head:
            raise HeadersTooLarge(f"expected at most {self._max_head} bytes; got more")
        if self._phase == BODY and self._wire_bytes > 16 * self._body_bytes + MAX_FRAMING_BYTES:
            raise MalformedHttp("the chunk framing is far larger than the body")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Stay open until every complete request is answered, since the client may still read.

        An HTTP/1.0 client is considered gone: that is how proxies signal an abort.
        """
        self._drop_incomplete()
        running = self._running
        if self._is_closing() or running is None or running.response_complete:
            return False
        if self._is_incomplete(running) or running.scope["http_version"] == "1.0":
            return False
        self._half_closed, self._phase = True, NEXT
        self._probe_at = time.perf_counter() + PROBE_S
        self._take_no_more()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()

    # Writing

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if self._half_closed:
            self._probe_at = time.perf_counter() + PROBE_S
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._linger_until:
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    def resume_writing(self) -> None:
        self._stall.end()
        super().resume_writing()

    def refuse(self, error: LaminaError) -> None:
        """Respond to an error that the app never sees, and close the connection.

        If earlier requests are still unanswered, they are answered, and this one is not.
        """
        if self._is_closing():
            return
        self._drop_incomplete()
        if self._running is not None and self._is_incomplete(self._running):
            self._running.disconnected = True
            self._running.message_event.set()
            self._end(error, silent=self._running.response_started)
        elif self._unanswered:
            self._take_no_more()
        else:
            self._end(error)

    def _drop_incomplete(self) -> None:
        if self.pipeline and self._is_incomplete(self.pipeline[0][0]):
            self.pipeline.popleft()  # the app would wait for the rest of its body

    def _is_incomplete(self, cycle: RequestResponseCycle) -> bool:
        return self._phase == BODY and self.cycle is cycle

    def _take_no_more(self) -> None:
        """Close after the last pending response, and ignore further input."""
        last = self.pipeline[0][0] if self.pipeline else self._running
        assert last is not None
        last.keep_alive = False
        self._deaf = True

    def _is_closing(self) -> bool:
        return bool(self._linger_until) or self.transport.is_closing()

    @property
    def _unanswered(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _end(self, error: LaminaError, silent: bool = False) -> None:
        told = {}
        if not silent:
            bodiless = self.parser is not None and self.parser.get_method() == b"HEAD"
            told["request_id"] = token_hex(16)
            headers = [*self.server_state.default_headers, *self._cross_origin()]
            self.transport.write(answer(error, told["request_id"], headers, not bodiless))
        self._note(error, "connection refused: %s", error.code, **told)
        self.linger()

    def _cross_origin(self) -> list[tuple[bytes, bytes]]:
        """CORS headers for the response, based on the request headers read so far."""
        headers_for = self.app_state.get("cross_origin")
        read = self.scope["headers"] if self.scope else ()
        return headers_for(read) if headers_for else []

    def _note(self, error: LaminaError, message: str, value: object, **fields: str) -> None:
        """Count and log a rejected request or connection."""
        if denied := self.app_state.get("denied"):
            denied(error.code)
        if self.client is not None:
            fields["client"] = address_of({"client": self.client})
        self.warnings.warn(message, value, **fields)

    def linger(self) -> None:
        """Close our side of the connection, and keep reading for a while.

        Closing a socket with unread bytes resets the connection, which may discard the response.
        """
        if self._is_closing():
            return
        if self._half_closed:
            self.transport.close()
            return
        self._deaf = True
        self._linger_until = time.perf_counter() + LINGER_S
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write_eof()

    def _discard(self) -> None:
        self._discarded += self._piece
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    # Deadlines

    def check_deadlines(self, now: float, crowded: bool) -> None:
        """Close the connection if a deadline has passed; `crowded` if few connections are left."""
        if self.transport.is_closing() or self.flow.write_paused:
            if self._stall.is_late(self.transport.get_write_buffer_size(), now):
                self.transport.abort()
        elif self._linger_until:
            if now > self._linger_until:
                self.transport.close()
        elif self._half_closed:
            self._check_half_closed(now)
        elif self._phase == HEAD:
            if now - self._head_began > self._header_s and not self.flow.read_paused:
                self._give_up()
        elif self._phase == BODY:
            self._check_body(now)
        elif not self._unanswered:
            # uvicorn's own timer is gone if the rest of a body arrived after the response.
            armed = self.timeout_keep_alive_task is not None
            idle_s = float("inf") if armed else self.timeout_keep_alive
            if now - self._heard_at > (CROWDED_IDLE_S if crowded else idle_s):
                self.transport.close()

    def _check_half_closed(self, now: float) -> None:
        if is_reset(self.transport.get_extra_info("socket").fileno()):
            self.transport.abort()
        elif now > self._probe_at and self._running and not self._running.response_started:
            self._probe_at = float("inf")
            self.transport.write(PROBE)

    def _check_body(self, now: float) -> None:
        if self.cycle.response_complete:
            self._answered_at = self._answered_at or now
            if now - self._answered_at > self._body_idle_s:
                self.linger()
        elif self.flow.read_paused:
            self._heard_at = now  # the pause is ours, not the client's
        elif now - self._heard_at > 2 * self._body_idle_s:
            # The app has its own, shorter deadline; this is for an app that does not read.
            self.refuse(BodyTimeout("the rest of the body did not arrive"))

    def _give_up(self) -> None:
        """Accept no more requests; those in progress are still answered."""
        if self._unanswered:
            self._take_no_more()
        elif self._spare:
            self.refuse(self._too_many())
        else:
            self.transport.close()

    def _too_many(self) -> TooManyConnections:
        return TooManyConnections(f"the limit of {self._max_connections} connections is reached")

    # Shutdown

    def announce_end(self) -> None:
        """Close the connection after the responses in progress."""
        if self._unanswered:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection as soon as no request is in progress or expected."""
        if self._is_closing():
            return
        if self._unanswered:
            self.cycle.keep_alive = False
        elif self._phase == BODY:
            self.linger()
        elif not self._expects_more():
            descriptor = self.transport.get_extra_info("socket").fileno()
            if not unread_bytes(descriptor):
                self.transport.close()

    def _expects_more(self) -> bool:
        """Whether a request has begun to arrive, or a new client has not sent anything yet."""
        age_s = time.perf_counter() - self._head_began
        return self._phase == HEAD and (self._head_bytes > 0 or age_s < NEWCOMER_S)
