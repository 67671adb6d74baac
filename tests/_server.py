"""A real server in a child process, on a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Log = Path | IO[bytes]
START_S = 120.0
"""A machine with much else to do may take so long."""


@dataclass
class Serving:
    """A running `lamina serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    connections: ExitStack

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """A connection, closed with the server at the latest."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout_s)
        return self.connections.enter_context(connection)

    def stop(self, sig: int = signal.SIGTERM, within_s: float = 60.0) -> tuple[int, float]:
        """The exit code after a signal, and the seconds that the end took."""
        asked = time.perf_counter()
        self.process.send_signal(sig)
        return self.process.wait(within_s), time.perf_counter() - asked


@contextmanager
def serving(*flags: str, log: Log = Path(os.devnull), **settings: str) -> Iterator[int]:
    """Runs `lamina serve` with these flags and LAMINA_* settings; gives its port."""
    with started(*flags, log=log, settings={"DRAIN_DELAY_MS": "0"} | settings) as server:
        yield server.port
        assert server.stop(within_s=30)[0] == 0


@contextmanager
def started(
    *flags: str,
    log: Log,
    app: str = "app.server.cli",
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
