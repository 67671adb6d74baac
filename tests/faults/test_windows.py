"""Faults of windows, against loops over the windows that the client read."""

from typing import Any

import numpy as np
import pytest

from app.faults import Fault
from tests.faults._emulation import assert_same, emulated, of_name, right
from tests.faults._loops import (
    avg_pool,
    conv,
    max_pool,
    shape_of,
    sliding,
    within,
)

LENGTHS = {1: (6,), 2: (5, 6), 3: (5, 4, 3)}
KERNEL = {1: (3,), 2: (2, 3), 3: (3, 2, 2)}
STRIDE = {1: (2,), 2: (1, 2), 3: (2, 1, 1)}
PADS = {1: ((1, 2),), 2: ((1, 0), (1, 2)), 3: ((2, 1), (0, 1), (1, 0))}
DILATION = {1: (2,), 2: (2, 1), 3: (1, 2, 2)}
DIMS = (1, 2, 3)


def only(name: str, layer: str, count: int = 1) -> list[Fault]:
    faults = of_name(name, layer)
    assert len(faults) == count
    return faults


def one(name: str, layer: str) -> Fault:
    return only(name, layer)[0]


def options(dims: int, **others: Any) -> dict[str, Any]:
    return {
        "convention": "onnx",
        "kernel_size": list(KERNEL[dims]),
        "stride": list(STRIDE[dims]),
        "padding": [list(pad) for pad in PADS[dims]],
        **others,
    }


def image(dims: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 3, *LENGTHS[dims])) - 0.5


def full(dims: int, dilation: Any = None) -> list[list[list[int]]]:
    """The windows that the options describe."""
    dilation = dilation or (1,) * dims
    rows = zip(LENGTHS[dims], KERNEL[dims], STRIDE[dims], PADS[dims], dilation, strict=True)
    return [sliding(n, k, s, b, a, d) for n, k, s, (b, a), d in rows]


def shifted(axes: Any, by: Any) -> list[list[list[int]]]:
    return [[[c + b for c in w] for w in axis] for axis, b in zip(axes, by, strict=True)]


def gradient(x: np.ndarray, axes: Any) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape_of(x, axes))


def check_average(fault: Fault, dims: int, axes: Any, bounds: Any, **others: Any) -> None:
    x = image(dims)
    grad = gradient(x, axes)
    sent = options(dims, count_include_pad=True, **others)
    expected = avg_pool(x, axes, grad, within(bounds))
    assert_same(emulated(fault, f"avg_pool{dims}d", {"input": x}, grad, **sent), expected)
    right_now = right(f"avg_pool{dims}d", {"input": x}, grad, **sent)
    assert not np.allclose(right_now["output"], expected["output"])


def check_maximum(fault: Fault, dims: int, axes: Any, **others: Any) -> None:
    x = image(dims)
    grad = gradient(x, axes)
    sent = options(dims, return_indices=True, index_base="plane", **others)
    expected = max_pool(x, axes, grad)
    assert_same(emulated(fault, f"max_pool{dims}d", {"input": x}, grad, **sent), expected)
    right_now = right(f"max_pool{dims}d", {"input": x}, None, **sent)
    assert right_now["output"].shape != expected["output"].shape or not np.allclose(
        right_now["output"], expected["output"]
    )


def check_conv(fault: Fault, dims: int, axes: Any, weight: Any = None, **others: Any) -> None:
    x, rng = image(dims), np.random.default_rng(2)
    own = rng.normal(size=(4, 3, *KERNEL[dims])) if weight is None else weight
    inputs = {"input": x, "weight": own, "bias": rng.normal(size=4)}
    grad = rng.normal(size=(2, 4, *(len(axis) for axis in axes)))
    sent = options(dims, **others)
    del sent["kernel_size"]
    expected = conv(x, own, inputs["bias"], axes, 1, grad)
    assert_same(emulated(fault, f"conv{dims}d", inputs, grad, **sent), expected)


@pytest.mark.parametrize("dims", DIMS)
def test_end_padding_dropped(dims: int) -> None:
    (fault,) = only("end-padding-dropped", f"avg_pool{dims}d")
    bounds = [(-b, n) for n, (b, _) in zip(LENGTHS[dims], PADS[dims], strict=True)]
    check_average(fault, dims, full(dims), bounds)


@pytest.mark.parametrize("dims", DIMS)
def test_end_padding_as_begin(dims: int) -> None:
    (fault,) = only("end-padding-as-begin", f"avg_pool{dims}d")
    bounds = [(-b, n + b) for n, (b, _) in zip(LENGTHS[dims], PADS[dims], strict=True)]
    check_average(fault, dims, full(dims), bounds)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("dilated", [False, True])
