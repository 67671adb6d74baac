"""Memory for bodies while they come in, and for reading them when they are there."""

from app.errors import Overloaded
from app.scheduling.budget import Budget


class Bodies(Budget):
    """Bodies, beside which enough stays free to read the largest of them.

    A body comes in as slowly as its client likes. Who has all of his and waits to read it waits
    for others who read, never for such clients, nor for memory that he holds himself. `rest` is
    what reading a body takes beside it; at least `kept` is free of bodies.
    """

    def __init__(self, size_name: str, size: int, max_waiting: int, kept: int) -> None:
        super().__init__(f"memory for {size_name} bodies", size, max_waiting)
        self.reading = Reading(self, f"memory to read {size_name} bodies", max_waiting)
        self.rests = [kept]

    def free(self, rest: int = 0) -> int:
        """How much is left for a body."""
        return self.size - self.taken - max(self.reading.taken, rest, *self.rests)

    def grow(self, held: int, wanted: int, rest: int) -> None:
        """Make more of what is held, past those who wait and hold nothing.

        Raises:
            Overloaded: there is no room.

        """
        if wanted - held > self.free(rest):
            raise Overloaded(f"the {self.name} is exhausted")
        self._grant(wanted - held, rest)

    def give(self, amount: int, rest: int = 0) -> None:
        """Give back what was taken; those who wait to read get it first."""
        self.taken -= amount
        self.rests.remove(rest)
        self.reading.serve()
        self.serve()

    def _grant(self, amount: int, rest: int) -> None:
        super()._grant(amount, rest)
        self.rests.append(rest)


class Reading(Budget):
    """What is left beside the bodies, to read them."""

    def __init__(self, bodies: Bodies, name: str, max_waiting: int) -> None:
        super().__init__(name, bodies.size, max_waiting)
        self._bodies = bodies

    def free(self, rest: int = 0) -> int:  # noqa: ARG002
        """How much is left to read."""
        return self.size - self.taken - self._bodies.taken

    def give(self, amount: int, rest: int = 0) -> None:  # noqa: ARG002
        """Give back what was taken; those who wait to read get it first."""
        super().give(amount)
        self._bodies.serve()
