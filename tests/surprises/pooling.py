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
        "`F.max_pool1d([[[nan, 1, nan, 2]]], 4)`",
        "The maximum is NaN. The index is that of the last NaN, which also gets the gradient.",
        'The same, and `explain` advises `nan-in-window`. With `nan: "ignore"`, NaN counts as '
        "-Infinity.",
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
        "`F.max_pool1d([[[-0.0, 0.0, 0.0, -0.0]]], 2)`",
        "-0.0 and 0.0 are equal: the first in the window is the maximum and keeps its sign.",
        "The same; JSON requests and answers preserve the sign of zero.",
        (
            Answers("max_pool1d", {"input": [[[-0.0, 0.0, 0.0, -0.0]]], "kernel_size": 2,
                    "return_indices": True},
                    {"output": [[[-0.0, 0.0]]], "indices": [[[0, 2]]]}),
        ),
    ),
    Surprise(
        13,
        "`F.max_pool1d([[[-inf, -inf]]], 2, stride=1, padding=1)`",
        "The index is that of the window's first element that is not padding, which also gets the "
        "gradient.",
        "The same for every kind of padding, and for the lowest value of an integer dtype.",
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
        "`F.avg_pool1d` of int64: -1 and -2; twice 2^63 - 1",
        "Rounds toward zero: -1 instead of -1.5. The second sum wraps around: its average is -1.",
        "Refuses averages of integer dtypes; send the numbers with a float `dtype`.",
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
        "`F.avg_pool2d(x, k, divisor_override=d)`, d of -2 and 2^40",
        "Accepts both; `avg_pool1d` has no such argument.",
        "Accepts any 32-bit integer except 0, in 1d too; refuses 0 and 2^40.",
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
        "`F.adaptive_avg_pool3d` of bfloat16 or float16",
        "Accumulates in 16 bits: the mean of one 256 and 511 ones is 0.5 instead of 1.5 in "
        "bfloat16, and the mean of eight times 60000 is infinity in float16.",
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
        "`F.adaptive_avg_pool1d(x, 0)` and its gradient",
        "The output is empty, but backward raises.",
        "The output is empty, and the gradient is 0 everywhere.",
        tuple(
            Answers(f"adaptive_{kind}_pool1d", {"input": [[[1, 2, 3]]], "output_size": 0,
                    "grad_output": "ones"},
                    {"output_shape": (1, 1, 0), "gradients.input": [[[0, 0, 0]]]})
            for kind in ("avg", "max")
        ),
    ),
    Surprise(
        18,
        "`F.adaptive_avg_pool2d(x, 1)`, x of 0x2",
        "Gives NaN without an error; with output size 2, and in max pooling, it raises.",
        "Refuses empty spatial axes in every pooling layer; only the batch may be empty.",
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
        "`F.adaptive_avg_pool2d(x, 1)`, x with 5 axes",
        "Accepts one axis too many with output size 1, but not with output size 2.",
        "Refuses 5 axes with any output size; the 3d layer accepts them.",
        (
            *(Refuses("adaptive_avg_pool2d", {"input": [[[[[1, 3], [5, 7]]]]],
                      "output_size": size}, "#/input") for size in (1, 2)),
            Answers("adaptive_avg_pool3d", {"input": [[[[[1, 3], [5, 7]]]]], "output_size": 1},
                    {"output": [[[[[4]]]]]}),
        ),
    ),
    Surprise(
        20,
        "`F.max_unpool1d([[[1, 2]]], indices, 2)`, indices [[[1, 1]]]",
        "With one thread, the value written last wins; with several threads, any of them may win. "
        "All of them get the gradient.",
        "The last value in row-major order always wins. All of them get the gradient, as in torch.",
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
        "`F.max_unpool2d(x, indices, 2, output_size=(5, 5))`, x and indices pooled from 4x4",
        "Indices of the 4x4 plane are used in the 5x5 plane: the value from (1, 1) ends up at (1, "
        "0).",
        'The same under the torch convention; with `index_space: "default"`, they are used in the '
        "4x4 plane, which is then padded.",
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
        "`F.fractional_max_pool2d(x, 0, 2)`; with samples outside [0, 1); with both `output_size` "
        "and `output_ratio`",
        "A kernel size of 0 gives -inf everywhere. Samples of 1.5, -5 and NaN are accepted. "
        "`output_ratio` is ignored if both are given.",
        "Has no fractional pooling. A kernel size of 0 and unknown options are refused.",
        (
            Lacks(("fractional_max_pool2d", "fractional_max_pool3d")),
            Refuses("max_pool2d", {"input": [[[[1, 2]]]], "kernel_size": 0}, "#/kernel_size"),
            Refuses("adaptive_max_pool2d", {"input": [[[[1, 2]]]], "output_size": 1,
                    "output_ratio": 0.5}, "#/output_ratio"),
        ),
    ),
    Surprise(
        37,
        "`F.max_unpool2d` under `torch.use_deterministic_algorithms(True)`",
        "Raises, because its result may vary from run to run.",
        "Needs no such switch: the same request always gets the same answer.",
        (repeats_itself,),
    ),
)  # fmt: skip
