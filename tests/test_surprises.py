"""The 38 surprises of torch's pooling and normalisation, and what Lamina does in each place.

SURPRISES is the table: what torch 2.13 does on the CPU without saying so, what this service does,
and requests that hold it to that. The numbers expected are worked out by hand or by `normalised`,
never by Lamina. A page of the docs is printed from the table.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from app.api.problems import from_validation
from app.compute import Engine
from app.errors import InvalidRequest
from app.layers import LAYERS, Plan, Tensors
from tests.conftest import compute

Body = Mapping[str, Any]
Check = Callable[[Engine], None]

NAN, INF = math.nan, math.inf
EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Answers:
    """The layer answers with these numbers; `advice` is a code that `explain` must give."""

    layer: str
    body: Body
    expected: Mapping[str, object]
    """Dotted path in the answer: its numbers."""
    within: float = 0.0
    """Largest error; 0 compares the signs of zeros too."""
    advice: str | None = None

    def __call__(self, engine: Engine) -> None:
        body = {**self.body, "explain": True} if self.advice else self.body
        answer = compute(engine, self.layer, dict(body))
        for path, numbers in self.expected.items():
            check_equal(at(answer, path), numbers, self.within)
        if self.advice:
            assert self.advice in advice_codes(answer)


@dataclass(frozen=True, slots=True)
class Refuses:
    """The request is refused with this kind of problem, and nothing but `pointer` is wrong."""

    layer: str
    body: Body
    pointer: str | None
    """None: the request as a whole is over a limit."""
    code: str = "invalid-request"

    def __call__(self, engine: Engine) -> None:
        with pytest.raises((InvalidRequest, ValidationError)) as caught:
            compute(engine, self.layer, dict(self.body))
        error = as_problem(caught.value)
        assert error.code == self.code
        assert [found.pointer for found in error.errors] == ([self.pointer] if self.pointer else [])


@dataclass(frozen=True, slots=True)
class RightOrWarned:
    """In float64 the output is right; in float32 it is, or `explain` says `precision-loss`."""

    layer: str
    body: Body
    expected: object

    def __call__(self, engine: Engine) -> None:
        exact = compute(engine, self.layer, {**self.body, "compute_dtype": "float64"})
        check_equal(exact["output"], self.expected, within=1e-6)
        answer = compute(engine, self.layer, {**self.body, "explain": True})
        error = (as_doubles(answer["output"]) - as_doubles(self.expected)).abs().max()
        assert ("precision-loss" in advice_codes(answer)) == bool(error > 1e-3)


@dataclass(frozen=True, slots=True)
class Lacks:
    """Lamina has no layer of these names."""

    layers: tuple[str, ...]

    def __call__(self, engine: Engine) -> None:
        assert not set(self.layers) & LAYERS.keys()


@dataclass(frozen=True, slots=True)
class Surprise:
    """One row: a call, what torch does, what Lamina does, and the checks that hold it."""

    number: int
    call: str
    torch: str
    lamina: str
    checks: tuple[Check, ...]


def as_problem(error: Exception) -> InvalidRequest:
    """The refusal as it is sent."""
    if isinstance(error, ValidationError):
        return from_validation(error, known=())
    assert isinstance(error, InvalidRequest)
    return error


def at(answer: Any, path: str) -> object:
    """What stands at a dotted path of the answer."""
    for part in path.split("."):
        answer = answer[int(part) if part.isdigit() else part]
    found: object = answer
    return found


def as_doubles(numbers: Any) -> torch.Tensor:
    """A tensor, nested lists or a number as a float64 tensor."""
    if isinstance(numbers, torch.Tensor):
        return numbers.double()
    return torch.tensor(numbers, dtype=torch.float64)


def check_equal(actual: object, expected: object, within: float) -> None:
    """The same shape and numbers; NaN equals NaN."""
    came, wanted = as_doubles(actual), as_doubles(expected)
    torch.testing.assert_close(came, wanted, rtol=0, atol=within, equal_nan=True)
    if not within:
        assert torch.equal(came.signbit() & ~came.isnan(), wanted.signbit() & ~wanted.isnan())


def advice_codes(answer: dict[str, Any]) -> set[str]:
    """The codes of the advice that `explain` gave."""
    return {advice["code"] for advice in answer["explanation"]["advice"]}


def normalised(values: Sequence[float], eps: float = EPS) -> list[float]:
    """(x - mean) / sqrt(biased variance + eps)."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / math.sqrt(variance + eps) for value in values]