def test_begin_padding_dropped(dims: int, dilated: bool) -> None:
    dilation = DILATION[dims] if dilated else (1,) * dims
    sent = {"dilation": list(dilation)}
    axes = shifted(full(dims, dilation), [b for b, _ in PADS[dims]])
    bounds = [(0, n + a) for n, (_, a) in zip(LENGTHS[dims], PADS[dims], strict=True)]
    check_maximum(one("begin-padding-dropped", f"max_pool{dims}d"), dims, axes, **sent)
    check_average(one("begin-padding-dropped", f"avg_pool{dims}d"), dims, axes, bounds, **sent)
    check_conv(one("begin-padding-dropped", f"conv{dims}d"), dims, axes, **sent)


@pytest.mark.parametrize("dims", DIMS)
def test_begin_padding_as_end(dims: int) -> None:
    axes = shifted(full(dims), [b - a for b, a in PADS[dims]])
    bounds = [(-a, n + a) for n, (_, a) in zip(LENGTHS[dims], PADS[dims], strict=True)]
    check_maximum(one("begin-padding-as-end", f"max_pool{dims}d"), dims, axes)
    check_average(one("begin-padding-as-end", f"avg_pool{dims}d"), dims, axes, bounds)
    check_conv(one("begin-padding-as-end", f"conv{dims}d"), dims, axes)


def test_a_window_without_elements_has_no_maximum() -> None:
    (fault,) = only("begin-padding-dropped", "max_pool1d")
    x = np.array([[[1.0, 3.0]]])
    sent = {"kernel_size": 2, "stride": 1, "padding": 1, "return_indices": True}
    found = emulated(fault, "max_pool1d", {"input": x}, np.array([[[1.0, 2.0, 4.0]]]), **sent)
    assert_same(
        found,
        {
            "output": [[[3, 3, -np.inf]]],
            "indices": [[[1, 1, -1]]],
            "gradients.input": [[[0, 3]]],
        },
    )


@pytest.mark.parametrize("dims", DIMS)
def test_dilation_ignored(dims: int) -> None:
    sent = {"dilation": list(DILATION[dims])}
    bounds = [(-b, n + a) for n, (b, a) in zip(LENGTHS[dims], PADS[dims], strict=True)]
    dilated = full(dims, DILATION[dims])
    starts = [[window[0] for window in axis] for axis in dilated]
    narrow = [
        [[start + i for i in range(k)] for start in axis]
        for axis, k in zip(starts, KERNEL[dims], strict=True)
    ]
    for layer, check in (("max_pool", check_maximum), ("conv", check_conv)):
        shrunk, same_shape = only("dilation-ignored", f"{layer}{dims}d", 2)
        check(shrunk, dims, full(dims), **sent)
        check(same_shape, dims, narrow, **sent)
    shrunk, same_shape = only("dilation-ignored", f"avg_pool{dims}d", 2)
    check_average_of_any_shape(shrunk, dims, full(dims), bounds, **sent)
    check_average(same_shape, dims, narrow, bounds, **sent)


def check_average_of_any_shape(
    fault: Fault, dims: int, axes: Any, bounds: Any, **others: Any
) -> None:
    x = image(dims)
    grad = gradient(x, axes)
    sent = options(dims, count_include_pad=True, **others)
    found = emulated(fault, f"avg_pool{dims}d", {"input": x}, grad, **sent)
    assert_same(found, avg_pool(x, axes, grad, within(bounds)))


def from_clamped(dims: int) -> list[list[list[int]]]:
    axes = []
    rows = zip(full(dims, DILATION[dims]), DILATION[dims], strict=True)
    for windows, dilation in rows:
        axes.append([list(range(max(0, w[0]), w[-1] + 1, dilation)) for w in windows])
    return axes


@pytest.mark.parametrize("dims", DIMS)
def test_dilation_from_clamped_begin(dims: int) -> None:
    sent = {"dilation": list(DILATION[dims])}
    (fault,) = only("dilation-from-clamped-begin", f"max_pool{dims}d")
    check_maximum(fault, dims, from_clamped(dims), **sent)
    (fault,) = only("dilation-from-clamped-begin", f"avg_pool{dims}d")
    x, axes = image(dims), from_clamped(dims)
    grad = gradient(x, axes)
    bounds = [(0, n) for n in LENGTHS[dims]]
    found = emulated(
        fault,
        f"avg_pool{dims}d",
        {"input": x},
        grad,
        **options(dims, count_include_pad=False, **sent),
    )
    assert_same(found, avg_pool(x, axes, grad, within(bounds)))


