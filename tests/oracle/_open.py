"""Scenarios that `check` does not find out yet, and why not; each must leave when it does."""

from collections.abc import Mapping

OVERLAP = "overlap-overwritten is not emulated for Lp pooling"
LAYOUT = "faults of the kernel turn a weight in hwio as if it were in oihw"
HALF = "E[x^2] - E[x]^2 is not emulated in half types"
OPEN: Mapping[str, str] = {
    **{f"lp_pool{d}d overlap-overwritten": OVERLAP for d in (1, 2, 3)},
    **{f"conv{d}d {fault} in hwio": LAYOUT
       for d in (1, 2, 3) for fault in ("kernel-flipped", "weight-transposed")},
    "both: flipped, hwio": LAYOUT,
    "layer_norm variance-fast bfloat16": HALF,
    "layer_norm variance-fast float16": HALF,
    "max_pool2d tie-column-major with its indices in ceil mode":
        "tie-column-major is wrong in ceil mode, except where NaN is ignored",
    "LAYERS 1.1: lp pooling scales a partial window":
        "same padding is not tried where the request has ceil_mode",
}  # fmt: skip