def flat(shape: Sequence[int], data: Sequence[float]) -> dict[str, object]:
    """A tensor in its flat form."""
    return {"shape": list(shape), "data": list(data)}


def returns_new_statistics(engine: Engine) -> None:
    """The layer's function leaves every tensor that it is given as it was."""
    spec = LAYERS["batch_norm1d"]
    body = {"input": [[1], [3]], "running_mean": [0], "running_var": [1], "training": True}

    def watched(tensors: Tensors, plan: Plan) -> Tensors:
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        outputs = spec.run(tensors, plan)
        assert all(torch.equal(tensors[name], kept) for name, kept in before.items())
        return outputs

    for more in ({}, {"grad_output": "ones"}):
        answer = compute(engine, replace(spec, run=watched), {**body, **more})
        check_equal(answer["running_stats"]["mean"], [0.2], within=1e-6)
        check_equal(answer["running_stats"]["var"], [1.1], within=1e-6)


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


PADDING_ALONE = {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 3}
MEAN_BY_EIGHT = {"input": [[[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]], "kernel_size": 3, "padding": 1}
PARTIAL = {"input": [[[1, 2, 5]]], "kernel_size": 2, "ceil_mode": True}
POOLED = {"input": [[[[5, 7], [13, 15]]]], "indices": [[[[5, 7], [13, 15]]]], "kernel_size": 2,
          "output_size": [5, 5]}  # fmt: skip
OFFSET = [1e7, 1e7 + 1, 1e7 + 2, 1e7 + 3]
CENTRED = normalised([0, 1, 2, 3])
FEW = [[1, 3], [5, 7]]
ONE, SQRT5 = 1 / math.sqrt(1 + EPS), math.sqrt(5 + EPS)

SURPRISES = (
    Surprise(
        1,
        "F.max_pool1d([[[1, 2]]], 2, stride=1, padding=1, dilation=3), and its gradient",
        "A window that holds padding alone gives -inf and an index outside the input; backward "
        "then writes outside the gradient's memory: abort or segmentation fault.",
        "Refuses it as `empty-window` before torch is called, also where ceil mode makes it.",
        (
            # Without a gradient, so that a service that answered would fail here and not crash.
            Refuses("max_pool1d", {"input": [[[1, 2]]], **PADDING_ALONE},
                    "#/padding", "empty-window"),
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 2, "stride": 100,
                    "padding": 1, "dilation": 50, "ceil_mode": True}, "#/padding", "empty-window"),
            Refuses("max_pool3d", {"input": [[[[[1, 2]]]]], "kernel_size": [1, 1, 2], "stride": 1,
                    "padding": [0, 0, 1], "dilation": 3}, "#/padding", "empty-window"),
            Answers("max_pool1d", {"input": [[[1, 2]]], **PADDING_ALONE, "dilation": 2,
                    "return_indices": True, "grad_output": "ones"},
                    {"output": [[[2, 1]]], "indices": [[[1, 0]]], "gradients.input": [[[1, 1]]]}),
        ),
    ),
    Surprise(
        2,
        "The same with two channels and return_indices=True",
        "The index, 2 in a plane of 2, points into the next channel's plane.",
        "Refuses it as `empty-window`: an index always lies in its own plane.",
        (
            Refuses("max_pool1d", {"input": [[[1, 2], [3, 4]]], **PADDING_ALONE,
                    "return_indices": True}, "#/padding", "empty-window"),
        ),
    ),
    Surprise(
        3,
        "F.adaptive_avg_pool1d(x, 2**31); F.max_unpool2d(x, indices, 1, stride=10**6)",
        "Allocates gigabytes, or is killed by the system.",
        "Refuses lengths and strides over their limits, and with `output-too-large` an output over "
        "`max_output_bytes`, before it allocates.",
        (
            Refuses("adaptive_avg_pool1d", {"input": [[[1, 2]]], "output_size": 2**31},
                    "#/output_size"),
            Refuses("adaptive_avg_pool1d", {"input": [[[1, 2]]], "output_size": 2**31 - 1},
                    None, "output-too-large"),
            Refuses("max_unpool2d", {"input": [[[[1, 2]]]], "indices": [[[[0, 1]]]],
                    "kernel_size": 1, "stride": 10**6}, "#/stride"),
            Refuses("max_unpool2d", {"input": flat((1, 1, 16, 16), [0] * 256), "kernel_size": 1,
                    "indices": flat((1, 1, 16, 16), range(256)), "stride": 4096},
                    None, "output-too-large"),
        ),
    ),
    Surprise(
        4,
        "F.max_pool1d(x, 2**30, padding=2**29)",
        "Accepted: it loops over the padding for seconds, whatever the size of x.",
        "Refuses a kernel over `max_extent`, and with `cost-limit` what would run longer than "
        "`max_cost_ms`.",
        (
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 2**30, "padding": 2**29},
                    "#/kernel_size"),
            Refuses("max_pool2d", {"input": flat((1, 1, 64, 64), [0] * 4096), "kernel_size": 4096,
                    "stride": 1, "padding": 2048}, None, "cost-limit"),
        ),
    ),
    Surprise(
        5,
        "F.max_pool1d(x, kernel_size, stride or dilation of 2**31 and more)",
        "Works without a gradient, fails with one or with indices.",
        "Refuses all three over `max_extent`, with a gradient and without.",
        tuple(
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 1, name: 2**31, **more},
                    f"#/{name}")
            for name in ("kernel_size", "stride", "dilation")
            for more in ({}, {"grad_output": "ones"})
        ),
    ),
    Surprise(
        6,
        "F.avg_pool3d(x of 2x2x2, 3, padding=1)",
        "Raises, although padding covers the kernel; avg_pool2d and max_pool3d take the same.",
        "Answers: the same windows are legal in every pooling layer.",
        (
            Answers("avg_pool3d", {**MEAN_BY_EIGHT, "grad_output": "ones"},
                    {"output": [[[[[36 / 27]]]]], "gradients.input": [[[[[1 / 27] * 2] * 2] * 2]]},
                    within=1e-6),
            Answers("avg_pool3d", {**MEAN_BY_EIGHT, "count_include_pad": False},
                    {"output": [[[[[4.5]]]]]}, within=1e-6),
            Answers("max_pool3d", MEAN_BY_EIGHT, {"output": [[[[[8]]]]]}),
        ),
    ),
    Surprise(
        7,
        "Pooling with ceil_mode=True, against the formula in its documentation",
        "Gives 3, 2 and 3 windows where the formula gives 4, 3 and 4: it drops a last window that "
        "would start behind the input.",
        "Gives what torch runs; `explain` and `/shape` name the dropped window.",
        tuple(
            Answers("max_pool1d", {"input": [[list(range(1, n + 1))]], "kernel_size": k,
                    "stride": s, "padding": p, "ceil_mode": True, "explain": True},
                    {"output": [[output]], "explanation.axes.0.dropped_window": True})
            for n, k, s, p, output in (
                (9, 4, 4, 2, [2, 6, 9]), (4, 1, 2, 0, [1, 3]), (5, 2, 2, 1, [1, 3, 5])
            )
        ),
    ),
    Surprise(
        8,
        "F.max_pool1d(x of 4, 9, stride=8, ceil_mode=True)",
        "Accepted, though the kernel is longer than the input: one partial window.",
        "The same, and an average divides by the 4 elements that are there; refused without "
        "ceil mode.",
        (
            Answers("max_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 9, "stride": 8,
                    "ceil_mode": True}, {"output": [[[4]]]}),
            Answers("avg_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 9, "stride": 8,
                    "ceil_mode": True}, {"output": [[[2.5]]]}),
            Refuses("max_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 9, "stride": 8},
                    "#/kernel_size"),
        ),
    ),
    Surprise(
        9,
        "F.lp_pool1d([[[1, 2, 5]]], 1, 2, ceil_mode=True)",
        "The last window, 5 alone, is scaled up to a full one: 10.",
        'The same under torch\'s convention; `lp_partial: "sum"` gives the true norm, 5.',
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
        "F.lp_pool1d of negative numbers, p odd or fractional; p=0; p=-1",
        "Takes no absolute values: -1 for (3, -4) and p=1, NaN for (-1, -2) and p=3. p=0 is a "
        "ZeroDivisionError, p=-1 runs.",
        "The same under torch's convention; `lp_abs: true` gives the norm. `norm_type` must be "
        "above 0.",
        (
            Answers("lp_pool1d", {"input": [[[3, -4]]], "norm_type": 1, "kernel_size": 2},
                    {"output": [[[-1]]]}, within=1e-6),
            Answers("lp_pool1d", {"input": [[[3, -4]]], "norm_type": 1, "kernel_size": 2,
                    "lp_abs": True, "grad_output": "ones"},
                    {"output": [[[7]]], "gradients.input": [[[1, -1]]]}, within=1e-6),
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
        23,
        "nn.MaxPool2d(-3); stride=None; stride=()",
        "The constructor takes all three; -3 fails at the first call, with a message on padding.",
        "Has no constructors: each request is checked as a whole. A null stride is the kernel "
        "size; an empty list is refused.",
        (
            Refuses("max_pool2d", {"input": [[[[1, 2]]]], "kernel_size": -3}, "#/kernel_size"),
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 1, "stride": []},
                    "#/stride"),
            Answers("max_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 2, "stride": None},
                    {"output": [[[2, 4]]]}),
        ),
    ),
    Surprise(
        24,
        "(C, L) to BatchNorm1d; (N, C) to InstanceNorm1d or max_pool1d; (C, H, W) to GroupNorm",
        "Silently read as the other layout.",
        "Axis 0 is the batch unless the request says `batched: false`; ranks that then do not fit "
        "are refused.",
        (
            Answers("batch_norm1d", {"input": FEW, "training": True},
                    {"output": [[-2 / math.sqrt(4 + EPS)] * 2, [2 / math.sqrt(4 + EPS)] * 2]},
                    within=1e-6),
            Answers("batch_norm1d", {"input": FEW, "training": True, "batched": False},
                    {"output": [[-ONE, ONE], [-ONE, ONE]]}, within=1e-6),
            Refuses("max_pool1d", {"input": FEW, "kernel_size": 2}, "#/input"),
            Answers("max_pool1d", {"input": FEW, "kernel_size": 2, "batched": False},
                    {"output": [[3], [7]]}),
            Refuses("instance_norm", {"input": FEW}, "#/input"),
            Answers("instance_norm", {"input": FEW, "batched": False},
                    {"output": [[-ONE, ONE], [-ONE, ONE]]}, within=1e-6),
            Answers("group_norm", {"input": [[[1, 3]], [[5, 7]]], "num_groups": 1},
                    {"output": [[[-ONE, ONE]], [[-ONE, ONE]]]}, within=1e-6),
            Answers("group_norm", {"input": [[[1, 3]], [[5, 7]]], "num_groups": 1,
                    "batched": False},
                    {"output": [[[-3 / SQRT5, -1 / SQRT5]], [[1 / SQRT5, 3 / SQRT5]]]},
                    within=1e-6),
        ),
    ),
    Surprise(
        25,
        "F.batch_norm([[1], [4]], ..., momentum=2), =-1, =nan",
        "Accepted: the running mean becomes 5, -2.5 and NaN.",
        "Refuses a momentum outside [0, 1].",
        (
            *(Refuses("batch_norm1d", {"input": [[1], [4]], "training": True,
                      "momentum": momentum}, "#/momentum") for momentum in (2, -1, "NaN")),
            Answers("batch_norm1d", {"input": [[1], [4]], "training": True, "momentum": 1},
                    {"running_stats.mean": [2.5], "running_stats.var": [4.5]}, within=1e-6),
            Answers("batch_norm1d", {"input": [[1], [4]], "training": True, "momentum": 0},
                    {"running_stats.mean": [0], "running_stats.var": [1]}, within=1e-6),
        ),
    ),
    Surprise(
        26,
        "F.batch_norm in training with one NaN or infinity in x",
        "The whole channel is NaN, and so are its running statistics from then on.",
        "The same numbers, in that channel alone; the updated statistics are part of the answer, "
        "and the caller still holds the old ones.",
        tuple(
            Answers("batch_norm1d", {"input": [[1, bad], [3, 2]], "training": True},
                    {"output": [[-ONE, NAN], [ONE, NAN]], "running_stats.mean": [0.2, mean],
                     "running_stats.var": [1.1, NAN]}, within=1e-6)
            for bad, mean in (("NaN", NAN), ("Infinity", INF))
        ),
    ),
    Surprise(
        27,
        "F.batch_norm(x, mean, var=-1), in evaluation",
        "NaN.",
        "Refuses a negative running variance, in training too; 0 is legal, eps keeps the root "
        "above 0.",
        (
            *(Refuses("batch_norm1d", {"input": [[1], [3]], "training": training,
                      "running_mean": [0], "running_var": [-1]}, "#/running_var")
              for training in (False, True)),
            Answers("batch_norm1d", {"input": [[1]], "training": False, "running_mean": [0],
                    "running_var": [0]}, {"output": [[1 / math.sqrt(EPS)]]}, within=1e-3),
        ),
    ),
    Surprise(
        28,
        "nn.BatchNorm1d in training with an empty batch",
        "The running statistics stay, num_batches_tracked grows by 1.",
        "The same, cumulative average included; the batch statistics are NaN.",
        tuple(
            Answers("batch_norm1d", {"input": flat((0, 2), []), "training": True,
                    "running_mean": [1, 2], "running_var": [3, 4], "num_batches_tracked": 5,
                    "momentum": momentum},
                    {"output_shape": (0, 2), "running_stats.mean": [1, 2],
                     "running_stats.var": [3, 4], "running_stats.num_batches_tracked": 6,
                     "batch_stats.mean": [NAN, NAN]})
            for momentum in (0.1, None)
        ),
    ),
    Surprise(
        29,
        "torch.batch_norm([[3]]) in training, without the check in Python",
        "The output is 3.05e-05 instead of 0, the running variance NaN.",
        "Refuses one value a channel in training, as F.batch_norm does; under the other "
        "conventions its variance is 0. A batch of one with more positions is legal.",
        (
            Refuses("batch_norm1d", {"input": [[3]], "training": True}, "#/input"),
            Refuses("batch_norm2d", {"input": [[[[3]]]], "training": True}, "#/input"),
            Answers("batch_norm1d", {"input": [[3]], "training": True, "convention": "onnx"},
                    {"output": [[0]], "running_stats.mean": [0.3], "running_stats.var": [0.9]},
                    within=1e-6),
            Answers("batch_norm2d", {"input": [[[[1, 3]]]], "training": True},
                    {"output": [[[[-ONE, ONE]]]]}, within=1e-6),
            Answers("batch_norm1d", {"input": [[3]], "training": False, "running_mean": [1],
                    "running_var": [4]}, {"output": [[2 / math.sqrt(4 + EPS)]]}, within=1e-6),
        ),
    ),
    Surprise(
        30,
        "F.batch_norm(x, running_mean, running_var, training=True), also under no_grad",
        "Changes the tensors that were passed in.",
        "Keeps no state and changes nothing it was sent: the new statistics are new values.",
        (returns_new_statistics,),
    ),
    Surprise(
        31,
        "Normalising float32 (0, 1, 2, 3) + 1e7",
        "Wrong in the first digit: the mean is rounded to a whole number.",
        "float32 is as torch computes it, and `explain` advises `precision-loss`; "
        '`compute_dtype: "float64"` is right.',
        (
            RightOrWarned("batch_norm1d", {"input": [[x] for x in OFFSET], "training": True},
                          [[x] for x in CENTRED]),
            RightOrWarned("instance_norm", {"input": [[OFFSET]]}, [[CENTRED]]),
            RightOrWarned("group_norm", {"input": [[OFFSET]], "num_groups": 1}, [[CENTRED]]),
            RightOrWarned("layer_norm", {"input": [OFFSET], "normalized_shape": [4]}, [CENTRED]),
        ),
    ),
    Surprise(
        32,
        "F.batch_norm of a constant channel in training",
        "The output is 0 up to rounding, but the gradient is scaled by 1 / sqrt(eps), 316.",
        "The same, for it is the derivative; `explain` advises `constant-channel`.",
        (
            Answers("batch_norm1d", {"input": [[5]] * 4, "training": True},
                    {"output": [[0]] * 4}, within=1e-4, advice="constant-channel"),
            Answers("batch_norm1d", {"input": [[5]] * 4, "training": True,
                    "grad_output": [[1], [0], [0], [0]]},
                    {"gradients.input": [[share / math.sqrt(EPS)]
                                         for share in (0.75, -0.25, -0.25, -0.25)]}, within=1e-2),
            RightOrWarned("batch_norm1d", {"input": [[5000]] * 4, "training": True}, [[0]] * 4),
        ),
    ),
    Surprise(
        33,
        "F.group_norm or F.layer_norm of constant input, eps=0 or -1",
        "NaN; batch norm raises.",
        "Refuses an eps that is negative, not finite, or so small that float32 would make it 0. "
        "0 itself is allowed: constant input is then 0 / 0, NaN, and `constant-channel` says so.",
        (
            *(Refuses(layer, {"input": [[[3, 3]]], **options, "eps": eps}, "#/eps")
              for layer, options in (("group_norm", {"num_groups": 1}),
                                     ("layer_norm", {"normalized_shape": [2]}),
                                     ("instance_norm", {}),
                                     ("rms_norm", {"normalized_shape": [2]}),
                                     ("batch_norm1d", {"training": True}))
              for eps in (-1, 1e-50, "NaN", "Infinity")),
            Refuses("batch_norm1d", {"input": [[[3, 3]]], "training": True, "eps": 0}, "#/eps"),
            *(Answers(layer, {"input": [[[3, 3]]], **options, "eps": 0},
                      {"output": [[[NAN, NAN]]]}, advice="constant-channel")
              for layer, options in (("group_norm", {"num_groups": 1}),
                                     ("layer_norm", {"normalized_shape": [2]}))),
        ),
    ),
    Surprise(
        34,
        "F.group_norm(x of (2, 3), 3, weight): one value a group",
        "3.05e-05 in some entries instead of 0: x and its mean are scaled before they cancel.",
        "0 up to float32's rounding, and 0 with `compute_dtype: \"float64\"`.",
        tuple(
            Answers("group_norm", {"input": [[[1], [2], [3]], [[4], [5], [6]]], "num_groups": 3,
                    **more}, {"output": [[[0]] * 3] * 2}, within=error)
            for more, error in (({}, 1e-4), ({"compute_dtype": "float64"}, 1e-9))
        ),
    ),
    Surprise(
        35,
        "nn.InstanceNorm1d(num_features wrong, affine=False)",
        "A warning, then it runs.",
        "Has no num_features to get wrong; a weight or bias of another length is refused.",
        (
            Refuses("instance_norm", {"input": [[[1, 3]]], "num_features": 2}, "#/num_features"),
            Refuses("instance_norm", {"input": [[[1, 3]]], "weight": [1, 1]}, "#/weight"),
            Refuses("instance_norm", {"input": [[[1, 3]]], "bias": [0, 0]}, "#/bias"),
        ),
    ),
    Surprise(
        36,
        "F.rms_norm(bfloat16 x, weight=float32)",
        "A warning, and a slower way.",
        "One dtype a request: a weight of another is refused. 16 bits are computed in float32 and "
        "rounded once.",
        (
            Refuses("rms_norm", {"input": [[2, 3]], "weight": {**flat((2,), [1, 5]),
                    "dtype": "float32"}, "normalized_shape": [2], "dtype": "bfloat16"},
                    "#/weight/dtype"),
            # 2 / sqrt(6.5) = 0.7845 and 15 / sqrt(6.5) = 5.8835; rounded twice, it were 5.90625.
            Answers("rms_norm", {"input": [[2, 3]], "weight": [1, 5], "normalized_shape": [2],
                    "eps": EPS, "dtype": "bfloat16"}, {"output": [[0.78515625, 5.875]]}),
        ),
    ),
    Surprise(
        37,
        "torch.use_deterministic_algorithms(True) and F.max_unpool2d",
        "Raises: its result may differ from run to run.",
        "Has no such switch: the same request gives the same answer.",
        (repeats_itself,),
    ),
    Surprise(
        38,
        "F.max_pool1d(F.pad(x, (1, 0), value=-inf), 2, return_indices=True)",
        "Asymmetric padding by hand: the indices count in the padded input.",
        "Takes asymmetric padding; indices count in the input as it was sent.",
        (
            Answers("max_pool1d", {"input": [[[5, 1, 7]]], "kernel_size": 2, "padding": [[1, 0]],
                    "return_indices": True, "grad_output": "ones"},
                    {"output": [[[5, 7]]], "indices": [[[0, 2]]],
                     "gradients.input": [[[1, 0, 1]]]}),
            Answers("max_pool2d", {"input": [[[[1, 2], [9, 4]]]], "kernel_size": 2, "stride": 1,
                    "padding": [[1, 0], [0, 1]], "return_indices": True, "grad_output": "ones"},
                    {"output": [[[[2, 2], [9, 4]]]], "indices": [[[[1, 1], [2, 3]]]],
                     "gradients.input": [[[[0, 2], [1, 1]]]]}),
        ),
    ),
)  # fmt: skip

