"""Whether this process should get requests."""

from collections.abc import Callable

from app.errors import DeviceLost, Draining, LaminaError, Overloaded

STUCK_S = 5.0
"""A queue that has been full for so long without moving holds requests that nobody will serve."""


class Readiness:
    """Ready, until the process drains, its device fails, or a queue is stuck full.

    `stuck_s` tells for how long a queue has been full without serving anybody.
    """

    def __init__(self, stuck_s: Callable[[], float]) -> None:
        self._stuck_s = stuck_s
        self._draining = False
        self.device_lost = False

    def drain(self) -> None:
        """The process is about to end: send it no more requests."""
        self._draining = True

    def note(self, error: Exception) -> None:
        """A failed device does not come back: the process must be replaced."""
        self.device_lost = self.device_lost or isinstance(error, DeviceLost)

    def obstacle(self) -> LaminaError | None:
        """What speaks against sending requests here."""
        if self._draining:
            return Draining("this process is shutting down")
        if self.device_lost:
            return DeviceLost("the device failed; this process will be replaced")
        if self._stuck_s() > STUCK_S:
            return Overloaded(f"a queue has been full without progress for over {STUCK_S:.0f} s")
        return None
