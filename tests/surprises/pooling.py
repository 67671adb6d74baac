"""What pools of maxima and averages answer: rows 11 to 22 and 37."""

import torch

from app.compute import Engine
from tests.conftest import compute
from tests.surprises.checks import (
    INF,
    NAN,
    Answers,
    Lacks,
    Refuses,
    Surprise,
    check_equal,
    flat,
)


def repeats_itself(engine: Engine) -> None:
    """Two neighbours share an index: the second is the output, run after run.

    They stand in the middle, where torch's threads part: one writes its last element there while
    another has long written its first.
    """
    middle = 1000
    indices = list(range(2 * middle))
    indices[middle] = middle - 1
    expected = torch.arange(1.0, 2 * middle + 1).view(1, 1, -1)
    expected[0, 0, middle - 1 : middle + 1] = torch.tensor([middle + 1, 0])
    body = {
        "input": flat((1, 1, 2 * middle), range(1, 2 * middle + 1)),
        "indices": flat((1, 1, 2 * middle), indices),
        "kernel_size": 1,
    }
    for _ in range(5):
        check_equal(compute(engine, "max_unpool1d", body)["output"], expected, within=0)


POOLED = {"input": [[[[5, 7], [13, 15]]]], "indices": [[[[5, 7], [13, 15]]]], "kernel_size": 2,
          "output_size": [5, 5]}  # fmt: skip

