"""Memory for bodies while they arrive, and for decoding them once they have arrived."""

from app.errors import Overloaded
from app.scheduling.budget import Budget


class Bodies(Budget):
    """Memory for bodies; it keeps enough free to decode the largest of them.

    A slow client may take arbitrarily long to send its body. A request whose body is complete only
    waits for other requests being decoded: never for slow clients, nor for memory of its own.
    `rest` is what decoding a body needs in addition to the body; at least `kept` is never taken by
    bodies.
    """

    def __init__(self, size_name: str, size: int, max_waiting: int, kept: int) -> None:
        super().__init__(f"memory for {size_name} bodies", size, max_waiting)
        self.reading = Reading(self, f"memory to read {size_name} bodies", max_waiting)
        self.rests = [kept]

    def free(self, rest: int = 0) -> int:
        """Memory available for a body."""
        return self.size - self.taken - max(self.reading.taken, rest, *self.rests)

    def grow(self, held: int, wanted: int, rest: int) -> None:
        """Grow a reservation, ahead of waiting requests that hold nothing.

        Raises:
            Overloaded: the memory is exhausted.

        """
        if wanted - held > self.free(rest):
            raise Overloaded(f"the {self.name} is exhausted")
        self._grant(wanted - held, rest)

    def give(self, amount: int, rest: int = 0) -> None:
        """Release what was taken; requests that wait to be decoded are served first."""
        self.taken -= amount
        self.rests.remove(rest)
        self.reading.serve()
        self.serve()

    def _grant(self, amount: int, rest: int) -> None:
        super()._grant(amount, rest)
        self.rests.append(rest)


class Reading(Budget):
    """The memory that bodies leave free, for decoding them."""

    def __init__(self, bodies: Bodies, name: str, max_waiting: int) -> None:
        super().__init__(name, bodies.size, max_waiting)
        self._bodies = bodies

    def free(self, rest: int = 0) -> int:  # noqa: ARG002
        """Memory available for decoding."""
        return self.size - self.taken - self._bodies.taken

    def give(self, amount: int, rest: int = 0) -> None:  # noqa: ARG002
        """Release what was taken; requests that wait to be decoded are served first."""
        super().give(amount)
        self._bodies.serve()
