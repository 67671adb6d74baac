"""The threads that help the event loop."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Threads:
    """One thread computes what is large, one what is small, one reads and prints messages.

    One compute thread for what is large, because every thread that calls torch starts a team of
    its own; the one for small work has a team of one. `prepare` runs on each first, with its
    team's size. On a GPU, which works through one queue, both are the same thread.
    """

    def __init__(self, prepare: Callable[[int], object], team: int, *, gpu: bool) -> None:
        self.large = ThreadPoolExecutor(1, "compute", prepare, (team,))
        self.small = self.large if gpu else ThreadPoolExecutor(1, "small", prepare, (1,))
        self.codec = ThreadPoolExecutor(1, "codec")

    def close(self) -> None:
        """Finish what runs and stop."""
        for executor in (self.large, self.small, self.codec):
            executor.shutdown(cancel_futures=True)
