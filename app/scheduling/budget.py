"""Resources that requests share, bytes or turns: granted at once, or from a FIFO queue.

Requests that need very little skip the queue.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from app.errors import Overloaded

NEWEST_WEIGHT = 0.2
EXPECTED_SHARE = 0.6
"""Longest estimated wait, as a share of the queue timeout: estimates vary, and a request that times
out in the queue is refused late.
"""
LITTLE = 64
"""Requests for at most 1/64 of a budget skip the queue."""
Wait = Callable[[asyncio.Future[None]], Awaitable[None]]


class Budget:
    """A number of units, with a bounded queue."""

    def __init__(self, name: str, size: int, max_waiting: int) -> None:
        self.name = name
        self.size = size
        self.taken = 0
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._full_since: float | None = None

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    def free(self, rest: int = 0) -> int:  # noqa: ARG002
        """Units available to a request that will need `rest` more later."""
        return self.size - self.taken

    @property
    def full_s(self) -> float:
        """Seconds since a request was refused, if no waiting request has been served since."""
        return 0.0 if self._full_since is None else time.monotonic() - self._full_since

    def check_room(self, amount: int = 1, rest: int = 0) -> None:
        """Refuse early what would not be served in time.

        Raises:
            Overloaded: it would have to wait, and the queue is full.

        """
        if not self._fits(amount, rest) and self.waiting >= self._max_waiting:
            self._note_full()
            raise Overloaded(f"the queue for {self.name} is full, with {self.waiting} requests")

    def take_now(self, amount: int, rest: int = 0) -> bool:
        """Take `amount`, and `rest` later, if that needs no waiting; whether it did."""
        fits = self._fits(amount, rest)
        if fits:
            self._grant(amount, rest)
        return fits

    async def take(self, amount: int, wait: Wait, rest: int = 0) -> None:
        """Take `amount`, and `rest` later; `wait` awaits a future, and raises when it gives up.

        Raises:
            Overloaded: the queue is full.

        """
        if self.take_now(amount, rest):
            return
        self.check_room(amount, rest)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (amount, rest, granted)
        self._waiting.append(entry)
        try:
            await wait(granted)
        except BaseException:
            if granted.done() and not granted.cancelled():
                self.give(amount, rest)
            else:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, amount: int, rest: int = 0) -> None:  # noqa: ARG002
        """Release what was taken, and serve the queue."""
        self.taken -= amount
        self.serve()

    def serve(self) -> None:
        """Grant what is free to waiting requests, in order."""
        if self._waiting:
            self._serve()

    def _fits(self, amount: int, rest: int = 0) -> bool:
        return amount <= self.free(rest) and (not self._waiting or self._is_little(amount))

    def _is_little(self, amount: int) -> bool:
        return amount <= self.size // LITTLE

    def _grant(self, amount: int, rest: int) -> None:  # noqa: ARG002
        self.taken += amount

    def _serve(self) -> None:
        blocked = False
        for entry in list(self._waiting):
            amount, rest, granted = entry
            if granted.cancelled():  # its request is about to leave the queue
                continue
            if amount > self.free(rest) or (blocked and not self._is_little(amount)):
                blocked = True
                continue
            self._waiting.remove(entry)
            self._grant(amount, rest)
            granted.set_result(None)
            self._full_since = None
        if not self._waiting:
            self._full_since = None

    def _note_full(self) -> None:
        if self._waiting and self._full_since is None:
            self._full_since = time.monotonic()


class Turns(Budget):
    """A number of requests that run at a time; refuses early if the queue moves too slowly."""

    def __init__(self, name: str, size: int, max_waiting: int, timeout_s: float) -> None:
        super().__init__(name, size, max_waiting)
        self._timeout_s = timeout_s
        self._busy_since: float | None = None
        self._pace_s = 0.0
        """Average time between two finished requests while all turns are taken."""

    def check_room(self, amount: int = 1, rest: int = 0) -> None:
        """Refuse early what would not be served in time.

        Raises:
            Overloaded: the queue is full, or the estimated wait is too long.

        """
        super().check_room(amount, rest)
        wait_s = (self.waiting + 1) * self._pace_s
        if not self._fits(amount) and wait_s > EXPECTED_SHARE * self._timeout_s:
            self._note_full()
            raise Overloaded(f"the estimated wait for {self.name} is {wait_s:.1f} s", wait_s)

    def give(self, amount: int, rest: int = 0) -> None:
        """Release what was taken, and serve the queue."""
        now = time.monotonic()
        if self._busy_since is not None:
            newest_s = now - self._busy_since
            weight = NEWEST_WEIGHT if self._pace_s else 1.0
            self._pace_s += weight * (newest_s - self._pace_s)
        self._busy_since = None
        super().give(amount, rest)

    def _grant(self, amount: int, rest: int) -> None:
        super()._grant(amount, rest)
        if self.taken >= self.size:
            self._busy_since = time.monotonic()
