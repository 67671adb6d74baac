"""Float types: rounding to them by hand, and how far a result may be off."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tests.reference._windows import Array


@dataclass(frozen=True, slots=True)
class FloatType:
    """A binary float of `digits` significant bits, and its least normal exponent."""

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
    """What a dtype is computed in: half types in float32."""
    return FLOATS["float64" if dtype == "float64" else "float32"]


def rounded(values: Array, dtype: str) -> Array:
    """Float64 numbers, each the nearest that the dtype has; ties to even."""
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(values))
    if dtype in FLOATS:
        with np.errstate(over="ignore"):
            return values.astype(dtype).astype(np.float64)
    return values


def to_bfloat16(values: Array) -> Array:
    """The 16 bits of the nearest bfloat16.

    A float32 made by rounding to odd keeps what is needed to round a second time.
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
    """Float64 numbers of bfloat16's bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
