"""Rate limiting: requests per minute and client, counted per process."""

import time
from collections import OrderedDict

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.errors import RateLimited

MAX_COUNTERS = 1 << 17
"""Maximum number of counters, two per client: about 30 MB. The oldest are evicted first."""


class Rates:
    """A sliding window of one minute, with two counters per client, whatever the limit.

    A moving window would have to store the time of each request.
    """

    def __init__(self, per_minute: int, max_counters: int = MAX_COUNTERS) -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._window = SlidingWindowCounterRateLimiter(_Counters(max_counters))

    def take(self, client: str) -> None:
        """Count a request from the client.

        Raises:
            RateLimited: the client has reached its limit; this request is not counted.

        """
        if not self._window.hit(self._limit, client):
            stats = self._window.get_window_stats(self._limit, client)
            detail = f"the limit is {self._limit.amount} requests per minute; see Retry-After"
            raise RateLimited(detail, stats.reset_time - time.time())


class _Counters(MemoryStorage):
    """The library's storage, with expired counters removed as new ones are added: all have the same
    lifetime, so the oldest expire first.

    The library itself scans all counters in a background thread, up to a hundred times a second,
    while the event loop waits, and does not limit their number.
    """

    STORAGE_SCHEME = ["lamina-memory"]  # noqa: RUF012

    def __init__(self, max_counters: int) -> None:
        super().__init__()
        # In a plain dict, finding the first entry is slow after many deletions.
        self.expirations = OrderedDict[str, float]()
        self._max = max_counters

    def get(self, key: str) -> int:
        return self.storage.get(key, 0)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        if key not in self.storage:
            self._clear_old()
            self.expirations[key] = time.time() + expiry
        self.storage[key] += amount
        return self.storage[key]

    def _clear_old(self) -> None:
        now = time.time()
        while self.expirations:
            key = next(iter(self.expirations))
            if self.expirations[key] > now and len(self.expirations) < self._max:
                break
            del self.expirations[key], self.storage[key]
