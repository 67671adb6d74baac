"""Float types: rounding to them by hand, and their unit roundoffs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.reference._windows import Array


@dataclass(frozen=True, slots=True)
class FloatType:
    """A binary float type with `digits` significant bits, and its smallest normal exponent."""

    digits: int
    least: int
    largest: float

    @property
    def unit(self) -> float:
        """The unit roundoff."""
        return float(2.0**-self.digits)

    @property
    def granule(self) -> float:
        """The smallest subnormal number."""
        return float(2.0 ** max(self.least - self.digits + 1, -1074))


FLOATS: Mapping[str, FloatType] = {
    "float64": FloatType(53, -1022, float(np.finfo(np.float64).max)),
    "float32": FloatType(24, -126, float(np.finfo(np.float32).max)),
    "float16": FloatType(11, -14, 65504.0),
    "bfloat16": FloatType(8, -126, float(np.finfo(np.float32).max)),
}
DOUBLE = FLOATS["float64"]


def computing(dtype: str) -> FloatType:
    """The float type used to compute a dtype: float32 for half types."""
    return FLOATS["float64" if dtype == "float64" else "float32"]


def rounded(values: Array, dtype: str) -> Array:
    """Round each number to the nearest in the dtype, ties to even; the result is in float64."""
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(values))
    if dtype in FLOATS:
        with np.errstate(over="ignore"):
            return values.astype(dtype).astype(np.float64)
    return values


def to_bfloat16(values: Array) -> Array:
    """The bits of the nearest bfloat16.

    Rounding to odd in float32 keeps the information needed for the second rounding.
    """
    with np.errstate(over="ignore", under="ignore"):
        single = values.astype(np.float32)
    bits = single.view(np.uint32)
    inexact = np.isfinite(single) & (single.astype(np.float64) != values)
    away = np.abs(single.astype(np.float64)) > np.abs(values)
    bits = np.where(inexact, (bits - away) | 1, bits).astype(np.uint32)
    half = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, half).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """Convert bfloat16 bits to float64 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
