"""A real server in a child process, on a free port, and what can be read of it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

SERVICE = "app.server.cli"
MIB = 1 << 20
START_S = 120.0
"""A machine with much else to do may take so long."""
Log = Path | IO[bytes]


@dataclass
class Serving:
    """A running `lamina serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    connections: ExitStack

    def connect(self, timeout_s: float = 60.0) -> socket.socket:
        """A connection, closed with the server at the latest."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout_s)
        return self.connections.enter_context(connection)

    def stop(self, sig: int = signal.SIGTERM, within_s: float = 120.0) -> tuple[int, float]:
        """The exit code after a signal, and the seconds that the end took."""
        asked = time.perf_counter()
        self.process.send_signal(sig)
        return self.process.wait(within_s), time.perf_counter() - asked

    @property
    def system(self) -> psutil.Process:
        """The process as the system sees it."""
        return psutil.Process(self.process.pid)

    @property
    def rss_bytes(self) -> int:
        size: int = self.system.memory_info().rss
        return size

    @property
    def peak_rss_bytes(self) -> int:
        """Largest RSS since `reset_peak`, or of all time; where that is not known, RSS."""
        status = self._proc("status")
        if not status.exists():
            return self.rss_bytes
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
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
        times = self.system.cpu_times()
        seconds: float = times.user + times.system
        return seconds

    @property
    def handles(self) -> tuple[int, int]:
        """Open file descriptors, threads."""
        system = self.system
        return system.num_fds(), system.num_threads()

    def holds(self, connection: socket.socket) -> bool:
        """Whether the process has the other end of a connection open."""
        port = connection.getsockname()[1]
        ends = self.system.net_connections()
        return any(end.raddr and end.raddr.port == port for end in ends)

    @property
    def clients(self) -> int:
        """How many connections it holds."""
        ends = self.system.net_connections()
        return sum(end.status == psutil.CONN_ESTABLISHED for end in ends)

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}/{name}")


@contextmanager
def serving(*flags: str, log: Log = Path(os.devnull), **settings: str) -> Iterator[int]:
    """Runs `lamina serve` with these flags and LAMINA_* settings; gives its port."""
    with started(*flags, log=log, settings={"DRAIN_DELAY_MS": "0"} | settings) as server:
        yield server.port
        assert server.stop()[0] == 0


@contextmanager
def started(
    *flags: str,
    log: Log = Path(os.devnull),
    app: str = SERVICE,
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Serving]:
    """Runs `lamina serve`, or another `app` of that command line; it is killed in the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", app, "serve", "--port", str(port), *flags]
    variables = {f"LAMINA_{name}": value for name, value in (settings or {}).items()}
    variables = {**os.environ, **(environment or {}), **variables}
    with open(log, "wb") if isinstance(log, Path) else nullcontext(log) as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output)
    try:
        begun = time.perf_counter()
        while process.poll() is None and time.perf_counter() < begun + START_S:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        with ExitStack() as connections:
            path = log if isinstance(log, Path) else Path(os.devnull)
            yield Serving(process, port, path, connections)
    finally:
        process.kill()
        process.wait()


@contextmanager
def apart(
    app: str = SERVICE,
    around: AbstractContextManager[object] | None = None,
    **settings: str,
) -> Iterator[Serving]:
    """A service on the first core, this process on the others, where there are several.

    `around` is entered while the service starts.
    """
    cores = sorted(os.sched_getaffinity(0))
    given = {"LOG_LEVEL": "warning", "DRAIN_DELAY_MS": "0"} | settings
    os.sched_setaffinity(0, cores[:1])
    try:
        with ExitStack() as stack:
            with around or nullcontext():
                server = stack.enter_context(started(app=app, settings=given))
            os.sched_setaffinity(0, cores[1:] or cores)
            yield server
            assert server.stop()[0] == 0
    finally:
        os.sched_setaffinity(0, cores)


def wait_for(holds: Callable[[], bool], within_s: float = 120.0) -> float:
    """How long it took."""
    begun = time.perf_counter()
    while not holds():
        assert time.perf_counter() - begun < within_s, "it never came true"
        time.sleep(0.05)
    return time.perf_counter() - begun
