"""The signals that end a process, while it has nothing to finish.

Those who serve replace these handlers: `serving.Server` in a serving process, `Supervisor` in the
parent of workers.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def exit_on_signal() -> None:
    """Exit with 0 at a signal, also at one that has come while they were held back."""
    for sig in ENDING:
        signal.signal(sig, _exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _exit(_signal: int, _frame: FrameType | None) -> None:
    os._exit(0)  # an exception might be lost where an import runs foreign code


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals wait; processes started within do so too, until they call `exit_on_signal`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
