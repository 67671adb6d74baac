"""One serving process, and its graceful shutdown.

The exit code is 0 after a drain, even if slow requests had to be canceled; 1 if the process hung
and its watchdog ended it; 70 if the device failed; 128 plus the signal's number after a second
signal.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import socket
import time
from types import FrameType

import uvicorn

from app.observability.logs import STREAM
from app.server.config import ServingConfig
from app.server.process import leave
from app.server.protocol import CROWDED, Protocol
from app.server.sockets import accept_all, bound_unsent_bytes
from app.server.unread import Unread

logger = logging.getLogger("lamina")

CLOSE = (b"connection", b"close")
TICK_S = 0.05
SWEEP_S = 0.5
LOST_S = 1.0
"""How long requests may still be answered after the device has failed."""
DEVICE_LOST = 70


class Server(uvicorn.Server):
    """uvicorn's server, which drains on SIGTERM: see `shutdown`."""

    config: ServingConfig

    def __init__(self, config: ServingConfig) -> None:
        super().__init__(config)
        settings = config.settings
        self._delay_s = settings.drain_delay_ms / 1000
        self._grace_s = settings.drain_grace_ms / 1000
        self._max_connections = settings.max_connections
        shortest_ms = min(
            settings.header_timeout_ms, settings.body_idle_timeout_ms, settings.write_timeout_ms
        )
        self._sweep_s = max(0.02, min(SWEEP_S, shortest_ms / 4000))
        self._signalled_at = self._lost_at = 0.0
        self._cut_off = False
        self._unread = Unread()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # unless run under nohup
            # Workers ignore it: their parent handles it.
            alone = self.config.workers == 1
            signal.signal(signal.SIGHUP, self.handle_exit if alone else signal.SIG_IGN)
        super().run(sockets)
        leave()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Start the drain on the first signal, SIGHUP included, and exit at once on the second.

        SIGINT skips the drain delay.
        """
        if not self._signalled_at:
            self._signalled_at = time.perf_counter()
            self.should_exit = True
            # A watchdog in C, which works even if Python hangs.
            faulthandler.dump_traceback_later(max(self._grace_s, TICK_S), exit=True)
        elif self.config.workers == 1:  # the supervisor kills workers
            os._exit(128 + sig)
        if sig == signal.SIGINT:
            self._delay_s = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        keep_what_is_loaded()
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                bound_unsent_bytes(listener.fileno())
        if sockets and self.config.workers == 1:  # with several, the parent logs it
            self.config.tell_where(sockets[0])
        self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_s)
            STREAM.flush()
            now = time.perf_counter()
            crowded = len(self.server_state.connections) > CROWDED * self._max_connections
            for connection in self._open():
                try:
                    connection.check_deadlines(now, crowded)
                except Exception:
                    logger.exception("a connection's deadlines could not be checked")
            if cut := self._unread.check([c.transport for c in self._open()], now):
                logger.warning("disconnected %d clients that do not read: memory was short", cut)

    async def on_tick(self, counter: int) -> bool:
        ends = await super().on_tick(counter)
        if self._signalled_at and CLOSE not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        self._leave_lost_device()
        return ends

    def _leave_lost_device(self) -> None:
        """Exit if the accelerator has failed: only a new process can use it again."""
        readiness = self.lifespan.state.get("readiness")
        if readiness is None or not readiness.device_lost:
            return
        self._lost_at = self._lost_at or time.perf_counter()
        if time.perf_counter() > self._lost_at + LOST_S:
            logger.error("the device failed: shutting down this process")
            logging.shutdown()
            os._exit(DEVICE_LOST)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Keep serving for the drain delay, then stop accepting, and finish pending requests.

        Requests still running shortly before the grace period ends are canceled, and get a 503.
        """
        self._signalled_at = self._signalled_at or time.perf_counter()
        logger.info("draining: accepting requests for another %g s", self._delay_s)
        await self._serve_on()
        await self._stop_listening(sockets or [])
        await self._finish()
        if self._cut_off:
            leave()  # the app's own shutdown might wait for what was canceled
        self._sweeper.cancel()
        await self.lifespan.shutdown()

    async def _serve_on(self) -> None:
        """Serve until the delay is over, with `Connection: close` on every response."""
        if readiness := self.lifespan.state.get("readiness"):
            readiness.drain()
        ticks = 0
        await self.on_tick(ticks)
        for connection in self._open():
            connection.announce_end()
        while time.perf_counter() < self._signalled_at + min(self._delay_s, self._grace_s):
            await asyncio.sleep(2 * TICK_S)
            ticks += 1
            await self.on_tick(ticks)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Accept pending connections, which would otherwise be reset, and close the listeners."""
        waiting = []
        for server in self.servers:
            for listener in server.sockets:
                waiting += accept_all(listener.fileno())
            server.close()
        for own in sockets:
            own.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.BaseProtocol:
        state = self.lifespan.state
        return Protocol(self.config, self.server_state, state, asyncio.get_running_loop())

    async def _finish(self) -> None:
        margin_s = min(2.0, self._grace_s / 4)
        last = self._signalled_at + self._grace_s
        await asyncio.sleep(TICK_S)  # read what was just accepted
        await self._wait_until(last - margin_s)
        if self.server_state.tasks:
            logger.warning("canceling %d requests", len(self.server_state.tasks))
            self._cut_off = True
            for task in list(self.server_state.tasks):
                task.cancel()
        await self._wait_until(last - margin_s / 2)

    async def _wait_until(self, deadline: float) -> None:
        """Wait for requests and connections to finish."""
        state = self.server_state
        while (state.tasks or state.connections) and time.perf_counter() < deadline:
            for connection in self._open():
                connection.shutdown()
            await asyncio.sleep(TICK_S)

    def _open(self) -> list[Protocol]:
        return [c for c in self.server_state.connections if isinstance(c, Protocol)]


def keep_what_is_loaded() -> None:
    """Exempt everything loaded so far, mostly torch, from garbage collection: scanning it takes
    about 100 ms, during which no request is served.
    """
    gc.collect()
    gc.freeze()
