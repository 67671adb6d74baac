"""Rounding to a dtype, seeded numbers, and numbers as JSON has them."""

import math
from typing import Any

import numpy as np

from tests.oracle._request import Array


def rounded(values: Array, dtype: str) -> Array:
    """The nearest numbers of a dtype, ties to even, in float64."""
    values = np.asarray(values)
    if values.dtype.kind in "iu" or dtype == "float64":
        return values
    if dtype == "bfloat16":
        fraction, exponent = np.frexp(values.astype(np.float64))
        near = np.ldexp(np.rint(fraction * 256) / 256, exponent)
        return np.where(np.isfinite(values), near, values)
    with np.errstate(over="ignore"):
        return values.astype(dtype).astype(np.float64)


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    """Standard normal numbers that the dtype holds exactly."""
    return rounded(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def whole(*shape: int, seed: int = 0, low: int = -9, high: int = 10) -> Array:
    """Whole numbers, with ties among them."""
    drawn = np.random.default_rng([seed, *shape]).integers(low, high, shape)
    return drawn.astype(np.float64)


def distinct(*shape: int, seed: int = 0) -> Array:
    """Each whole number once, in random order: no ties."""
    count = math.prod(shape)
    return np.random.default_rng([seed, *shape]).permutation(count).reshape(shape) * 1.0


def json_of(value: Any) -> Any:
    """A tensor as JSON takes it; everything else as it is."""
    if isinstance(value, dict):
        return {name: json_of(item) for name, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        return [json_of(item) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    data = [_number(number) for number in value.ravel().tolist()]
    return {"shape": list(value.shape), "data": data}


def _number(value: float) -> Any:
    if math.isnan(value):
        return "NaN"
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else value


def array_of(value: Any) -> Array:
    """A nested tensor of an answer."""
    return np.array(value, dtype=object).astype(np.float64)
