"""Measures the service's errors as a fraction of what `bounds.py` allows.

`python -m tests.reference.accuracy` prints the largest error of each layer and result as a Markdown
table, not counting the last rounding. `--full` measures the longer sums, and `--units` prints
errors in roundings of the terms.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from app.compute import Engine
from app.layers import LayerSpec
from app.settings import Settings
from tests.reference._cases import Case
from tests.reference._long import long_cases
from tests.reference._requests import Expected
from tests.reference._windows import Array
from tests.reference.bounds import BOUNDS, last_rounding, result_of
from tests.reference.comparison import worst_ratio
from tests.reference.layers import LAYERS, expected, family_of
from tests.reference.precision import computing
from tests.reference.service import ask


@dataclass(frozen=True, slots=True)
class Measured:
    """One result of one answer: its largest error, and the number of terms."""

    case: Case
    name: str
    ratio: float
    units: float
    count: int


def measured(
    engine: Engine, layer: str, *, full: bool, planted: LayerSpec | None = None
) -> Iterator[Measured]:
    """Measure every result of every request with long sums to a layer."""
    for case in long_cases(layer, full=full):
        answer = ask(engine, layer, case.body, planted)
        yield from _of(case, expected(layer, case.body), answer)


def _of(
    case: Case, right: Mapping[str, Expected], answer: Mapping[str, Array]
) -> Iterator[Measured]:
    family = family_of(case.layer)
    for name, found in right.items():
        got = answer[name]
        ratio = worst_ratio(family, name, found, got, case.dtype)
        yield Measured(case, name, ratio, _units(found, got, case.dtype), found.count)


def _units(right: Expected, got: Array, dtype: str) -> float:
    """The largest error, in roundings of the terms."""
    if got.dtype.kind in "iu":
        return 0.0
    error = np.abs(right.value - got) - last_rounding(right, dtype)
    terms = computing(dtype).unit * right.terms
    over = np.isfinite(error) & (error > 0)
    return float((error[over] / terms[over]).max()) if over.any() and terms[over].all() else 0.0


def rows(engine: Engine, *, full: bool, units: bool) -> Iterator[str]:
    """The lines of the table."""
    yield "| layer | result | bound | worst share of it | terms |"
    yield "|---|---|---|---|---|"
    for layer in LAYERS:
        worst: dict[str, Measured] = {}
        for one in measured(engine, layer, full=full):
            name = result_of(one.name)
            key = one.units if units else one.ratio
            if name not in worst or key > (worst[name].units if units else worst[name].ratio):
                worst[name] = one
        for name, one in worst.items():
            bound = BOUNDS[family_of(layer)][name].text.replace("|", "\\|")
            share = one.units if units else one.ratio
            yield f"| `{layer}` | `{name}` | {bound} | {share:.2f} | {one.count} |"


if __name__ == "__main__":
    cpu = Engine("cpu", Settings().limits)
    for line in rows(cpu, full="--full" in sys.argv, units="--units" in sys.argv):
        print(line)