CHECKS = {
    f"{row.number:02}-{index}": check for row in SURPRISES for index, check in enumerate(row.checks)
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_lamina_does_what_the_table_says(engine: Engine, check: Check) -> None:
    check(engine)


def spoiled(check: Check) -> Iterator[Check]:
    """The check with each of its expectations, one at a time, made wrong."""
    match check:
        case Answers():
            for path, numbers in check.expected.items():
                yield replace(check, expected={path: other(numbers)}, advice=None)
            if check.advice:
                yield replace(check, advice="no-such-advice")
        case Refuses():
            yield replace(check, pointer="#/elsewhere")
            yield replace(check, code="no-such-code")
        case RightOrWarned():
            yield replace(check, expected=other(check.expected))
        case Lacks():
            yield replace(check, layers=(*check.layers, "max_pool2d"))


def other(numbers: object) -> torch.Tensor:
    """Different numbers of the same shape."""
    return 0.1 - as_doubles(numbers).nan_to_num()


WRONG = {
    f"{name}-{index}": wrong
    for name, check in CHECKS.items()
    for index, wrong in enumerate(spoiled(check))
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_every_expectation_can_fail(engine: Engine, wrong: Check) -> None:
    with pytest.raises(AssertionError):
        wrong(engine)


PAGE = Path(__file__).parents[1] / "docs/surprises.md"


def page() -> str:
    """The table as a page of the docs."""
    rows = "".join(
        f"| {row.number} | `{row.call}` | {row.torch} | {row.lamina} |\n".replace("\n ", " ")
        for row in SURPRISES
    )
    return (
        "# What torch does in silence, and what Lamina does\n"
        "Printed from `tests/test_surprises.py`, which holds every row: `make test`.\n\n"
        f"| # | call | torch 2.13 on a CPU | Lamina |\n|---|---|---|---|\n{rows}"
    )


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run `make openapi`"


def test_every_surprise_is_there_stated_and_held() -> None:
    assert [row.number for row in SURPRISES] == list(range(1, 39))
    for row in SURPRISES:
        assert row.checks, row.number
        for text in (row.call, row.torch, row.lamina):
            assert text.strip() == text != ""
            assert "\n" not in text


if __name__ == "__main__":
    PAGE.write_text(page())
