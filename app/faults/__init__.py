"""The list of faults that `check` can name. To add one, write a function and add it to its file."""

from app.faults import pooling
from app.faults._fault import Fault, always

FAULTS: tuple[Fault, ...] = (*pooling.FAULTS,)

__all__ = ["FAULTS", "Fault", "always"]
