"""A real server in a child process, on a free port."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def serving(
    *flags: str,
    log: Path | IO[bytes] | None = None,
    module: str = "app.server.cli",
    **settings: str,
) -> Iterator[int]:
    """Runs `lamina serve`, or a `module` like it, with these flags and LAMINA_* settings; gives its
    port.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", module, "serve", "--port", str(port), *flags]
    environment = os.environ | {f"LAMINA_{name}": value for name, value in settings.items()}
    with ExitStack() as stack:
        output = log or os.devnull
        if isinstance(output, str | Path):
            output = stack.enter_context(open(output, "wb"))
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        assert server.wait(30) in (0, -15)
