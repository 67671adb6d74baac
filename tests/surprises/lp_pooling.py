"""Powers and their sums in Lp pools: rows 9, 10, 46 and 47."""

import math

from tests.surprises.checks import NAN, Answers, Refuses, Surprise

PARTIAL = {"input": [[[1, 2, 5]]], "kernel_size": 2, "ceil_mode": True}
TO_THE_POWER = (1 + 2**1.5) ** (1 / 1.5)
"""The norm of (1, 2) for p = 1.5; its gradient is x**0.5 / its square root."""

ROWS = (
    Surprise(
        9,
        "`F.lp_pool1d([[[1, 2, 5]]], 1, 2, ceil_mode=True)`",
        "The last window contains only the 5, and its sum is scaled up to a full window: 10.",
        'The same under the torch convention; `lp_partial: "sum"` gives the true norm, 5.',
        (
            Answers("lp_pool1d", {**PARTIAL, "norm_type": 1, "grad_output": "ones"},
                    {"output": [[[3, 10]]], "gradients.input": [[[1, 1, 2]]]}, within=1e-5),
            Answers("lp_pool1d", {**PARTIAL, "norm_type": 1, "lp_partial": "sum",
                    "grad_output": "ones"},
                    {"output": [[[3, 5]]], "gradients.input": [[[1, 1, 1]]]}, within=1e-5),
            Answers("lp_pool1d", {**PARTIAL, "norm_type": 2},
                    {"output": [[[math.sqrt(5), math.sqrt(50)]]]}, within=1e-5),
            Answers("lp_pool1d", {**PARTIAL, "norm_type": 2, "lp_partial": "sum"},
                    {"output": [[[math.sqrt(5), 5]]]}, within=1e-5),
        ),
    ),
    Surprise(
        10,
        "`F.lp_pool1d` of negative numbers with an odd or fractional p; p=0; p=-1",
        "Does not take absolute values: (3, -4) with p=1 gives -1, and (-1, -2) with p=3 gives "
        "NaN. p=0 raises ZeroDivisionError; p=-1 is accepted.",
        "The same under the torch convention; `lp_abs: true` gives the norm. `norm_type` must be "
        "greater than 0.",
        (
            Answers("lp_pool1d", {"input": [[[3, -4]]], "norm_type": 1, "kernel_size": 2},
                    {"output": [[[-1]]]}),
            Answers("lp_pool1d", {"input": [[[3, -4]]], "norm_type": 1, "kernel_size": 2,
                    "lp_abs": True, "grad_output": "ones"},
                    {"output": [[[7]]], "gradients.input": [[[1, -1]]]}),
            Answers("lp_pool1d", {"input": [[[-1, -2]]], "norm_type": 3, "kernel_size": 2},
                    {"output": [[[NAN]]]}),
            Answers("lp_pool1d", {"input": [[[-1, -2]]], "norm_type": 3, "kernel_size": 2,
                    "lp_abs": True}, {"output": [[[9 ** (1 / 3)]]]}, within=1e-6),
            Answers("lp_pool1d", {"input": [[[-1, 2]]], "norm_type": 1.5, "kernel_size": 2,
                    "lp_abs": True}, {"output": [[[(1 + 2**1.5) ** (1 / 1.5)]]]}, within=1e-5),
            *(Refuses("lp_pool1d", {"input": [[[1, 2]]], "norm_type": p, "kernel_size": 2},
                      "#/norm_type") for p in (0, -1, "NaN")),
        ),
    ),
    Surprise(
        46,
        "`F.lp_pool1d([[[1, 2, -3]]], 1.5, 2)` and its gradient",
        "No window contains the -3, but its gradient is NaN: 0 times a fractional power of a "
        "negative number.",
        "An element outside every window gets gradient 0.",
        tuple(
            Answers("lp_pool1d", {"input": [[[1, 2, unseen]]], "norm_type": 1.5, "kernel_size": 2,
                    "grad_output": "ones"},
                    {"output": [[[TO_THE_POWER]]],
                     "gradients.input": [[[TO_THE_POWER**-0.5, (2 / TO_THE_POWER) ** 0.5, 0]]]},
                    within=1e-6)
            for unseen in (-3, "NaN", "-Infinity")
        ),
    ),
    Surprise(
        47,
        "`F.lp_pool1d(x, 2, 2)` of float32 [[[1e20, 1e20]]]; of [[[1e-30, 1e-30]]]",
        "Infinity instead of 1.414e20, and 0 instead of 1.414e-30: the squares overflow and "
        "underflow.",
        "Computes the powers in float64.",
        tuple(
            Answers("lp_pool1d", {"input": [[[scale, scale]]], "norm_type": 2, "kernel_size": 2},
                    {"output": [[[math.sqrt(2) * scale]]]}, within=1e-6 * scale)
            for scale in (1e20, 1e-30)
        ),
    ),
)  # fmt: skip
