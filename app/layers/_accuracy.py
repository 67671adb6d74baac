"""Upper bounds on the error of each result, as text; `tests/reference/bounds.py` enforces them.

`docs/layers.md` prints them and explains their symbols.
"""

from collections.abc import Mapping

from app.layers._precision import LONGEST_SUM

Accuracy = Mapping[str, str]
EXACT = "exact"
ROUNDED = "correct up to the final rounding"


def _sum(terms: str, base: int = 4) -> str:
    """The bound of a sum that is computed in float64 if it is long."""
    longer = f"{base} u sum({terms}) if n > {LONGEST_SUM}"
    return f"({base} + n / 4) u sum({terms}), or {longer}"


def _pieces(terms: str) -> str:
    """The bound of a sum whose pieces are added in float64."""
    return f"(4 + min(n, {LONGEST_SUM}) / 4) u sum({terms})"


def _plane(terms: str, base: int = 4) -> str:
    """The same, with each piece added in eight or more vector lanes."""
    return f"({base} + min(n, {LONGEST_SUM}) / 32) u sum({terms})"


AVERAGE: Accuracy = {"output": ROUNDED, "gradients.input": ROUNDED}
MAXIMUM: Accuracy = {
    "output": EXACT,
    "indices": EXACT,
    "gradients.input": f"{_sum('|g|')}; n is the number of windows that selected the element",
}
SELECTION: Accuracy = {"output": EXACT, "gradients.input": EXACT}
CONVOLUTION: Accuracy = {
    "output": f"{_sum('|w x|')}; the sum includes |b|",
    "gradients.input": _sum("|g w|"),
    "gradients.weight": _pieces("|g x|"),
    "gradients.bias": _pieces("|g|"),
}
MEAN, RELATIVE = "4 u mean(|x|)", "relative error 8 u"
_XHAT = "|g| (|xhat| + 1)"
_NORM: Accuracy = {
    "output": "24 u (|w| (|xhat| + 1) + |b|)",
    "gradients.input": "24 u (|w g| + (|xhat| + 1) mean(|w g| (|xhat| + 1))) / sqrt(var + eps)",
    "gradients.weight": _sum(_XHAT, 28),
    "gradients.bias": _sum("|g|"),
}
SAMPLE_NORM: Accuracy = {**_NORM, "statistics.mean": MEAN, "statistics.inv_std": RELATIVE}
BATCH_NORM: Accuracy = {
    **_NORM,
    "gradients.weight": _plane(_XHAT, 28),
    "gradients.bias": _plane("|g|"),
    "batch_stats.mean": MEAN,
    "batch_stats.var": RELATIVE,
    "batch_stats.var_unbiased": RELATIVE,
    "batch_stats.inv_std": RELATIVE,
    "running_stats.mean": (
        "8 u (|old| + m mean(|x|)), where old is the previous value and m the weight of the batch"
    ),
    "running_stats.var": "8 u (old + m new), where new is the variance of the batch",
    "running_stats.num_batches_tracked": EXACT,
}
SYNC_BATCH_NORM: Accuracy = {
    **{
        name: text for name, text in BATCH_NORM.items() if name not in ("output", "gradients.input")
    },
    "outputs": _NORM["output"],
    "gradients.inputs": _NORM["gradients.input"],
    "replicas.output": _NORM["output"],
    **{f"replicas.{n}": text for n, text in BATCH_NORM.items() if n.startswith("batch_stats")},
}
RMS_NORM: Accuracy = {
    "output": RELATIVE,
    "gradients.input": "16 u (|w g| + |xhat| mean(|w g xhat|)) / rms",
    "gradients.weight": _sum("|g xhat|", 12),
    "statistics.inv_rms": RELATIVE,
}
