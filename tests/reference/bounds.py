"""The table of error bounds for each result.

u is the unit roundoff of the dtype used for computing: 2^-24 for float32 and the half types, 2^-53
for float64. Everything is rounded once more to the answer's dtype. n is the number of terms.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.reference._requests import Expected
from tests.reference._windows import Array
from tests.reference.precision import DOUBLE, FLOATS, computing


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound of `units(n)` roundings of a result's terms, and a description of the terms."""

    units: Callable[[int], float]
    text: str


LONGEST = 1024
"""Maximum number of terms in a float32 sum; longer sums are in float64 and rounded once."""


def _constant(units: float) -> Callable[[int], float]:
    return lambda n: units


def _sum(n: int) -> float:
    """Worst-case accumulated rounding for numbers of one sign, added one by one."""
    return 4 + n / 4 if n <= LONGEST else 4


def _pieces(n: int) -> float:
    """Same as `_sum`, for pieces that are added up in float64."""
    return 4 + min(n, LONGEST) / 4


def _plane(n: int) -> float:
    """Same as `_sum`, for a plane's values or a piece of them, in eight or more vector lanes."""
    return 4 + min(n, LONGEST) / 32


EXACT = Bound(_constant(0), "exact")
ROUNDED = Bound(_constant(0), "correct up to the final rounding")
RELATIVE = Bound(_constant(8), "relative error 8 u")
_AVERAGE = {"output": ROUNDED, "gradients.input": ROUNDED}


def _sum_of(terms: str, base: int = 4) -> Bound:
    return Bound(
        lambda n: base - 4 + _sum(n),
        f"({base} + n / 4) u sum({terms}), or {base} u sum({terms}) if n > {LONGEST}",
    )


def _pieces_of(terms: str) -> Bound:
    return Bound(_pieces, f"(4 + min(n, {LONGEST}) / 4) u sum({terms})")


def _plane_of(terms: str, base: int = 4) -> Bound:
    return Bound(
        lambda n: base - 4 + _plane(n), f"({base} + min(n, {LONGEST}) / 32) u sum({terms})"
    )


def _with(bound: Bound, remark: str) -> Bound:
    return Bound(bound.units, f"{bound.text}; {remark}")


_MAXIMUM = {
    "output": EXACT,
    "indices": EXACT,
    "gradients.input": _with(
        _sum_of("|g|"), "n is the number of windows that selected the element"
    ),
}
_MEAN = Bound(_constant(4), "4 u mean(|x|)")
_SCALED = "|g| (|xhat| + 1)"
_CENTERED = {
    "output": Bound(_constant(24), "24 u (|w| (|xhat| + 1) + |b|)"),
    "gradients.input": Bound(
        _constant(24),
        "24 u (|w g| + (|xhat| + 1) mean(|w g| (|xhat| + 1))) / sqrt(var + eps)",
    ),
    "gradients.weight": _sum_of(_SCALED, 28),
    "gradients.bias": _sum_of("|g|"),
    "statistics.mean": _MEAN,
    "statistics.inv_std": RELATIVE,
}
_BATCH = {
    **{name: bound for name, bound in _CENTERED.items() if "statistics" not in name},
    "gradients.weight": _plane_of(_SCALED, 28),
    "gradients.bias": _plane_of("|g|"),
    "outputs": _CENTERED["output"],
    "gradients.inputs": _CENTERED["gradients.input"],
    "replicas.output": _CENTERED["output"],
    **{
        f"{place}batch_stats.{name}": _MEAN if name == "mean" else RELATIVE
        for place in ("", "replicas.")
        for name in ("mean", "var", "var_unbiased", "inv_std")
    },
    "running_stats.mean": Bound(
        _constant(8),
        "8 u (|old| + m mean(|x|)), where old is the previous value and m the weight of the batch",
    ),
    "running_stats.var": Bound(
        _constant(8),
        "8 u (old + m new), where new is the variance of the batch",
    ),
    "running_stats.num_batches_tracked": EXACT,
}
BOUNDS: Mapping[str, Mapping[str, Bound]] = {
    "max_pool": _MAXIMUM,
    "adaptive_max_pool": _MAXIMUM,
    "global_max_pool": _MAXIMUM,
    "avg_pool": _AVERAGE,
    "adaptive_avg_pool": _AVERAGE,
    "global_avg_pool": _AVERAGE,
    "lp_pool": _AVERAGE,
    "max_unpool": {"output": EXACT, "gradients.input": EXACT},
    "relu": {"output": EXACT, "gradients.input": EXACT},
    "batch_norm": _BATCH,
    "sync_batch_norm": _BATCH,
    "instance_norm": _CENTERED,
    "group_norm": _CENTERED,
    "layer_norm": _CENTERED,
    "rms_norm": {
        "output": RELATIVE,
        "gradients.input": Bound(_constant(16), "16 u (|w g| + |xhat| mean(|w g xhat|)) / rms"),
        "gradients.weight": _sum_of("|g xhat|", 12),
        "statistics.inv_rms": RELATIVE,
    },
    "conv": {
        "output": _with(_sum_of("|w x|"), "the sum includes |b|"),
        "gradients.input": _sum_of("|g w|"),
        "gradients.weight": _pieces_of("|g x|"),
        "gradients.bias": _pieces_of("|g|"),
    },
}


def result_of(name: str) -> str:
    """A result's name without the indices of tensors in lists."""
    return re.sub(r"\.\d+(?=\.|$)", "", name)


def tolerances(family: str, name: str, right: Expected, dtype: str) -> Array:
    """The allowed error of each element, not counting its last rounding.

    Includes n roundings in float64, for the reference itself and for float64 sums.
    """
    bound, kind = BOUNDS[family][result_of(name)], computing(dtype)
    units = bound.units(right.count) * kind.unit + (right.count + 16) * DOUBLE.unit
    underflow = (right.count + 1) * kind.granule
    slack: Array = units * right.terms + (right.terms != 0) * underflow
    return slack


def last_rounding(right: Expected, dtype: str) -> Array:
    """The maximum error of each element from rounding to the answer's dtype."""
    kind = FLOATS[dtype]
    rounding: Array = kind.unit * abs(right.value) + kind.granule / 2
    return rounding
