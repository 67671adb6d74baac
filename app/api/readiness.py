"""Whether this process should receive requests."""

from collections.abc import Callable

from app.errors import DeviceLost, Draining, LaminaError, Overloaded

STUCK_S = 5.0
"""How long a queue may be full without progress before the process is considered stuck."""


class Readiness:
    """Tracks readiness, which ends when the process drains, its device fails, or a queue is stuck.

    `stuck_s` returns how long a queue has been full without serving a request.
    """

    def __init__(self, stuck_s: Callable[[], float]) -> None:
        self._stuck_s = stuck_s
        self._draining = False
        self.device_lost = False

    def drain(self) -> None:
        """Mark the process as shutting down."""
        self._draining = True

    def note(self, error: Exception) -> None:
        """Note an error; after DeviceLost, the process stays unready and must be replaced."""
        self.device_lost = self.device_lost or isinstance(error, DeviceLost)

    def obstacle(self) -> LaminaError | None:
        """The reason why the process is not ready, or None."""
        if self._draining:
            return Draining("this process is shutting down")
        if self.device_lost:
            return DeviceLost("the device failed; this process will be replaced")
        if self._stuck_s() > STUCK_S:
            return Overloaded(f"a queue has been full without progress for over {STUCK_S:.0f} s")
        return None
