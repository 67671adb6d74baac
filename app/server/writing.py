"""What answers are written to, and whether their client reads them."""

from collections.abc import Callable
from typing import NamedTuple

WRITE_PIECE_BYTES = 1 << 20
"""What a client must read within the write timeout."""


class Writer(NamedTuple):
    """A transport whose close is a lingering one."""

    write: Callable[[bytes], None]
    close: Callable[[], None]
    is_closing: Callable[[], bool]


class Stall:
    """Notices a client that reads less than a piece within the timeout."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since = 0.0
        self._left = 0

    def end(self) -> None:
        """It has read."""
        self._since = 0.0

    def is_late(self, left: int, now: float) -> bool:
        """Look at the bytes that it still has to read, now and then."""
        if not self._since or self._left - left >= WRITE_PIECE_BYTES:
            self._since, self._left = now, left
        return now - self._since > self._timeout_s
