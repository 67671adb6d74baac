"""Numbers of golden vectors: the same for the same seed on every machine, and short in every dtype.

The bits come from PCG64 by way of SeedSequence, whose streams NumPy keeps stable; the numbers are
made of them here, because NumPy's distributions may change. All are multiples of a power of two
that fit bfloat16's eight bits, so that sums of them are exact in float64, in any order.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from app.codecs import Array
from app.schemas.tensors import DTYPES

MEAN = {"float16": (10_000, 8), "bfloat16": (9_984, 64)}
"""A mean near 10,000 and the distance of the dtype's numbers there; float32 and float64: 1/4."""
FINE_BITS = {"float16": 9, "bfloat16": 6}
"""Two digits less than the dtype has, so that a sum of two or a multiple of three fits."""


class Draw:
    """Numbers for one case, from the set's seed, the layer's and the case's names, and an attempt.

    `dims` is the number of spatial axes of the layer, if it has a fixed one.
    """

    def __init__(
        self, seed: int, names: Sequence[str], attempt: int, dtype: str, dims: int
    ) -> None:
        key = [seed, *(zlib.crc32(name.encode()) for name in names), attempt]
        self._bits = np.random.PCG64(np.random.SeedSequence(key))
        self.dtype = dtype
        self.dims = dims

    @property
    def is_integer(self) -> bool:
        """Whether the set's numbers are integers."""
        return not DTYPES[self.dtype].is_float

    def order(self, count: int) -> Array:
        """A permutation of `range(count)`."""
        return np.argsort(self._bits.random_raw(count), kind="stable")

    def numbers(self, *shape: int) -> Array:
        """Different odd eighths of both signs, in no order; integers for integer dtypes."""
        count = math.prod(shape)
        order = self.order(count)
        if self.is_integer:
            lowest = 0 if self.dtype == "uint8" else -(count // 2)
            return (order % 127 + lowest).reshape(shape)
        return ((2 * (order - count // 2) + 1) / 8).reshape(shape)

    def positive(self, *shape: int) -> Array:
        """Different odd eighths above 0."""
        return ((2 * self.order(math.prod(shape)) + 1) / 8).reshape(shape)

    def small(self, *shape: int, most: int = 15) -> Array:
        """Integers from `-most` to `most` without 0."""
        bits = self._bits.random_raw(math.prod(shape)) >> np.uint64(33)
        drawn = (bits % np.uint64(2 * most)).astype(np.int64)
        return (np.where(drawn < most, drawn - most, drawn - most + 1) / 1.0).reshape(shape)

    def fine(self, *shape: int) -> Array:
        """Numbers from 2 to 4 and their negatives, with nearly all of the digits of a half dtype:
        what is computed from them has more, and is rarely halfway between two numbers.
        """
        half = 1 << FINE_BITS.get(self.dtype, 9) - 2
        bits = (self._bits.random_raw(math.prod(shape)) >> np.uint64(33)).astype(np.int64)
        odd = 2 * half + 2 * (bits % half) + 1
        return (np.where(bits // half % 2, odd, -odd) / half).reshape(shape)

    def spread(self, rows: Sequence[int], length: int, patterns: Array) -> Array:
        """`(*rows, length)`: in each row, a pattern repeated in random order, with random signs of
        each half. Row `i` along the last axis of `rows` has pattern `i` modulo their number.
        """
        found = np.empty((math.prod(rows), length))
        for index in range(len(found)):
            pattern = patterns[index % rows[-1] % len(patterns)]
            repeated = np.tile(pattern, length // len(pattern))
            found[index] = repeated[self.order(length)]
        return found.reshape(*rows, length)

    def around_large_mean(self, *shape: int) -> Array:
        """Numbers a few steps from 10,000."""
        mean, step = MEAN.get(self.dtype, (10_000, 0.25))
        steps = (self._bits.random_raw(math.prod(shape)) >> np.uint64(33)) % np.uint64(8)
        return (mean + step * steps.astype(np.float64)).reshape(shape)
