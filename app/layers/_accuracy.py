"""How far each result may be from the exact one, in words; enforced by `tests/reference/bounds.py`.

u is the unit roundoff of the dtype used for computing, and n is the number of terms in a sum.
"""

from collections.abc import Mapping

from app.layers._precision import LONGEST_SUM

Accuracy = Mapping[str, str]
EXACT = "exact"
ROUNDED = "correct to its last rounding"
SUM = f"(4 + n / 4) u, or 4 u where n is above {LONGEST_SUM}, of the sum of"
PIECES = f"(4 + n / 4) u, n at most {LONGEST_SUM}, of the sum of"

AVERAGE: Accuracy = {"output": ROUNDED, "gradients.input": ROUNDED}
MAXIMUM: Accuracy = {
    "output": EXACT,
    "indices": EXACT,
    "gradients.input": f"{SUM} |g| over the n windows that chose the element",
}
SELECTION: Accuracy = {"output": EXACT, "gradients.input": EXACT}
CONVOLUTION: Accuracy = {
    "output": f"{SUM} |w x|, and of |b|",
    "gradients.input": f"{SUM} |g w|",
    "gradients.weight": f"{PIECES} |g x|",
    "gradients.bias": f"{PIECES} |g|",
}
MEAN, SPREAD = "4 u of the mean of |x|", "8 u of itself"
_NORM: Accuracy = {
    "output": "24 u of |w| (|xhat| + 1) + |b|",
    "gradients.input": "24 u of (|w g| + (|xhat| + 1) mean(|w g| (|xhat| + 1))) / sqrt(var + eps)",
    "gradients.weight": f"24 u more than {SUM} |g| (|xhat| + 1)",
    "gradients.bias": f"{SUM} |g|",
}
SAMPLE_NORM: Accuracy = {**_NORM, "statistics.mean": MEAN, "statistics.inv_std": SPREAD}
PLANE = f"(4 + n / 32) u, n at most {LONGEST_SUM}, of the sum of"
BATCH_NORM: Accuracy = {
    **_NORM,
    "gradients.weight": f"24 u more than {PLANE} |g| (|xhat| + 1)",
    "gradients.bias": f"{PLANE} |g|",
    "batch_stats.mean": MEAN,
    "batch_stats.var": SPREAD,
    "batch_stats.var_unbiased": SPREAD,
    "batch_stats.inv_std": SPREAD,
    "running_stats.mean": "8 u of |old| + share mean(|x|)",
    "running_stats.var": "8 u of old + share new",
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
    "output": SPREAD,
    "gradients.input": "16 u of (|w g| + |xhat| mean(|w g xhat|)) / rms",
    "gradients.weight": f"8 u more than {SUM} |g xhat|",
    "statistics.inv_rms": SPREAD,
}
