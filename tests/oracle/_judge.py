"""Which hypotheses explain a client's numbers, by the clients' own arithmetic."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.oracle._request import Body, Request
from tests.oracle._scenario import Scenario, apart, entry
from tests.oracle.client import NoAnswer, results

AGREES, DIFFERS = 0.3, 3.0
"""Below the first, in units of the tolerance, numbers agree; above the second they do not."""
POOLS = ("max_pool", "avg_pool", "lp_pool")
CHOICES: Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "max_pool": (("tie", ("first", "split", "all")), ("nan", ("propagate", "ignore")),
                 ("index_base", ("plane", "onnx", "tf")), ("empty_window", ("zero", "lowest"))),
    "avg_pool": (("count_include_pad", (True, False)), ("divisor_override", (None,)),
                 ("overhang_divisor", ("inside", "kernel"))),
    "lp_pool": (("lp_abs", (True, False)), ("lp_partial", ("scaled", "sum"))),
    "batch_norm": (("momentum", (0.1, 0.9, 0.99, None)),
                   ("momentum_weights", ("batch", "running")),
                   ("running_var_estimator", ("unbiased", "biased")), ("eps", (1e-5, 1e-3))),
    "instance_norm": (("eps", (1e-5, 1e-3, 1e-6)),),
    "group_norm": (("eps", (1e-5, 1e-3, 1e-6)),),
    "layer_norm": (("eps", (1e-5, 1e-3, 1e-6)),),
    "rms_norm": (("eps", (1e-5, 1e-6)), ("weight_offset", (0, 1))),
    "conv": (("weight_layout", ("oihw", "hwio")),),
    "global_max_pool": (("keepdims", (True, False)),),
    "global_avg_pool": (("keepdims", (True, False)),),
}  # fmt: skip
WINDOWS = (
    ("ceil_mode", (True, False)), ("ceil_rule", ("drop", "keep")),
    ("padding", ("valid", "same_upper", "same_lower")), ("stride", (None, 1)),
)  # fmt: skip
FAULTS: Mapping[str, tuple[str, ...]] = {
    "max_pool": ("zero-padded-maximum", "dilation-ignored", "begin-padding-dropped",
                 "nan-if-first", "tie-last", "tie-column-major", "overlap-overwritten",
                 "axes-swapped", "index-from-one", "loss-mean"),
    "avg_pool": ("end-padding-dropped", "end-padding-as-begin", "begin-padding-dropped",
                 "dilation-ignored", "edge-replicated", "overlap-overwritten",
                 "gradient-undivided", "gradient-over-kernel", "axes-swapped", "loss-mean"),
    "adaptive_avg_pool": ("adaptive-end-floored", "adaptive-fixed-stride",
                          "overlap-overwritten", "gradient-undivided", "loss-mean"),
    "adaptive_max_pool": ("adaptive-end-floored", "adaptive-fixed-stride", "tie-last",
                          "overlap-overwritten", "loss-mean"),
    "batch_norm": ("eps-outside-root", "eps-as-floor", "eps-missing", "running-std",
                   "running-not-updated", "running-updated-twice", "statistics-held-constant",
                   "mean-term-missing", "variance-term-missing", "loss-mean"),
    "group_norm": ("eps-outside-root", "eps-as-floor", "eps-missing", "groups-interleaved",
                   "statistics-held-constant", "mean-term-missing", "variance-term-missing",
                   "loss-mean"),
    "layer_norm": ("eps-outside-root", "eps-as-floor", "eps-missing", "variance-unbiased-output",
                   "statistics-held-constant", "mean-term-missing", "variance-term-missing",
                   "loss-mean"),
    "conv": ("kernel-flipped", "weight-transposed", "dilation-ignored", "loss-mean"),
}  # fmt: skip


def options_of(row: Scenario) -> Iterator[Body]:
    """Each option of the layer at each other value."""
    request = Request(row.layer, row.body)
    family = request.family
    listed = (*CHOICES.get(family, ()), *(WINDOWS if family in POOLS else ()))
    for name, values in listed:
        for value in values:
            if name == "ceil_rule" and not request("ceil_mode"):
                continue
            if name == "index_base" and not request("return_indices"):
                continue
            if name == "empty_window" and "empty_window" not in row.body:
                continue
            yield {name: value}


def agreeing(row: Scenario, choices: Iterable[Body]) -> list[Body]:
    """Those that give the client's numbers, beyond doubt."""
    request, found = Request(row.layer, row.body), []
    for options in choices:
        name, value = next(iter(options.items()))
        used = request(name)
        if entry(row, {name: used}, None) == entry(row, {name: value}, None):
            continue
        if _distance(row, options, None) <= AGREES:
            found.append(options)
    return found


def faults_of(row: Scenario) -> list[str]:
    """The faults that give the client's numbers, beyond doubt."""
    family = Request(row.layer, row.body).family
    return [f for f in FAULTS.get(family, ()) if _distance(row, {}, f) <= AGREES]


READINGS: Mapping[str, tuple[str, ...]] = {
    "dilation-ignored": ("for the size alone",),
    "axes-swapped": ("with the kernel",),
    "variance-unbiased-output": ("eps outside",),
}
"""Names that stand for several ways to do it."""


def distance(row: Scenario, options: Body, fault: str | None) -> float:
    """How far a hypothesis is from the client's numbers, in the nearest of its readings."""
    others = [f"{fault}:{reading}" for reading in READINGS.get(fault or "", ())]
    return min(_distance(row, options, reading) for reading in (fault, *others))


def _distance(row: Scenario, options: Body, fault: str | None) -> float:
    try:
        return apart(row, results(row.layer, row.body, options, fault))
    except (NoAnswer, ValueError, AssertionError, IndexError):
        return float("inf")
