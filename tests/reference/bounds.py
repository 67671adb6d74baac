"""How accurate each result is, at least: the one table of it.

u is the unit roundoff of what is computed in: 2^-24 in float32 and the half types, 2^-53 in
float64. Everything is rounded once more to the dtype of the answer. n is the number of terms.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.reference._requests import Expected
from tests.reference._windows import Array
from tests.reference.precision import DOUBLE, FLOATS, computing


@dataclass(frozen=True, slots=True)
class Bound:
    """`units(n)` roundings of a result's terms, and in words what its terms are."""

    units: Callable[[int], float]
    text: str


LONGEST = 1024
"""Most terms of a sum in float32; longer ones are in float64, and rounded once."""


def _constant(units: float) -> Callable[[int], float]:
    return lambda n: units


def _sum(n: int) -> float:
    """Numbers of one sign, added one by one: what rounding adds up to, at worst."""
    return 4 + n / 4 if n <= LONGEST else 4


def _pieces(n: int) -> float:
    """The same in pieces, which are summed in float64."""
    return 4 + min(n, LONGEST) / 4


def _plane(n: int) -> float:
    """The same in eight lanes and more, of a plane's values or a piece of them."""
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
    """A result's name without the numbers that count tensors."""
    return re.sub(r"\.\d+(?=\.|$)", "", name)


def tolerances(family: str, name: str, right: Expected, dtype: str) -> Array:
    """How far each element may be off, its last rounding left out.

    That of the reference itself, and of sums in float64, is n roundings of float64.
    """
    bound, kind = BOUNDS[family][result_of(name)], computing(dtype)
    units = bound.units(right.count) * kind.unit + (right.count + 16) * DOUBLE.unit
    underflow = (right.count + 1) * kind.granule
    slack: Array = units * right.terms + (right.terms != 0) * underflow
    return slack


def last_rounding(right: Expected, dtype: str) -> Array:
    """The most that rounding to the dtype of the answer moves each element."""
    kind = FLOATS[dtype]
    rounding: Array = kind.unit * abs(right.value) + kind.granule / 2
    return rounding
