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


SUM = f"(4 + n / 4) u, or 4 u where n is above {LONGEST}, of the sum of"
EXACT = Bound(_constant(0), "exact")
ROUNDED = Bound(_constant(0), "correct to its last rounding")
_AVERAGE = {"output": ROUNDED, "gradients.input": ROUNDED}
_MAXIMUM = {
    "output": EXACT,
    "indices": EXACT,
    "gradients.input": Bound(_sum, f"{SUM} |g| over the n windows that chose the element"),
}
_STATISTICS = {
    "mean": Bound(_constant(4), "4 u of the mean of |x|"),
    "var": Bound(_constant(8), "8 u of itself"),
    "inv_std": Bound(_constant(8), "8 u of itself"),
}
_SUMS = {
    "gradients.weight": Bound(lambda n: 24 + _sum(n), f"24 u more than {SUM} |g| (|xhat| + 1)"),
    "gradients.bias": Bound(_sum, f"{SUM} |g|"),
}
_CENTRED = {
    "output": Bound(_constant(24), "24 u of |w| (|xhat| + 1) + |b|"),
    "gradients.input": Bound(
        _constant(24),
        "24 u of (|w g| + (|xhat| + 1) mean(|w g| (|xhat| + 1))) / sqrt(var + eps)",
    ),
    **_SUMS,
    "statistics.mean": _STATISTICS["mean"],
    "statistics.inv_std": _STATISTICS["inv_std"],
}
PIECES = f"(4 + n / 4) u, n at most {LONGEST}, of the sum of"
PLANE = f"(4 + n / 32) u, n at most {LONGEST}, of the sum of"
_BATCH = {
    **{name: bound for name, bound in _CENTRED.items() if "statistics" not in name},
    "gradients.weight": Bound(lambda n: 24 + _plane(n), f"24 u more than {PLANE} |g| (|xhat| + 1)"),
    "gradients.bias": Bound(_plane, f"{PLANE} |g|"),
    "outputs": _CENTRED["output"],
    "gradients.inputs": _CENTRED["gradients.input"],
    "replicas.output": _CENTRED["output"],
    **{
        f"{place}batch_stats.{name}": _STATISTICS[name.removesuffix("_unbiased")]
        for place in ("", "replicas.")
        for name in ("mean", "var", "var_unbiased", "inv_std")
    },
    "running_stats.mean": Bound(_constant(8), "8 u of |old| + share mean(|x|)"),
    "running_stats.var": Bound(_constant(8), "8 u of old + share new"),
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
    "instance_norm": _CENTRED,
    "group_norm": _CENTRED,
    "layer_norm": _CENTRED,
    "rms_norm": {
        "output": Bound(_constant(8), "8 u of itself"),
        "gradients.input": Bound(_constant(16), "16 u of (|w g| + |xhat| mean(|w g xhat|)) / rms"),
        "gradients.weight": Bound(lambda n: 8 + _sum(n), f"8 u more than {SUM} |g xhat|"),
        "statistics.inv_rms": Bound(_constant(8), "8 u of itself"),
    },
    "conv": {
        "output": Bound(_sum, f"{SUM} |w x|, and of |b|"),
        "gradients.input": Bound(_sum, f"{SUM} |g w|"),
        "gradients.weight": Bound(_pieces, f"{PIECES} |g x|"),
        "gradients.bias": Bound(_pieces, f"{PIECES} |g|"),
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
