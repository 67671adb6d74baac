"""The list of faults that `check` can name. To add one, write a function that builds the layer with
it, and a row in the file's `FAULTS`; for a new file, a word here.
"""

from app.faults import (
    accumulation,
    adaptive,
    affine,
    averages,
    batch_norms,
    convolution,
    gradients,
    maxima,
    norms,
    overlap,
    rectifier,
    windows,
)
from app.faults._fault import Fault, always

FAULTS: tuple[Fault, ...] = (
    *windows.FAULTS,
    *maxima.FAULTS,
    *averages.FAULTS,
    *overlap.FAULTS,
    *adaptive.FAULTS,
    *norms.FAULTS,
    *affine.FAULTS,
    *batch_norms.FAULTS,
    *convolution.FAULTS,
    *rectifier.FAULTS,
    *gradients.FAULTS,
    *accumulation.FAULTS,
)
"""Within one level of a search they are tried in this order."""

__all__ = ["FAULTS", "Fault", "always"]
