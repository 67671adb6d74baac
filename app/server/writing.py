"""Writing responses, and detecting clients that do not read them."""

from collections.abc import Callable
from typing import NamedTuple

WRITE_PIECE_BYTES = 1 << 20
"""How much a client must read within the write timeout."""


class Writer(NamedTuple):
    """A transport whose `close` lingers."""

    write: Callable[[bytes], None]
    close: Callable[[], None]
    is_closing: Callable[[], bool]


class Stall:
    """Detects a client that reads less than `WRITE_PIECE_BYTES` within the timeout."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since = 0.0
        self._left = 0

    def end(self) -> None:
        """Reset the timer: the client has read."""
        self._since = 0.0

    def is_late(self, left: int, now: float) -> bool:
        """Check, periodically, whether the client is late; `left` is the bytes still to be sent."""
        if not self._since or self._left - left >= WRITE_PIECE_BYTES:
            self._since, self._left = now, left
        return now - self._since > self._timeout_s