def test_the_reported_dilation_from_clamped_begin() -> None:
    """The numbers of onnxruntime#29637."""
    (fault,) = only("dilation-from-clamped-begin", "max_pool1d")
    x = np.array([[[1, 9, 2, 8, 3, 7, 4, 6, 5]]], dtype=float)
    sent = {"kernel_size": 2, "stride": 1, "padding": [[1, 1]], "dilation": 2}
    found = emulated(fault, "max_pool1d", {"input": x}, return_indices=True, **sent)
    expected = {
        "output": [[[1, 2, 9, 3, 8, 4, 7, 5, 6]]],
        "indices": [[[0, 2, 1, 4, 3, 6, 5, 8, 7]]],
    }
    assert_same(found, expected)


@pytest.mark.parametrize("dims", DIMS)
def test_edge_replicated(dims: int) -> None:
    (fault,) = only("edge-replicated", f"avg_pool{dims}d")
    x = image(dims)
    padded = np.pad(x, ((0, 0), (0, 0), *PADS[dims]), mode="edge")
    axes = shifted(full(dims), [b for b, _ in PADS[dims]])
    grad = gradient(x, axes)
    bounds = [(0, n) for n in padded.shape[2:]]
    expected = avg_pool(padded, axes, grad, within(bounds))
    on_padding = expected.pop("gradients.input")
    dx = np.zeros_like(x)
    for index in np.ndindex(padded.shape):
        at = [
            min(max(c - b, 0), n - 1)
            for c, (b, _), n in zip(index[2:], PADS[dims], LENGTHS[dims], strict=True)
        ]
        dx[(*index[:2], *at)] += on_padding[index]
    for count_include_pad in (True, False):
        sent = options(dims, count_include_pad=count_include_pad)
        found = emulated(fault, f"avg_pool{dims}d", {"input": x}, grad, **sent)
        assert_same(found, {**expected, "gradients.input": dx})


@pytest.mark.parametrize("dims", [2, 3])
def test_axes_swapped(dims: int) -> None:
    reversed_rows = zip(
        LENGTHS[dims], KERNEL[dims][::-1], STRIDE[dims][::-1], PADS[dims][::-1], strict=True
    )
    axes = [sliding(n, k, s, b, a) for n, k, s, (b, a) in reversed_rows]
    bounds = [(-b, n + a) for n, (b, a) in zip(LENGTHS[dims], PADS[dims][::-1], strict=True)]
    check_maximum(one("axes-swapped", f"max_pool{dims}d"), dims, axes)
    (fault,) = only("axes-swapped", f"avg_pool{dims}d")
    check_average_of_any_shape(fault, dims, axes, bounds)


@pytest.mark.parametrize("dims", [2, 3])
def test_axes_swapped_in_convolution(dims: int) -> None:
    whole, but_kernel = only("axes-swapped", f"conv{dims}d", 2)
    rows = zip(LENGTHS[dims], KERNEL[dims], STRIDE[dims][::-1], PADS[dims][::-1], strict=True)
    check_conv(but_kernel, dims, [sliding(n, k, s, b, a) for n, k, s, (b, a) in rows])

    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 3, *KERNEL[dims]))
    inputs = {"input": image(dims), "weight": weight, "bias": rng.normal(size=4)}
    turned = np.transpose(weight, (0, 1, *range(dims + 1, 1, -1)))
    rows = zip(LENGTHS[dims], KERNEL[dims][::-1], STRIDE[dims][::-1], PADS[dims][::-1], strict=True)
    axes = [sliding(n, k, s, b, a) for n, k, s, (b, a) in rows]
    grad = rng.normal(size=(2, 4, *(len(axis) for axis in axes)))
    expected = conv(inputs["input"], turned, inputs["bias"], axes, 1, grad)
    back = (0, 1, *range(dims + 1, 1, -1))
    expected["gradients.weight"] = np.transpose(expected["gradients.weight"], back)
    sent = options(dims)
    del sent["kernel_size"]
    assert_same(emulated(whole, f"conv{dims}d", inputs, grad, **sent), expected)
    for one in (inputs, expected):
        name = "weight" if one is inputs else "gradients.weight"
        one[name] = np.moveaxis(one[name], (1, 0), (-2, -1))
    sent["weight_layout"] = "hwio"
    assert_same(emulated(whole, f"conv{dims}d", inputs, grad, **sent), expected)


def test_lp_pooling_loses_its_padding_as_averages_do() -> None:
    (fault,) = only("end-padding-dropped", "lp_pool1d")
    x = np.array([[[3.0, 4.0, 12.0]]])
    sent = {"kernel_size": 2, "stride": 1, "padding": [[0, 1]], "norm_type": 2}
    found = emulated(fault, "lp_pool1d", {"input": x}, **sent)
    # The last window holds one of two taps, and its sum is scaled by 2.
    assert_same(found, {"output": [[[5, np.hypot(4, 12), 12 * np.sqrt(2)]]]})
