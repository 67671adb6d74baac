"""What clients do not read, bounded for all connections together.

An answer that is handed over holds memory until its client has read it, and its reservation has
been given back by then.
"""

from collections.abc import Iterable
from typing import Protocol

MAX_UNREAD_BYTES = 64 << 20
STALLED_S = 1.0
"""A connection that moved within this time is not cut: its client reads, if slowly. With twice
the bound it is half the time, and so on.
"""


class Transport(Protocol):
    """What is asked of asyncio's."""

    def get_write_buffer_size(self) -> int: ...
    def abort(self) -> None: ...


class Unread:
    """Cuts connections that stand still, the largest first, while all hold more than the bound."""

    def __init__(self, most_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._most_bytes = most_bytes
        self._seen: dict[Transport, tuple[int, float]] = {}
        """What each still has to send, bytes, and since when it has sent nothing, s."""

    def check(self, transports: Iterable[Transport], now: float) -> int:
        """Look at all of them; called now and then. Says how many were cut."""
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
