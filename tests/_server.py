"""A real server in a child process, on a free port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Serving:
    """A running `lamina serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def stop(self, sig: int = signal.SIGTERM, within_s: float = 60.0) -> tuple[int, float]:
        """The exit code after a signal, and the seconds that the end took."""
        asked = time.perf_counter()
        self.process.send_signal(sig)
        return self.process.wait(within_s), time.perf_counter() - asked


@contextmanager
def serving(*flags: str, log: Path | None = None, **settings: str) -> Iterator[int]:
    """Runs `lamina serve` with these flags and LAMINA_* settings; gives its port."""
    log = log or Path(os.devnull)
    with started(*flags, log=log, **({"DRAIN_DELAY_MS": "0"} | settings)) as server:
        yield server.port
        assert server.stop(within_s=30)[0] == 0


@contextmanager
def started(
    *flags: str, log: Path, app: tuple[str, ...] = ("app.server.cli",), **settings: str
) -> Iterator[Serving]:
    """Runs `lamina serve`; what still runs in the end is killed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", *app, "serve", "--port", str(port), *flags]
    environment = os.environ | {f"LAMINA_{name}": value for name, value in settings.items()}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Serving(process, port, log)
    finally:
        process.kill()
        process.wait()
