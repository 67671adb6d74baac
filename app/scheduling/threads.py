"""Where work runs: on the event loop while it is tiny, else on one of two threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

INLINE_MS = 1.0
"""Work on a CPU up to this estimate, which is from above, is done on the event loop: changing
threads would cost as much."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """The event loop's helpers: one computes, one reads and prints large messages.

    One compute thread, because every thread that calls torch starts a team of its own;
    `prepare` runs on it first. Work estimated at up to `inline_ms` stays on the event loop.
    """

    def __init__(self, prepare: Callable[[], object], inline_ms: float) -> None:
        self._compute = ThreadPoolExecutor(1, "compute", initializer=prepare)
        self._codec = ThreadPoolExecutor(1, "codec")
        self._inline_ms = inline_ms

    async def compute(
        self, cost_ms: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, float, float]:
        """Do work estimated at `cost_ms`; the result, ms in the queue, ms of work."""
        asked = time.perf_counter()

        def job() -> tuple[T, float, float]:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            return result, (started - asked) * 1e3, (time.perf_counter() - started) * 1e3

        if cost_ms <= self._inline_ms:
            return job()
        return await asyncio.get_running_loop().run_in_executor(self._compute, job)

    async def codec(
        self, inline: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read or print a message, on the event loop where it takes next to nothing."""
        if inline:
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._codec, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Finish what runs and stop."""
        self._compute.shutdown()
        self._codec.shutdown()
