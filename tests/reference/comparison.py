"""Comparison of an answer with the correct results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tests.reference._requests import Expected
from tests.reference._windows import Array
from tests.reference.bounds import last_rounding, tolerances
from tests.reference.precision import rounded


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where an answer is wrong."""

    name: str
    index: tuple[int, ...]
    expected: float
    got: float
    wrong: int

    def __str__(self) -> str:
        return (
            f"{self.name}{list(self.index)}: expected {self.expected!r}, got {self.got!r} "
            f"({self.wrong} elements)"
        )


def differences(
    family: str, right: Mapping[str, Expected], answer: Mapping[str, Array], dtype: str
) -> Iterator[Difference]:
    """One for each result that is missing, unexpected, of another shape, or too far off."""
    for name in sorted(right.keys() ^ answer.keys()):
        yield Difference(f"{name} {'missing' if name in right else 'too much'}", (), 0, 0, 0)
    for name in sorted(right.keys() & answer.keys()):
        expected, got = right[name], answer[name]
        if expected.value.shape != got.shape:
            shapes = f"{name}: {list(expected.value.shape)} is not {list(got.shape)}"
            yield Difference(shapes, (), 0, 0, 0)
            continue
        wrong = ~_agrees(family, name, expected, got, dtype)
        if wrong.any():
            index = tuple(int(at) for at in np.argwhere(wrong)[0])
            numbers = (float(expected.value[index]), float(got[index]))
            yield Difference(name, index, *numbers, int(wrong.sum()))


def _agrees(family: str, name: str, right: Expected, got: Array, dtype: str) -> Array:
    """Which elements lie between the smallest and largest acceptable numbers."""
    value: Array = right.value
    if got.dtype.kind in "iu":
        same: Array = value == got
        return same
    with np.errstate(all="ignore"):
        slack = tolerances(family, name, right, dtype)
        least, most = (rounded(value + side * slack, dtype) for side in (-1.0, 1.0))
        within = (least <= got) & (got <= most)
    return np.where(np.isfinite(value), within, (value == got) | (np.isnan(value) & np.isnan(got)))


def worst_ratio(family: str, name: str, right: Expected, got: Array, dtype: str) -> float:
    """The largest error as a fraction of the bound, not counting the last rounding."""
    if got.dtype.kind in "iu":
        return float((right.value != got).any())
    error = np.abs(right.value - got) - last_rounding(right, dtype)
    over = np.isfinite(error) & (error > 0)
    if not over.any():
        return 0.0
    with np.errstate(divide="ignore"):
        return float((error[over] / tolerances(family, name, right, dtype)[over]).max())
