"""Threads: one that computes, one that reads and prints large messages."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

INLINE_BYTES = 32 * 1024
"""Messages up to this size are read and printed on the event loop: well below a millisecond."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """The event loop's helpers. One compute thread, because every thread that calls torch
    starts a team of its own.
    """

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._codec = ThreadPoolExecutor(1, thread_name_prefix="codec")

    async def compute(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, float, float]:
        """Run on the compute thread; the result, ms in the queue, ms of work."""
        asked = time.perf_counter()

        def job() -> tuple[T, float, float]:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            return result, (started - asked) * 1e3, (time.perf_counter() - started) * 1e3

        return await asyncio.get_running_loop().run_in_executor(self._compute, job)

    async def codec(
        self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Read or print a message of `size` bytes, off the event loop where it is large."""
        if size <= INLINE_BYTES:
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._codec, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Finish what runs and stop."""
        self._compute.shutdown()
        self._codec.shutdown()
