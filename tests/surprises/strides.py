"""Torch's kernels for channels-last strides in memory: rows 39 to 42.

Lamina's `layout: "channels_last"` is the order of a tensor's axes as it is sent; torch is given
contiguous tensors, whatever the layout.
"""

from collections.abc import Sequence
from operator import mul
from typing import Any

import torch

from tests.surprises.checks import (
    FLOAT32_3_3,
    INF,
    LAYOUTS,
    Answers,
    Surprise,
    constant,
    norm_gradient,
    normalised,
)


def in_layout(channels: Sequence[Any], layout: str) -> list[Any]:
    """Channels of one row of positions, as an image of height 1 in the layout."""
    if layout == "channels_first":
        return [[row] for row in channels]
    return [list(map(list, zip(*channels, strict=True)))]


VALUES, GRADS = [[1, 3, 4], [2, 5, 9]], [[1, 2, 0], [0, 1, 3]]
BY_CHANNEL = tuple(zip(VALUES, GRADS, strict=True))
OUTPUTS = [normalised(values) for values in VALUES]
THOUSANDS = [[10000, 10001], [10002, 10003]]
CENTRED = normalised([0, 1, 2, 3])
LOWEST = (("uint8", 0, 0), ("int8", -128, -128), ("float32", "-Infinity", -INF))
"""A dtype, its lowest value as it is sent, and as a number."""

ROWS = (
    Surprise(
        39,
        "F.instance_norm of one sample, where the incoming gradient has channels-last strides",
        "The output is right; the gradients of input, weight and bias are wrong: 0.286, -0.859 "
        "and 0.573 instead of -0.286, 0.859 and -0.573.",
        "Right in both layouts.",
        tuple(
            Answers("instance_norm", {"input": [in_layout(VALUES, layout)], "weight": [1, 1],
                    "bias": [0, 0], "grad_output": [in_layout(GRADS, layout)], "layout": layout,
                    "dtype": dtype},
                    {"output": [in_layout(OUTPUTS, layout)],
                     "gradients.input": [in_layout([norm_gradient(values, grads)
                                                    for values, grads in BY_CHANNEL], layout)],
                     "gradients.weight": [sum(map(mul, grads, outputs))
                                          for grads, outputs in zip(GRADS, OUTPUTS, strict=True)],
                     "gradients.bias": [3, 4]}, within=1e-6)
            for layout in LAYOUTS for dtype in ("float32", "float64")
        ),
    ),
    Surprise(
        40,
        "F.group_norm of float32 (10000, 10001, 10002, 10003) with channels-last strides",
        "The variance is E[x^2] - E[x]^2, which cancels: -474, -158, 158 and 474 instead of "
        "-1.342, -0.447, 0.447 and 1.342.",
        "Right in both layouts: the variance is centred.",
        tuple(
            Answers("group_norm", {"input": [in_layout(THOUSANDS, layout)], "num_groups": 1,
                    "layout": layout},
                    {"output": [in_layout([CENTRED[:2], CENTRED[2:]], layout)]}, within=1e-6)
            for layout in LAYOUTS
        ),
    ),
    Surprise(
        41,
        "F.max_pool3d with channels-last strides; any max pool of int8 and uint8 with them",
        "In a window of only the dtype's lowest value the index loses its plane of depth: 0 "
        "instead of 1. Of 8 bits, a channel of more than 127 positions raises RuntimeError.",
        "Right in both layouts, and every size is legal.",
        (
            *(Answers("max_pool3d", {"input": [[[[[9, 9]]], [[[low, low]]]]], "kernel_size": 1,
                      "dtype": dtype, "layout": "channels_last", "tie": tie,
                      "return_indices": True},
                      {"output": [[[[[9, 9]]], [[[number, number]]]]],
                       "indices": [[[[[0, 0]]], [[[1, 1]]]]]})
              for dtype, low, number in LOWEST for tie in ("first", "split")),
            Answers("max_pool3d", {"input": [[[[[9, 9]]], [[["-Infinity", "-Infinity"]]]]],
                    "kernel_size": 1, "layout": "channels_last", "grad_output": "ones"},
                    {"gradients.input": [[[[[1, 1]]], [[[1, 1]]]]]}),
            *(Answers("max_pool1d", {"input": [[[0, 0]] * 128], "kernel_size": 1, "dtype": dtype,
                      "layout": "channels_last", "return_indices": True},
                      {"output": [[[0, 0]] * 128], "indices": [[[i, i] for i in range(128)]]})
              for dtype in ("int8", "uint8")),
        ),
    ),
    Surprise(
        42,
        "F.batch_norm in training of float32 with channels-last strides",
        "Adds one by one: an (8, 3, 64, 64) of 3.3 everywhere gives 0.157 instead of 0, one of "
        "224x224 gives 0.9 (with two threads).",
        "0 in both layouts.",
        tuple(
            Answers("batch_norm2d", {"input": constant(shape, FLOAT32_3_3), "training": True,
                    "layout": layout},
                    {"output": torch.zeros(shape)})
            for layout, shape in (("channels_first", (8, 3, 64, 64)),
                                  ("channels_last", (8, 64, 64, 3)))
        ),
    ),
)  # fmt: skip
