"""Whether a client's numbers are those of the reference, element by element."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from app.compute._tensors import TORCH_DTYPES
from app.schemas.tensors import DTYPES, TensorPayload

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]


class Bound(NamedTuple):
    """Elements match within `atol + rtol * |reference|`, or within `ulp` units in the last place.
    `atol` is a number, or an array that broadcasts to the tensor's shape.
    """

    rtol: float
    atol: Any
    ulp: int = 0


class Sent(NamedTuple):
    """A tensor, and its elements as float64, or as int64 if its dtype is one of integers."""

    payload: TensorPayload
    numbers: Array

    @property
    def is_float(self) -> bool:
        """Whether rounding can make a difference."""
        return DTYPES[self.payload.dtype].is_float


def sent(payload: TensorPayload) -> Sent:
    """A payload's elements in a type that holds them exactly."""
    if 0 in payload.shape:
        return Sent(payload, np.zeros(payload.shape))
    elements = torch.frombuffer(payload.data, dtype=TORCH_DTYPES[payload.dtype])
    wide = elements.double() if DTYPES[payload.dtype].is_float else elements.long()
    numbers: Any = wide.view(payload.shape).numpy()
    return Sent(payload, numbers)


def same(ours: Sent, reference: Sent) -> Flags:
    """Which elements are equal: NaN equals NaN, and -0.0 equals 0.0."""
    a, b = ours.numbers, reference.numbers
    equal: Flags = a == b
    if ours.is_float:
        equal |= np.isnan(a) & np.isnan(b)
    return equal


def matches(ours: Sent, reference: Sent, bound: Bound) -> Flags:
    """Which elements match; the tensors have the same shape. Integers match if they are equal."""
    found = same(ours, reference)
    if not ours.is_float or found.all():
        return found
    a, b = ours.numbers, reference.numbers
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(invalid="ignore", over="ignore"):
        found |= finite & (np.abs(a - b) <= bound.atol + bound.rtol * np.abs(b))
    if bound.ulp:
        found |= finite & (units_apart(ours, reference) <= bound.ulp)
    return found


def units_apart(ours: Sent, reference: Sent) -> npt.NDArray[np.uint64]:
    """How many numbers of the dtype lie between two, plus one: units in the last place."""
    a, b = _ordered(ours.payload), _ordered(reference.payload)
    distance: npt.NDArray[np.uint64] = np.maximum(a, b) - np.minimum(a, b)
    return distance


def _ordered(payload: TensorPayload) -> npt.NDArray[np.uint64]:
    """Each number's place among all of its dtype; both zeros have the same."""
    bits = DTYPES[payload.dtype].bits
    raw = np.frombuffer(payload.data, f"<u{bits // 8}").astype(np.uint64).reshape(payload.shape)
    sign = np.uint64(1 << (bits - 1))
    size = raw & ~sign
    return np.where(raw & sign, sign - size, sign + size)


class Errors(NamedTuple):
    """The largest differences of two tensors; NaN if a NaN stands in only one of them."""

    absolute: float
    relative: float
    ulp: int


def errors(ours: Sent, reference: Sent) -> Errors:
    """The largest differences; a relative one to 0 is infinite."""
    if not ours.numbers.size:
        return Errors(0.0, 0.0, 0)
    equal = same(ours, reference)
    apart = distances(ours, reference)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        relative = np.where(equal, 0.0, apart / np.abs(reference.numbers.astype(np.float64)))
    finite = ~equal & np.isfinite(apart)
    units = 0
    if ours.is_float and finite.any():
        units = int(units_apart(ours, reference)[finite].max())
    elif finite.any():
        units = int(apart[finite].max())
    return Errors(float(apart.max()), float(relative.max()), units)


def distances(ours: Sent, reference: Sent) -> npt.NDArray[np.float64]:
    """The difference of each element: 0 where they are equal, NaN where one of them is NaN."""
    a, b = ours.numbers.astype(np.float64), reference.numbers.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart: npt.NDArray[np.float64] = np.where(same(ours, reference), 0.0, np.abs(a - b))
    return apart


def differ_in_sign_of_zero(ours: Sent, reference: Sent) -> int:
    """How many zeros have the other sign."""
    if not ours.is_float:
        return 0
    a, b = ours.numbers, reference.numbers
    return int(((a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))).sum())


def shortest(number: float, dtype: str) -> float | str:
    """The shortest decimal that reads back as this number of the dtype, or the name of one that is
    not finite.
    """
    if not math.isfinite(number):
        return "NaN" if number != number else ("Infinity" if number > 0 else "-Infinity")
    for digits in range(1, 17):
        decimal = float(f"{number:.{digits}g}")
        if torch.tensor(decimal, dtype=TORCH_DTYPES[dtype]).item() == number:
            return decimal
    return number
