"""Sums in half precision, against loops that round after each term."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults._emulation import assert_same, emulated, of_name
from tests.faults._loops import adaptive, each_window, is_inside, row_major, shape_of, sliding

Round = Callable[[float], float]


def to_float16(value: float) -> float:
    return float(np.float16(value))


def to_bfloat16(value: float) -> float:
    """To nearest, ties to even, on the upper half of a float32."""
    bits = int(np.float32(value).view(np.uint32))
    bits += 0x7FFF + (bits >> 16 & 1)
    return float(np.uint32(bits & 0xFFFF0000).view(np.float32))


KINDS = [(torch.float16, to_float16), (torch.bfloat16, to_bfloat16)]
EACH = pytest.mark.parametrize(("dtype", "rounded"), KINDS, ids=["float16", "bfloat16"])


def summed(terms: Sequence[float], rounded: Round) -> float:
    total = terms[0]
    for term in terms[1:]:
        total = rounded(total + term)
    return total


def values(shape: tuple[int, ...], rounded: Round) -> np.ndarray:
    x = np.random.default_rng(0).uniform(0.5, 40, shape)
    return np.asarray(np.vectorize(rounded)(x))


def averaged(x: np.ndarray, axes: Any, rounded: Round) -> np.ndarray:
    output = np.zeros(shape_of(x, axes))
    for o, taps in each_window(x, axes):
        at = row_major(taps)
        terms = [x[(*o[:2], *a)] if is_inside(a, x.shape[2:]) else 0.0 for a in at]
        output[o] = rounded(float(np.float32(summed(terms, rounded)) / np.float32(len(at))))
    return output


@EACH
def test_averages(dtype: torch.dtype, rounded: Round) -> None:
    x = values((2, 2, 7, 9), rounded)
    fault = of_name("half-accumulation", "avg_pool2d")[0]
    sent: dict[str, Any] = {"kernel_size": [5, 4], "stride": 2, "padding": [[2, 1]]}
    expected = averaged(x, [sliding(7, 5, 2, 2, 1), sliding(9, 4, 2, 2, 1)], rounded)
    found = emulated(
        fault,
        "avg_pool2d",
        {"input": x},
        None,
        dtype,
        convention="flax",
        **sent,
        layout="channels_first",
    )
    assert_same(found, {"output": expected}, rtol=0, atol=0)
    assert not np.array_equal(
        expected, averaged(x, [sliding(7, 5, 2, 2, 1), sliding(9, 4, 2, 2, 1)], float)
    )

    fault = of_name("half-accumulation", "adaptive_avg_pool2d")[0]
    expected = averaged(x, [adaptive(7, 3), adaptive(9, 2)], rounded)
    found = emulated(fault, "adaptive_avg_pool2d", {"input": x}, None, dtype, output_size=[3, 2])
    assert_same(found, {"output": expected}, rtol=0, atol=0)

    fault = of_name("half-accumulation", "global_avg_pool")[0]
    expected = averaged(x, [[list(range(7))], [list(range(9))]], rounded)
    found = emulated(fault, "global_avg_pool", {"input": x}, None, dtype)
    assert_same(found, {"output": expected}, rtol=0, atol=0)


def test_one_256_and_ones() -> None:
    """To 256, bfloat16 adds none of a thousand ones."""
    x = np.ones((1, 1, 1001))
    x[..., 0] = 256
    fault = of_name("half-accumulation", "global_avg_pool")[0]
    found = emulated(fault, "global_avg_pool", {"input": x}, None, torch.bfloat16)
    assert_same(found, {"output": [[[to_bfloat16(256 / 1001)]]]}, rtol=0)


@EACH
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(dtype: torch.dtype, rounded: Round, groups: int) -> None:
    x = values((2, 4, 5, 6), rounded)
    weight = values((4, 4 // groups, 3, 2), rounded)
    bias = values((4,), rounded)
    axes = [sliding(5, 3, 2, 1, 1), sliding(6, 2, 1, 0, 1)]
    output = np.zeros((2, 4, *(len(axis) for axis in axes)))
    for n, c, *o in np.ndindex(output.shape):
        first = c // (4 // groups) * (4 // groups)
        taps = row_major([axis[i] for axis, i in zip(axes, o, strict=True)])
        terms = [0.0]
        for channel in range(4 // groups):
            for tap, at in enumerate(taps):
                inside = is_inside(at, x.shape[2:])
                value = float(x[(n, first + channel, *at)]) if inside else 0.0
                terms.append(rounded(value * float(weight[c, channel].flat[tap])))
        output[(n, c, *o)] = rounded(summed(terms, rounded) + float(bias[c]))
    (fault,) = of_name("half-accumulation", "conv2d")
    sent: dict[str, Any] = {"stride": [2, 1], "padding": [[1, 1], [0, 1]], "groups": groups}
    inputs = {"input": x, "weight": weight, "bias": bias}
    found = emulated(fault, "conv2d", inputs, None, dtype, **sent)
    assert_same(found, {"output": output}, rtol=0, atol=0)
    inputs["weight"], sent["weight_layout"] = np.moveaxis(weight, (1, 0), (-2, -1)), "hwio"
    found = emulated(fault, "conv2d", inputs, None, dtype, **sent)
    assert_same(found, {"output": output}, rtol=0, atol=0)


@EACH
@pytest.mark.parametrize(
    ("layer", "axes", "options"),
    [
        ("batch_norm2d", (0, 2, 3), {"training": True}),
        ("group_norm", (1, 2, 3), {"num_groups": 1}),
        ("layer_norm", (3,), {"axis": -1}),
    ],
)
def test_norms(
    dtype: torch.dtype, rounded: Round, layer: str, axes: tuple[int, ...], options: Any
) -> None:
    x = values((3, 4, 5, 6), rounded)
    fault = of_name("half-accumulation", layer)[0]
    found = emulated(fault, layer, {"input": x}, None, dtype, eps=0.25, **options)
    others = [axis for axis in range(4) if axis not in axes]
    rows = np.transpose(x, (*others, *axes)).reshape(*(x.shape[a] for a in others), -1)
    output = np.zeros_like(rows)
    for index in np.ndindex(rows.shape[:-1]):
        row = rows[index]
        mean = rounded(summed(row.tolist(), rounded) / len(row))
        squares = [rounded(float(np.float32(value - mean) ** 2)) for value in row.tolist()]
        var = rounded(summed(squares, rounded) / len(row))
        output[index] = (row - mean) / np.sqrt(var + 0.25)
    expected = output.reshape(*(x.shape[a] for a in (*others, *axes)))
    expected = np.transpose(expected, np.argsort((*others, *axes)))
    assert_same(found, {"output": expected}, rtol=1e-5, atol=1e-6)
    exact = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.25)
    assert not np.allclose(exact, expected, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_an_average_in_half_precision() -> None:
    x = values((1, 1, 6), to_float16)
    fault = of_name("half-accumulation", "avg_pool1d")[0]
    grad = np.array([[[0.5, 3.0, 7.0, 1.5]]])
    found = emulated(
        fault, "avg_pool1d", {"input": x}, grad, torch.float16, kernel_size=3, stride=1
    )
    share = grad[0, 0] / 3
    expected = [sum(share[max(0, i - 2) : i + 1]) for i in range(6)]
    assert_same(found, {"gradients.input": [[expected]]}, rtol=2e-3)


@EACH
def test_averages_of_quotients(dtype: torch.dtype, rounded: Round) -> None:
    x = values((2, 2, 7, 9), rounded)
    axes = [sliding(7, 5, 2, 2, 1), sliding(9, 4, 2, 2, 1)]
    expected = np.zeros(shape_of(x, axes))
    for o, taps in each_window(x, axes):
        at = row_major(taps)
        terms = [float(x[(*o[:2], *a)]) if is_inside(a, x.shape[2:]) else 0.0 for a in at]
        expected[o] = summed(
            [rounded(float(np.float32(t) / np.float32(20))) for t in terms], rounded
        )
    fault = of_name("half-accumulation", "avg_pool2d")[1]
    sent: dict[str, Any] = {"kernel_size": [5, 4], "stride": 2, "padding": [[2, 1]]}
    sent |= {"convention": "flax", "layout": "channels_first"}
    found = emulated(fault, "avg_pool2d", {"input": x}, None, dtype, **sent)
    assert_same(found, {"output": expected}, rtol=0, atol=0)
    assert not np.array_equal(expected, averaged(x, axes, rounded))


@EACH
@pytest.mark.parametrize("kind", ["avg", "adaptive_avg"])
def test_gradients_of_averages(dtype: torch.dtype, rounded: Round, kind: str) -> None:
    """Each element adds up its windows' shares in their order, and rounds after each."""
    lengths, dilation = (5, 4), 2
    sent: dict[str, Any] = {"output_size": [9, 11]}
    axes = [adaptive(n, o) for n, o in zip(lengths, (9, 11), strict=True)]
    if kind == "avg":
        sent = {"kernel_size": 3, "stride": 1, "padding": 2, "dilation": dilation}
        sent |= {"convention": "onnx", "count_include_pad": False}
        axes = [sliding(n, 3, 1, 2, 2, dilation) for n in lengths]
    x = values((2, 2, *lengths), rounded)
    grad = values(shape_of(x, axes), rounded)
    dx = np.zeros_like(x)
    for o, taps in each_window(x, axes):
        real = [at for at in row_major(taps) if is_inside(at, lengths)]
        share = rounded(float(np.float32(grad[o]) / np.float32(len(real))))
        for at in real:
            dx[(*o[:2], *at)] = rounded(float(dx[(*o[:2], *at)]) + share)
    layer = f"{kind}_pool2d"
    fault = next(f for f in of_name("half-accumulation", layer) if f.changes)
    found = emulated(fault, layer, {"input": x}, grad, dtype, **sent)
    assert_same(found, {"gradients.input": dx}, rtol=0, atol=0)
    own = emulated(of_name("loss-mean", layer)[0], layer, {"input": x}, grad, **sent)
    assert_same(found, {"output": own["output"]}, rtol=2e-2)


