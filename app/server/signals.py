"""Handling of SIGINT and SIGTERM during startup, before there is anything to finish.

Once running, `serving.Server` (in a serving process) and `Supervisor` (in the parent of workers)
replace these handlers.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def exit_on_signal() -> None:
    """Exit with 0 on SIGINT or SIGTERM, including one that arrived while they were blocked."""
    for sig in ENDING:
        signal.signal(sig, _exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def interrupt_on_signal() -> None:
    """Undo `exit_on_signal`, for a command whose exit code has a meaning."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)  # an exception might be swallowed by third-party code during an import


@contextmanager
def held_back() -> Iterator[None]:
    """Block both signals, also in processes started within until they call `exit_on_signal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
