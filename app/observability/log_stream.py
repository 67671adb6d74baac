"""Non-blocking log output to stderr: a slow reader never delays requests."""

import os
import select
import threading
import time
from collections import deque
from datetime import UTC, datetime

import orjson

MAX_KEPT_BYTES = 1 << 20
LAST_S = 1.0
"""How long the process waits for the reader when it exits."""


class LogStream:
    """Writes lines as long as that does not block, and buffers the rest.

    Lines that do not fit in the buffer are dropped, and a line of its own reports how many.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writable = select.poll()
        self._writable.register(descriptor, select.POLLOUT)
        self._kept: deque[bytes] = deque()
        self._kept_bytes = self._dropped = 0
        self._lock = threading.Lock()

    def write(self, text: str | bytes) -> None:
        """Write or buffer whole lines."""
        lines = text.encode() if isinstance(text, str) else text
        with self._lock:
            if self._kept_bytes + len(lines) > MAX_KEPT_BYTES:
                self._dropped += lines.count(b"\n")
            else:
                self._keep(lines)
            self._send()

    def flush(self) -> None:
        """Write buffered lines, as far as possible without blocking."""
        with self._lock:
            self._send()

    def drain(self) -> None:
        """Write buffered lines, waiting up to `LAST_S` for the reader."""
        with self._lock:
            self._send(time.monotonic() + LAST_S)

    def _keep(self, lines: bytes) -> None:
        self._kept.append(lines)
        self._kept_bytes += len(lines)

    def _send(self, until_s: float = 0.0) -> None:
        while self._kept and self._writable.poll(max(0.0, until_s - time.monotonic()) * 1e3):
            lines = self._kept.popleft()
            self._kept_bytes -= len(lines)
            # A writable pipe takes this much without blocking, and atomically among workers.
            try:
                sent = os.write(self._descriptor, lines[: select.PIPE_BUF])
            except OSError:  # the reader is gone for good
                continue
            if rest := lines[sent:]:
                self._kept.appendleft(rest)
                self._kept_bytes += len(rest)
            elif self._dropped and not self._kept:
                self._tell_dropped()

    def _tell_dropped(self) -> None:
        told = {
            "time": datetime.now(UTC),
            "level": "warning",
            "event": "lines of the log were dropped: nobody read it",
            "dropped": self._dropped,
        }
        self._dropped = 0
        self._keep(orjson.dumps(told, option=orjson.OPT_UTC_Z) + b"\n")