def test_4096_ones_are_2048() -> None:
    """cubek#639: one element, of which every window has all."""
    fault = next(f for f in of_name("half-accumulation", "adaptive_avg_pool2d") if f.changes)
    inputs, grad = {"input": np.ones((1, 1, 1, 1))}, np.ones((1, 1, 64, 64))
    found = emulated(fault, "adaptive_avg_pool2d", inputs, grad, torch.float16, output_size=64)
    assert_same(found, {"gradients.input": [[[[2048]]]]}, rtol=0)


@EACH
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize(
    ("layer", "axes", "over", "options"),
    [
        ("batch_norm2d", (0, 2, 3), (0, 2, 3), {"training": True}),
        ("instance_norm", (2, 3), (0, 2, 3), {}),
        ("layer_norm", (3,), (0, 1, 2), {"axis": -1}),
        ("rms_norm", (3,), (0, 1, 2), {"axis": -1}),
    ],
)
def test_gradients_of_norms(
    dtype: torch.dtype,
    rounded: Round,
    everywhere: bool,
    layer: str,
    axes: tuple[int, ...],
    over: tuple[int, ...],
    options: Any,
) -> None:
    near = np.vectorize(rounded)

    def added(terms: np.ndarray, dims: tuple[int, ...]) -> np.ndarray:
        total = np.zeros([1 if i in dims else n for i, n in enumerate(terms.shape)])
        for index in np.ndindex(terms.shape):
            at = tuple(0 if i in dims else n for i, n in enumerate(index))
            total[at] = rounded(float(total[at]) + rounded(float(terms[index])))
        return total

    x, grad = values((3, 4, 5, 6), rounded), values((3, 4, 5, 6), rounded) / 8
    shape = (6,) if over == (0, 1, 2) else (4, 1, 1)
    weight = near(np.random.default_rng(4).uniform(1, 2, shape))
    inputs = {"input": x, "weight": weight.reshape(-1)}
    count = math.prod(x.shape[i] for i in axes)
    mean = 0 if layer == "rms_norm" else x.mean(axes, keepdims=True)
    scale = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + 0.25)
    normal = (x - mean) * scale
    through = grad * weight

    def averaged_over(terms: np.ndarray) -> Any:
        return added(terms, axes) / count if everywhere else terms.mean(axes, keepdims=True)

    dx = through - normal * averaged_over(through * normal)
    dx = (dx - (0 if layer == "rms_norm" else averaged_over(through))) * scale
    expected = {"gradients.input": dx, "gradients.weight": added(grad * normal, over).reshape(-1)}
    exact = (grad * normal).sum(over).reshape(-1)
    if layer != "rms_norm":
        expected["gradients.bias"] = added(grad, over).reshape(-1)
    faults = [fault for fault in of_name("half-accumulation", layer) if fault.changes]
    fault = faults[0 if everywhere else 1]
    found = emulated(fault, layer, inputs, grad, dtype, eps=0.25, **options)
    step = 2e-2 if dtype == torch.bfloat16 else 3e-3
    assert_same(found, expected, rtol=step, atol=step)
    assert not np.allclose(expected["gradients.weight"], exact, rtol=step / 4, atol=step / 4)


def test_3600_ones_are_2048() -> None:
    """The bias of a batch norm; 2048 + 1 rounds to 2048."""
    inputs, grad = {"input": np.ones((4, 1, 30, 30))}, np.ones((4, 1, 30, 30))
    for fault in of_name("half-accumulation", "batch_norm2d"):
        if fault.changes:
            found = emulated(fault, "batch_norm2d", inputs, grad, torch.float16, training=True)
            assert_same(found, {"gradients.bias": [2048]}, rtol=0)


def test_other_dtypes_are_computed_as_ever() -> None:
    fault = of_name("half-accumulation", "avg_pool1d")[0]
    found = emulated(
        fault, "avg_pool1d", {"input": [[[1.0, 2.0]]]}, None, torch.float32, kernel_size=2
    )
    assert_same(found, {"output": [[[1.5]]]})
