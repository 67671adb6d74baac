"""The threads that help the event loop."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

NICENESS = 10


class Threads:
    """One thread computes what is large, one what is small, one reads and prints messages.

    One compute thread for what is large, because every thread that calls torch starts a team of
    its own; the one for small work has a team of one. `prepare` runs on each first, with its
    team's size. On a GPU, which works through one queue, both are the same thread.
    """

    def __init__(self, prepare: Callable[[int], object], team: int, *, gpu: bool) -> None:
        def begin(team: int) -> None:
            yield_to_event_loop()
            prepare(team)

        self.large = ThreadPoolExecutor(1, "compute", begin, (team,))
        self.small = self.large if gpu else ThreadPoolExecutor(1, "small", begin, (1,))
        # It holds the interpreter's lock for long: with less of the core, it would hold it longer.
        self.codec = ThreadPoolExecutor(1, "codec")

    def close(self) -> None:
        """Finish what runs and stop."""
        for executor in (self.large, self.small, self.codec):
            executor.shutdown(cancel_futures=True)


def yield_to_event_loop() -> None:
    """Let the event loop, which answers health and refuses, run first where cores are few.

    Linux keeps a niceness for each thread, and threads pass theirs on to those they start.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
