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
        "`F.instance_norm` of one sample, with channels-last strides in the incoming gradient",
        "The output is correct, but the gradients of input, weight and bias are wrong: the "
        "input's is (0.286, -0.859, 0.573) instead of (-0.286, 0.859, -0.573).",
        "Correct in both layouts.",
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
        "`F.group_norm` of float32 (10000, 10001, 10002, 10003) with channels-last strides",
        "The variance is computed as E[x^2] - E[x]^2, which cancels: the output is (-474, -158, "
        "158, 474) instead of (-1.342, -0.447, 0.447, 1.342).",
        "Correct in both layouts: the variance is computed from the centered input.",
        tuple(
            Answers("group_norm", {"input": [in_layout(THOUSANDS, layout)], "num_groups": 1,
                    "layout": layout},
                    {"output": [in_layout([CENTRED[:2], CENTRED[2:]], layout)]}, within=1e-6)
            for layout in LAYOUTS
        ),
    ),
    Surprise(
        41,
        "`F.max_pool3d` with channels-last strides; any max pooling of int8 or uint8 with them",
        "In a window that contains only the dtype's lowest value, the index ignores the depth: 0 "
        "instead of 1. With int8 and uint8, a channel with more than 127 positions raises "
        "RuntimeError.",
        "Correct in both layouts, for every size.",
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
        "`F.batch_norm` of float32 in training, with channels-last strides",
        "Sums element by element: if x is 3.3 everywhere, the output is 0.157 instead of 0 for "
        "(8, 3, 64, 64), and 0.9 for (8, 3, 224, 224) (with two threads).",
        "The output is 0 in both layouts.",
        tuple(
            Answers("batch_norm2d", {"input": constant(shape, FLOAT32_3_3), "training": True,
                    "layout": layout},
                    {"output": torch.zeros(shape)})
            for layout, shape in (("channels_first", (8, 3, 64, 64)),
                                  ("channels_last", (8, 64, 64, 3)))
        ),
    ),
)  # fmt: skip
