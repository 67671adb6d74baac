"""The bounds within which a client's results match: the request's own, or the defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.compute.matching import Bound
from app.compute.tolerances import RTOL, Scale, Tolerance
from app.schemas.tensors import Shape


@dataclass(frozen=True, slots=True)
class Bounds:
    """`rtol` and `atol` replace the defaults, unscaled; None: the default. `scales` are those of
    the results that sum terms.
    """

    dtype: str
    rtol: float | None
    atol: float | None
    ulp: int
    scales: Mapping[str, Scale]

    @property
    def need_scales(self) -> bool:
        """Whether the size of the terms makes a difference."""
        return self.atol is None and self.dtype in RTOL

    def with_scales(self, scales: Mapping[str, Scale]) -> "Bounds":
        """The bounds for other sums."""
        return Bounds(self.dtype, self.rtol, self.atol, self.ulp, scales)

    def of(
        self, name: str, shape: Shape, slices: tuple[slice, ...] | None = None, factor: float = 1
    ) -> Bound:
        """The bound of one result, or of a part of it; `factor` widens it.

        A result of another shape than the reference's gets the bound of its largest sum.
        """
        rtol = self._rtol * factor
        if self.atol is not None:
            return Bound(rtol, self.atol, self.ulp)
        scale = self.scales.get(name)
        if scale is None:
            return Bound(rtol, 0.0, self.ulp)
        size: Any = scale.size
        if _broadcasts(size.shape, shape):
            size = np.broadcast_to(size, shape)
            size = size if slices is None else size[slices]
        else:
            size = size.max(initial=0.0)
        return Bound(rtol, self._default * factor * size, self.ulp)

    def tolerance(self, name: str) -> Tolerance:
        """The tolerance of one result as a whole."""
        scale = self.scales.get(name)
        terms = 1 if scale is None else scale.terms
        largest = 0.0 if scale is None else float(scale.size.max(initial=0.0))
        atol = self._default * largest if self.atol is None else self.atol
        return Tolerance(atol, self._rtol, self.ulp, terms)

    @property
    def _default(self) -> float:
        return RTOL.get(self.dtype, 0.0)

    @property
    def _rtol(self) -> float:
        return self._default if self.rtol is None else self.rtol


def _broadcasts(shape: Shape, to: Shape) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False
