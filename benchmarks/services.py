"""Starts the services, each in a process of its own, and reads the processor time that they use."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import psutil

from benchmarks.contestants import PEERS, Contestant
from benchmarks.load import Connection

START_S = 120
READY_TRIES = 20
TRIES = 3
"""Another program may take the free port before the service does."""


@dataclass(frozen=True, slots=True)
class Service:
    """A contestant that is up."""

    contestant: Contestant
    port: int
    process: psutil.Process

    def ask(self, wire: bytes, buffer: bytearray) -> bytes:
        """The body of one answer; some services listen before they can answer."""
        for _ in range(READY_TRIES):
            with suppress(RuntimeError):
                return bytes(Connection(self.port, buffer).post(wire))
            time.sleep(1)
        return bytes(Connection(self.port, buffer).post(wire))

    def tree(self) -> list[psutil.Process]:
        """Its processes."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        return sum(map(_cpu_s, self.tree()))


def _cpu_s(process: psutil.Process) -> float:
    """Processor time of a process, from its clock: /proc counts in hundredths of a second."""
    try:
        return time.clock_gettime((~process.pid << 3) | 2)  # CPUCLOCK_SCHED, see clock_getres(2)
    except OSError:
        return 0.0


def cores() -> tuple[int, int]:
    """The cores of the services and of the client: the same one if there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes that are started meanwhile run on that core, if one is given."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    stack: ExitStack, contestants: Sequence[Contestant], core: int | None
) -> tuple[list[Service], list[str]]:
    """The services that started, until the stack is closed, and the names of peers that did not."""
    found, missing = [], []
    for contestant in contestants:
        if not contestant.is_installed:
            missing.append(contestant.name)
            continue
        for _ in range(TRIES):
            with suppress(OSError), on_core(core):
                found.append(stack.enter_context(_serving(contestant)))
                break
        else:
            if contestant not in PEERS:
                raise RuntimeError(f"{contestant.name} does not start")
            missing.append(f"{contestant.name} (does not start)")
    return found, missing


@contextmanager
def _serving(contestant: Contestant) -> Iterator[Service]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    process = subprocess.Popen(
        contestant.started(port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    service = Service(contestant, port, psutil.Process(process.pid))
    try:
        _await(process, port)
        yield service
    finally:
        tree = service.tree()[1:] if _runs(process) else []
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        for left in tree:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        if _runs(process):
            process.kill()
            process.wait()


def _runs(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline or not _runs(process):
                raise
            time.sleep(0.1)