ROWS = (
    Surprise(
        11,
        "F.max_pool1d([[[nan, 1, nan, 2]]], 4)",
        "NaN wins; the index is that of the last NaN, and the gradient goes there.",
        'The same, with advice `nan-in-window`; `nan: "ignore"` counts NaN as -Infinity.',
        (
            Answers("max_pool1d", {"input": [[["NaN", 1, "NaN", 2]]], "kernel_size": 4,
                    "return_indices": True, "grad_output": "ones"},
                    {"output": [[[NAN]]], "indices": [[[2]]], "gradients.input": [[[0, 0, 1, 0]]]},
                    advice="nan-in-window"),
            Answers("max_pool1d", {"input": [[["NaN", 1, "NaN", 2]]], "kernel_size": 4,
                    "return_indices": True, "grad_output": "ones", "nan": "ignore"},
                    {"output": [[[2]]], "indices": [[[3]]], "gradients.input": [[[0, 0, 0, 1]]]}),
        ),
    ),
    Surprise(
        12,
        "F.max_pool1d([[[-0.0, 0.0, 0.0, -0.0]]], 2)",
        "The two zeros are equal: the first wins and keeps its sign.",
        "The same, and the sign of zero survives the JSON both ways.",
        (
            Answers("max_pool1d", {"input": [[[-0.0, 0.0, 0.0, -0.0]]], "kernel_size": 2,
                    "return_indices": True},
                    {"output": [[[-0.0, 0.0]]], "indices": [[[0, 2]]]}),
        ),
    ),
    Surprise(
        13,
        "F.max_pool1d([[[-inf, -inf]]], 2, stride=1, padding=1)",
        "The index is that of the window's first real element, and the gradient goes there.",
        "The same for every kind of padding, and for the integers' smallest value.",
        (
            *(Answers("max_pool1d", {"input": [[["-Infinity", "-Infinity"]]], "kernel_size": 2,
                      "stride": 1, "padding": padding, "return_indices": True,
                      "grad_output": "ones"},
                      {"output": [[[-INF] * 3]], "indices": [[[0, 0, 1]]],
                       "gradients.input": [[[2, 1]]]}) for padding in (1, [[1, 1]])),
            Answers("max_pool1d", {"input": [[[-128, -128]]], "dtype": "int8", "kernel_size": 2,
                    "stride": 1, "padding": [[1, 0]], "return_indices": True},
                    {"output": [[[-128, -128]]], "indices": [[[0, 0]]]}),
        ),
    ),
    Surprise(
        14,
        "F.avg_pool1d of int64: (-1, -2), and twice 2**63 - 1",
        "Truncates toward zero, -1 for -1.5, and the sum wraps around: -1.",
        "Refuses integers, which have no average; send them with a float `dtype`.",
        (
            Refuses("avg_pool1d", {"input": [[[-1, -2]]], "kernel_size": 2, "dtype": "int64"},
                    "#/dtype"),
            Answers("avg_pool1d", {"input": [[[-1, -2]]], "kernel_size": 2},
                    {"output": [[[-1.5]]]}),
            Answers("avg_pool1d", {"input": [[[2**63 - 1, 2**63 - 1]]], "kernel_size": 2,
                    "dtype": "float64"}, {"output": [[[2.0**63]]]}),
        ),
    ),
    Surprise(
        15,
        "F.avg_pool2d(x, k, divisor_override=-2), =2**40",
        "Accepted, both; 1d has no such argument.",
        "Divides by any 32-bit integer but 0, in 1d too; refuses 0 and 2**40.",
        (
            Answers("avg_pool2d", {"input": [[[[1, 1]]]], "kernel_size": [1, 2],
                    "divisor_override": -2, "grad_output": "ones"},
                    {"output": [[[[-1]]]], "gradients.input": [[[[-0.5, -0.5]]]]}),
            Answers("avg_pool1d", {"input": [[[1, 2]]], "kernel_size": 2, "divisor_override": 4},
                    {"output": [[[0.75]]]}),
            *(Refuses("avg_pool2d", {"input": [[[[1, 1]]]], "kernel_size": [1, 2],
                      "divisor_override": divisor}, "#/divisor_override")
              for divisor in (0, 2**40)),
        ),
    ),
    Surprise(
        16,
        "F.adaptive_avg_pool3d of bfloat16 or float16",
        "Accumulates in 16 bits: 0.5 where 1.5 is right (256 and 511 ones), and infinity for the "
        "mean of eight times 60000.",
        "Computes in float32 and rounds once.",
        (
            Answers("adaptive_avg_pool3d", {"input": flat((1, 1, 8, 16, 8), [256] + [1] * 1023),
                    "output_size": [1, 1, 2], "dtype": "bfloat16"},
                    {"output": [[[[[1.5, 1]]]]]}),
            Answers("adaptive_avg_pool3d", {"input": flat((1, 1, 2, 2, 4), [60000] * 16),
                    "output_size": [1, 1, 2], "dtype": "float16"},
                    {"output": [[[[[60000, 60000]]]]]}),
        ),
    ),
    Surprise(
        17,
        "F.adaptive_avg_pool1d(x, 0) and its gradient",
        "The output is empty; backward raises.",
        "The output is empty and the gradient zero.",
        tuple(
            Answers(f"adaptive_{kind}_pool1d", {"input": [[[1, 2, 3]]], "output_size": 0,
                    "grad_output": "ones"},
                    {"output_shape": (1, 1, 0), "gradients.input": [[[0, 0, 0]]]})
            for kind in ("avg", "max")
        ),
    ),
    Surprise(
        18,
        "F.adaptive_avg_pool2d(x of 0x2, 1)",
        "NaN without an error; to 2, and for the maximum, an error.",
        "Refuses an empty plane in every pooling layer; only the batch may be empty.",
        (
            *(Refuses(layer, {"input": flat((1, 1, 0, 2), []), **options}, "#/input")
              for layer, options in (("adaptive_avg_pool2d", {"output_size": 1}),
                                     ("adaptive_avg_pool2d", {"output_size": 2}),
                                     ("adaptive_max_pool2d", {"output_size": 1}),
                                     ("global_avg_pool", {}))),
            Answers("adaptive_avg_pool2d", {"input": flat((0, 1, 3, 2), []), "output_size": 1},
                    {"output_shape": (0, 1, 1, 1)}),
        ),
    ),
    Surprise(
        19,
        "F.adaptive_avg_pool2d(x of 5 axes, 1)",
        "Accepted with one axis too many for size 1, refused for size 2.",
        "Refuses the rank, whatever the size; the 3d layer takes it.",
        (
            *(Refuses("adaptive_avg_pool2d", {"input": [[[[[1, 3], [5, 7]]]]],
                      "output_size": size}, "#/input") for size in (1, 2)),
            Answers("adaptive_avg_pool3d", {"input": [[[[[1, 3], [5, 7]]]]], "output_size": 1},
                    {"output": [[[[[4]]]]]}),
        ),
    ),
    Surprise(
        20,
        "F.max_unpool1d([[[1, 2]]], indices [[[1, 1]]], 2)",
        "With one thread the last write wins, with several any may; the gradient goes to all.",
        "The last in row-major order always wins; the gradient goes to all, as in torch.",
        (
            Answers("max_unpool1d", {"input": [[[1, 2]]], "indices": [[[1, 1]]],
                    "kernel_size": 2}, {"output": [[[0, 2, 0, 0]]]}),
            Answers("max_unpool1d", {"input": [[[1, 2]]], "indices": [[[1, 1]]],
                    "kernel_size": 2, "grad_output": [[[10, 20, 30, 40]]]},
                    {"gradients.input": [[[20, 20]]]}),
        ),
    ),
    Surprise(
        21,
        "F.max_unpool2d(pooled 4x4, indices, 2, output_size=(5, 5))",
        "Indices of the 4x4 plane are read in the 5x5 one: what stood at (1, 1) lands at (1, 0).",
        'The same under torch\'s convention; `index_space: "default"` reads them in the 4x4 plane '
        "and pads it.",
        (
            Answers("max_unpool2d", {**POOLED, "grad_output": flat((1, 1, 5, 5), range(25))},
                    {"output": [[[[0, 0, 0, 0, 0], [5, 0, 7, 0, 0], [0, 0, 0, 13, 0],
                                  [15, 0, 0, 0, 0], [0, 0, 0, 0, 0]]]],
                     "gradients.input": [[[[5, 7], [13, 15]]]]}),
            Answers("max_unpool2d", {**POOLED, "index_space": "default",
                    "grad_output": flat((1, 1, 5, 5), range(25))},
                    {"output": [[[[0, 0, 0, 0, 0], [0, 5, 0, 7, 0], [0, 0, 0, 0, 0],
                                  [0, 13, 0, 15, 0], [0, 0, 0, 0, 0]]]],
                     "gradients.input": [[[[6, 8], [16, 18]]]]}),
        ),
    ),
    Surprise(
        22,
        "F.fractional_max_pool2d(x, 0, 2), and with samples outside [0, 1)",
        "-inf everywhere; samples of 1.5, -5 and NaN run; output_ratio is ignored if both are "
        "given.",
        "Has no fractional pooling. A kernel of 0 and an option it does not know are refused.",
        (
            Lacks(("fractional_max_pool2d", "fractional_max_pool3d")),
            Refuses("max_pool2d", {"input": [[[[1, 2]]]], "kernel_size": 0}, "#/kernel_size"),
            Refuses("adaptive_max_pool2d", {"input": [[[[1, 2]]]], "output_size": 1,
                    "output_ratio": 0.5}, "#/output_ratio"),
        ),
    ),
    Surprise(
        37,
        "torch.use_deterministic_algorithms(True) and F.max_unpool2d",
        "Raises: its result may differ from run to run.",
        "Has no such switch: the same request gives the same answer.",
        (repeats_itself,),
    ),
)  # fmt: skip
