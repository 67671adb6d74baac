"""The parent of several workers: replaces those that crash or hang, and shuts them down in time.

Nothing here blocks on a worker: a hung one must not keep the parent from handling signals. Workers
get their API keys from the parent, so that a broken key file cannot prevent a replacement from
starting.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from multiprocessing import resource_tracker
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from app.server.config import ServingConfig
from app.server.process import prepare
from app.server.signals import exit_on_signal, held_back
from app.settings import SettingsError

logger = logging.getLogger("lamina")

TICK_S = 0.2
STOPPED_TICKS = 5
"""How many ticks a worker may stay stopped; a debugger attaching to it takes fewer."""
MAX_CRASHES = 5
CRASH_WINDOW_S = 60.0
LATE_S = 0.5
"""How long after the grace period a worker that is still alive is killed."""


class Worker(Process):
    """A worker process, as its parent sees it."""

    config: ServingConfig

    def __init__(self, config: ServingConfig, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.ready = False
        self.kill_at = float("inf")
        self._asked_at: float | None = None
        self._stopped_ticks = 0

    def start(self) -> None:
        """Start the process, with its signals blocked until `target` runs."""
        resource_tracker.ensure_running()  # starting it later would unblock the signals
        with held_back():
            super().start()

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Run the server, in the worker process."""
        exit_on_signal()
        from app.server.serving import Server  # heavy imports, not needed in the parent

        prepare(self.config.settings.max_connections)
        self._server = Server(self.config)
        threading.Thread(target=self.always_pong, daemon=True).start()
        self._server.run(sockets)

    def is_well(self, now: float) -> bool:
        """Whether it is alive, not stopped, and has answered the last ping in time."""
        if not self.process.is_alive():
            return False
        self._stopped_ticks = self._stopped_ticks + 1 if is_stopped(self.pid) else 0
        if self._stopped_ticks > STOPPED_TICKS:
            return False
        try:
            while self.parent_conn.poll():
                self.ready = self.parent_conn.recv()
                self._asked_at = None
            if self._asked_at is None:
                self.parent_conn.send(b"ping")
                self._asked_at = now
        except (OSError, EOFError):
            return False
        return now - self._asked_at < self.config.timeout_worker_healthcheck

    def end(self, sig: int, kill_at: float) -> None:
        """Ask it to shut down; `bury` kills it once `kill_at` has passed."""
        self.kill_at = min(self.kill_at, kill_at)
        if self.process.is_alive() and self.pid is not None:
            os.kill(self.pid, sig)

    def bury(self, now: float) -> bool:
        """Kill it if it is late, and free its resources once it is dead; return whether it is."""
        if self.process.is_alive():
            if now < self.kill_at:
                return False
            logger.error("worker %s did not exit in time: killed", self.pid)
            self.process.kill()
        self.process.join()
        self.parent_conn.close()
        self.child_conn.close()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            mark_process_dead(self.pid)  # type: ignore[no-untyped-call]
        return True


