"""A limit on response bytes that clients have not read, across all connections.

A response that waits to be sent takes up memory until its client reads it, although the request's
reservation has been released by then.
"""

from collections.abc import Iterable
from typing import Protocol

MAX_UNREAD_BYTES = 64 << 20
STALLED_S = 1.0
"""A connection that made progress within this time is not aborted: its client reads, if slowly.
The time shrinks as the limit is exceeded: at twice the limit, it is half as long.
"""


class Transport(Protocol):
    """The part of `asyncio.WriteTransport` that is used here."""

    def get_write_buffer_size(self) -> int: ...
    def abort(self) -> None: ...


class Unread:
    """Aborts stalled connections, largest buffer first, while the total exceeds the limit."""

    def __init__(self, most_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._most_bytes = most_bytes
        self._seen: dict[Transport, tuple[int, float]] = {}
        """Per connection: the bytes still to send, and the time since which none were sent."""

    def check(self, transports: Iterable[Transport], now: float) -> int:
        """Check all connections, periodically; return how many were aborted."""
        seen = {}
        for transport in transports:
            if left := transport.get_write_buffer_size():
                before, since = self._seen.get(transport, (left, now))
                seen[transport] = (left, now if left < before else since)
        self._seen = seen
        return self._cut(sum(left for left, _ in seen.values()), now)

    def _cut(self, total: int, now: float) -> int:
        excess, cut = total - self._most_bytes, 0
        if excess > 0:
            stalled_s = STALLED_S * self._most_bytes / total
            for transport, (left, since) in sorted(self._seen.items(), key=_size, reverse=True):
                if excess > 0 and now - since >= stalled_s:
                    transport.abort()
                    excess -= left
                    cut += 1
        return cut


def _size(item: tuple[Transport, tuple[int, float]]) -> int:
    return item[1][0]
