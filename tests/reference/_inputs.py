"""The product's input data: kinds of inputs and gradients, generated from seeds."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.reference._windows import Array
from tests.reference.precision import FLOATS, rounded

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def generator(*parts: object) -> np.random.Generator:
    """A random generator whose seed depends only on `parts`."""
    return np.random.default_rng(zlib.crc32(repr(parts).encode()))


def _replaced(value: float, share: float) -> Draw:
    """Ordinary numbers, with a share of them, at least one, replaced by `value`."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        x = rng.standard_normal(shape)
        chosen = rng.random(shape) < share
        chosen.flat[rng.integers(x.size)] = True
        return np.where(chosen, value, x)

    return draw


def _infinities(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x = rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.15, np.copysign(np.inf, rng.standard_normal(shape)), x)


def _mixed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """NaN, both infinities, and many -Infinity."""
    choices = np.array([np.nan, np.inf, -np.inf, -np.inf, -np.inf, 0.5])
    return rng.choice(choices, shape)


def _near(mean: float, spread: float) -> Draw:
    return lambda rng, shape: mean + np.round(spread * rng.standard_normal(shape))


INPUTS: Mapping[str, Draw] = {
    "ordinary": lambda rng, shape: rng.standard_normal(shape),
    "ties": lambda rng, shape: rng.integers(-1, 2, shape).astype(np.float64),
    "constant": lambda rng, shape: np.full(shape, 3.3),
    "large mean 1e4": _near(1e4, 3),
    "large mean 1e7": _near(1e7, 4),
    "positive": lambda rng, shape: 0.5 + rng.random(shape),
    "one NaN": _replaced(np.nan, 0.0),
    "several NaN": _replaced(np.nan, 0.5),
    "infinities": _infinities,
    "lowest": lambda rng, shape: np.full(shape, -np.inf),
    "mixed": _mixed,
    "largest": lambda rng, shape: rng.uniform(-1, 1, shape),
    "zeros": lambda rng, shape: np.zeros(shape),
}
FINITE = tuple(
    name for name in INPUTS
    if name not in ("one NaN", "several NaN", "infinities", "lowest", "mixed", "largest")
)  # fmt: skip
INTEGERS: Mapping[str, tuple[int, int]] = {
    "int8": (-128, 127), "uint8": (0, 255), "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}  # fmt: skip
INTEGER_INPUTS = ("lowest", "ties", "ordinary", "highest")
GRADIENTS = ("ones", "dense", "zero", "huge", "tiny")


def numbers(kind: str, shape: tuple[int, ...], dtype: str, *seed: object) -> Array:
    """An input of this kind, representable in the dtype."""
    rng = generator(kind, shape, dtype, *seed)
    if dtype in INTEGERS:
        least, most = INTEGERS[dtype]
        ranges = {
            "lowest": (least, least), "ties": (least, least + 1), "ordinary": (least, most),
            "highest": (most - 1, most),
        }  # fmt: skip
        return rng.integers(*ranges[kind], shape, np.int64, endpoint=True)
    x = INPUTS[kind](rng, shape)
    if kind == "largest":
        x = x * FLOATS[dtype].largest
    if dtype == "float16" and kind == "large mean 1e7":
        x = x / 1e3
    return rounded(x, dtype)


def gradient(kind: str, shape: tuple[int, ...], dtype: str, *seed: object) -> Any:
    """An output gradient of this kind."""
    if kind == "ones":
        return "ones"
    large, small = (1e4, 1e-4) if FLOATS[dtype].largest < 1e5 else (1e30, 1e-30)
    scale = {"dense": 1.0, "zero": 0.0, "huge": large, "tiny": small}[kind]
    return rounded(scale * generator(kind, shape, *seed).standard_normal(shape), dtype)