def is_stopped(pid: int | None) -> bool:
    """Whether a signal has stopped the process; always false on systems without `/proc`."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


class Supervisor(Multiprocess):
    """Keeps the workers running until a signal; `run` returns the exit code.

    It is 0 after a clean shutdown, 1 after a crash loop or if a worker failed or had to be killed,
    3 if the app does not start, and 128 plus the signal's number after a second signal.
    """

    config: ServingConfig

    def __init__(self, config: ServingConfig, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._given = config.settings
        config.settings = self._given.holding_keys()
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []
        self._old: deque[Worker] = deque()
        self._newcomer: Worker | None = None
        self._crashes: deque[float] = deque(maxlen=MAX_CRASHES + 1)
        self._grace_s = config.settings.drain_grace_ms / 1000
        self._signal = signal.SIGTERM
        self._served = False
        self._exit_code = 0

    def run(self) -> int:  # type: ignore[override]
        """Serve until a signal, or until workers crash too often."""
        logger.info("parent process %d starts %d workers", os.getpid(), self.processes_num)
        self._workers = [self._start() for _ in range(self.processes_num)]
        while not self.should_exit.wait(TICK_S):
            self.handle_signals()
            if not self.should_exit.is_set():
                now = time.monotonic()
                self._replace_dead(now)
                self._roll(now)
                self._leaving = [worker for worker in self._leaving if not worker.bury(now)]
        self._end()
        return self._exit_code

    def _start(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _replace_dead(self, now: float) -> None:
        for index, worker in enumerate(self._workers):
            if worker.is_well(now):
                self._served |= worker.ready
                continue
            worker.kill_at = now
            worker.bury(now)
            if worker.exitcode == STARTUP_FAILURE and not self._served:
                self._give_up(STARTUP_FAILURE, "the app does not start")
                return
            self._crashes.append(now)
            recent = [then for then in self._crashes if now - then < CRASH_WINDOW_S]
            if len(recent) > MAX_CRASHES:
                self._give_up(1, f"{len(recent)} crashes in {CRASH_WINDOW_S:g} s")
                return
            logger.error("worker %s died (%s): starting another", worker.pid, worker.exitcode)
            self._workers[index] = self._start()

    def _give_up(self, exit_code: int, why: str) -> None:
        logger.error("shutting down: %s", why)
        self._exit_code = exit_code
        self.should_exit.set()

    # Rolling restart

    def handle_hup(self) -> None:
        """Replace the workers one by one, each once its replacement serves, and reload the keys.

        If the keys cannot be read, nothing changes.
        """
        try:
            self.config.settings = self._given.holding_keys()
        except SettingsError as error:
            logger.error("keeping the workers and their keys: %s", error)
            return
        logger.info("restarting the workers one by one")
        self._old = deque(self._workers)

    def _roll(self, now: float) -> None:
        if self._newcomer is None:
            # One at a time, so that at most one extra worker takes up memory.
            if self._old and not self._leaving:
                self._newcomer = self._start()
                self._newcomer.kill_at = now + self.config.timeout_worker_healthcheck
            return
        if not self._newcomer.is_well(now) or now > self._newcomer.kill_at:
            logger.error("a new worker failed to start: keeping the old ones")
            self._newcomer.kill_at = now
            self._newcomer.bury(now)
            self._newcomer = None
            self._old.clear()
        elif self._newcomer.ready:
            self._newcomer.kill_at = float("inf")
            old = self._old.popleft()
            if old in self._workers:  # else it crashed, and its replacement is already new
                self._workers[self._workers.index(old)] = self._newcomer
                self._retire(old, now)
            else:
                self._retire(self._newcomer, now)
            self._newcomer = None

    def _retire(self, worker: Worker, now: float) -> None:
        # Not SIGTERM: other workers accept new connections, so no drain delay is needed.
        worker.end(signal.SIGINT, now + self._grace_s + LATE_S)
        self._leaving.append(worker)

    def handle_ttin(self) -> None:
        """Ignore SIGTTIN, unlike uvicorn: the number of workers is a setting."""

    def handle_ttou(self) -> None:
        """Ignore SIGTTOU, like SIGTTIN."""

    # Shutdown

    def handle_int(self) -> None:
        self._signal = signal.SIGINT
        self.should_exit.set()

    def handle_term(self) -> None:
        self._signal = signal.SIGTERM
        self.should_exit.set()

    def _end(self) -> None:
        logger.info("stopping %d workers", len(self._workers))
        for listener in self.sockets:
            listener.close()  # the workers have their own copies
        newcomers = [self._newcomer] if self._newcomer is not None else []
        workers = [*self._workers, *self._leaving, *newcomers]
        kill_at = time.monotonic() + self._grace_s + LATE_S
        for worker in workers:
            worker.end(self._signal, kill_at)
        while workers:
            now = time.monotonic()
            again = [sig for sig in self.signal_queue if sig in (signal.SIGINT, signal.SIGTERM)]
            for worker in workers:
                worker.kill_at = now if again else worker.kill_at
            if again:
                self._exit_code = 128 + again[0]
            dead = [worker for worker in workers if worker.bury(now)]
            if any(worker.exitcode for worker in dead):
                self._exit_code = self._exit_code or 1
            workers = [worker for worker in workers if worker not in dead]
            time.sleep(TICK_S / 4)
