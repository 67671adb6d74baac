"""The service under load: a child process on a core of its own, and what can be read of it."""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import psutil
import uvloop

from tests._server import started
from tests.load._client import ask, get

MIB = 1 << 20
T = TypeVar("T")


class Target:
    """A running service."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.port = port
        self.process = process

    @property
    def rss_bytes(self) -> int:
        size: int = self.process.memory_info().rss
        return size

    @property
    def peak_rss_bytes(self) -> int:
        """Largest RSS since `reset_peak`."""
        found = re.search(r"VmHWM:\s+(\d+) kB", self._proc("status").read_text())
        assert found
        return int(found[1]) * 1024

    def reset_peak(self) -> None:
        self._proc("clear_refs").write_text("5")

    @property
    def bytes_read(self) -> int:
        """All bytes that the process has read, sockets and files."""
        found = re.search(r"rchar: (\d+)", self._proc("io").read_text())
        assert found
        return int(found[1])

    @property
    def cpu_s(self) -> float:
        times = self.process.cpu_times()
        seconds: float = times.user + times.system
        return seconds

    @property
    def handles(self) -> tuple[int, int]:
        """Open file descriptors, threads."""
        return self.process.num_fds(), self.process.num_threads()

    async def gauges(self) -> dict[str, float]:
        """What requests hold just now, as `/metrics` says."""
        text = (await ask(self.port, get("/metrics"))).body.decode()
        names = ("lamina_in_flight_requests", "lamina_queued_requests", "lamina_reserved_bytes")
        found = dict(re.findall(r"^(lamina_\w+) ([0-9.e+-]+)$", text, re.MULTILINE))
        return {name: float(found[name]) for name in names}

    async def settled(self, seconds: float = 10) -> dict[str, float]:
        """The gauges once they are all 0, or what they still are after so long."""
        until = time.monotonic() + seconds
        while any((gauges := await self.gauges()).values()) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return gauges

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}/{name}")


@contextmanager
def target(
    app: str = "app.server.cli",
    around: AbstractContextManager[object] | None = None,
    **settings: str,
) -> Iterator[Target]:
    """A service on the first core, this process on the others, where there are several.

    `around` is entered while the service starts.
    """
    cores = sorted(os.sched_getaffinity(0))
    given = {"LOG_LEVEL": "warning", "DRAIN_DELAY_MS": "0"} | settings
    os.sched_setaffinity(0, cores[:1])
    try:
        with ExitStack() as stack:
            with around or nullcontext():
                server = stack.enter_context(started(log=Path(os.devnull), app=app, settings=given))
            os.sched_setaffinity(0, cores[1:] or cores)
            yield Target(server.port, psutil.Process(server.process.pid))
            assert server.stop()[0] == 0
    finally:
        os.sched_setaffinity(0, cores)


def run(main: Callable[[], Awaitable[T]]) -> T:
    """The coroutine's result, on a fast event loop."""

    async def whole() -> Any:
        return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result: T = runner.run(whole())
        return result
