"""How long a request waits: until its deadline, and while its client is connected."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.errors import DeadlineExceeded, Overloaded

T = TypeVar("T")
TOO_LATE = "the request's deadline passed before its answer was ready"
clock = time.perf_counter


class Abandoned(Exception):
    """The client disconnected before its answer was ready."""


class Deadline:
    """How long one request waits; `until_s` is on `clock`."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self._gone: Callable[[], Awaitable[object]] | None = None
        self._watch: asyncio.Future[object] | None = None

    def watch(self, gone: Callable[[], Awaitable[object]]) -> None:
        """From now on, give up when `gone` returns, which means that the client disconnected."""
        self._gone = gone

    def check(self) -> None:
        """Continue only if the answer is still needed.

        Raises:
            DeadlineExceeded: the deadline has passed.
            Abandoned: the client disconnected.

        """
        if self._watch is not None and self._watch.done():
            raise Abandoned
        if clock() >= self.until_s:
            raise DeadlineExceeded(TOO_LATE)

    async def wait(self, future: asyncio.Future[T], timeout_s: float | None = None) -> T:
        """Wait for the future's result, without cancelling the future.

        Raises:
            DeadlineExceeded: the deadline has passed.
            Abandoned: the client disconnected.
            Overloaded: `timeout_s` passed.

        """
        if self._watch is None and self._gone is not None:
            self._watch = asyncio.ensure_future(self._gone())
        left_s = self.until_s - clock()
        hasty = timeout_s is not None and timeout_s < left_s
        await asyncio.wait(
            (future, self._watch) if self._watch else (future,),
            timeout=timeout_s if hasty else left_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if future.done():
            return future.result()
        self.check()
        if hasty:
            raise Overloaded("the request waited in the queue for too long")
        raise DeadlineExceeded(TOO_LATE)  # the event loop's timers may fire slightly early

    def close(self) -> None:
        """Stop watching the client."""
        if self._watch is not None:
            self._watch.cancel()
