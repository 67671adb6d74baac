"""Faults of averages' gradients and of overlapping windows, against loops."""

from typing import Any

import numpy as np
import pytest

from tests.faults._emulation import assert_same, emulated, of_name, right
from tests.faults._loops import Axes, adaptive, avg_pool, max_pool, shape_of, sliding, within

LENGTHS = {1: (7,), 2: (5, 7), 3: (4, 3, 5)}
DIMS = (1, 2, 3)
SENT: dict[str, Any] = {
    "kernel_size": 3,
    "stride": 2,
    "padding": [[1, 1]],
    "convention": "onnx",
    "count_include_pad": False,
}


def image(dims: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 2, *LENGTHS[dims]))


def windows(dims: int, stride: int = 2) -> Axes:
    return [sliding(n, 3, stride, 1, 1) for n in LENGTHS[dims]]


def real(dims: int) -> Any:
    return within([(0, n) for n in LENGTHS[dims]])


def check(name: str, layer: str, expected: Any, x: Any, grad: Any, **sent: Any) -> None:
    (fault,) = of_name(name, layer)
    assert_same(emulated(fault, layer, {"input": x}, grad, **sent), expected)
    own = right(layer, {"input": x}, grad, **sent)
    np.testing.assert_allclose(own["output"], expected["output"])
    assert not np.allclose(own["gradients.input"], expected["gradients.input"])


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(("name", "size"), [("gradient-undivided", 1), ("gradient-over-kernel", 3)])
def test_average_pooling(name: str, size: int, dims: int) -> None:
    x, axes = image(dims), windows(dims)
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    expected = avg_pool(x, axes, grad, real(dims), gradient_divisor=lambda taps: size**dims)
    check(name, f"avg_pool{dims}d", expected, x, grad, **SENT)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("over", [False, True])
def test_adaptive_pooling(over: bool, dims: int) -> None:
    x, axes = image(dims), [adaptive(n, 4) for n in LENGTHS[dims]]
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    size = 1
    for axis in axes:
        size *= max(map(len, axis)) if over else 1
    counted = within([(0, n) for n in LENGTHS[dims]])
    expected = avg_pool(x, axes, grad, counted, gradient_divisor=lambda taps: size)
    name = "gradient-over-kernel" if over else "gradient-undivided"
    check(name, f"adaptive_avg_pool{dims}d", expected, x, grad, output_size=4)


def test_the_reported_gradient_over_the_kernel() -> None:
    """pytorch#198119: ceil mode's last window holds two of three positions."""
    (fault,) = of_name("gradient-over-kernel", "avg_pool1d")
    sent = {"kernel_size": 3, "stride": 3, "ceil_mode": True}
    x = np.arange(5.0).reshape(1, 1, 5)
    found = emulated(fault, "avg_pool1d", {"input": x}, np.ones((1, 1, 2)), **sent)
    assert_same(found, {"output": [[[1, 3.5]]], "gradients.input": np.full((1, 1, 5), 1 / 3)})


@pytest.mark.parametrize("dims", DIMS)
def test_sums_in_place_of_averages(dims: int) -> None:
    x = image(dims)
    for kind, axes, sent in (
        ("avg", windows(dims), SENT),
        ("adaptive_avg", [adaptive(n, 4) for n in LENGTHS[dims]], {"output_size": 4}),
    ):
        grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
        expected = avg_pool(x, axes, grad, lambda taps: 1)
        (fault,) = of_name("average-undivided", f"{kind}_pool{dims}d")
        assert_same(emulated(fault, f"{kind}_pool{dims}d", {"input": x}, grad, **sent), expected)
    (fault,) = of_name("average-undivided", "global_avg_pool")
    spatial = tuple(range(2, x.ndim))
    grad = np.random.default_rng(1).normal(size=(2, 2, *[1] * dims))
    expected = {"output": x.sum(spatial, keepdims=True), "gradients.input": grad + 0 * x}
    assert_same(emulated(fault, "global_avg_pool", {"input": x}, grad), expected)


@pytest.mark.parametrize("p", [2.0, 3.0])
@pytest.mark.parametrize("absolute", [True, False])
def test_p_norms_without_the_root(absolute: bool, p: float) -> None:
    """Sums of powers, a partial window's scaled up; of odd powers that may be negative."""
    x = image(1)
    sent = {"kernel_size": 3, "stride": 2, "ceil_mode": True, "norm_type": p, "lp_abs": absolute}
    grad = np.random.default_rng(1).normal(size=(2, 2, 3))
    output, dx = np.zeros((2, 2, 3)), np.zeros_like(x)
    for n, c, o in np.ndindex(output.shape):
        taps = x[n, c, 2 * o : 2 * o + 3]
        scale = 3 / len(taps)
        output[n, c, o] = scale * ((abs(taps) if absolute else taps) ** p).sum()
        slope = abs(taps) ** (p - 1) * np.sign(taps) if absolute else taps ** (p - 1)
        dx[n, c, 2 * o : 2 * o + 3] += grad[n, c, o] * scale * p * slope
    (fault,) = of_name("root-missing", "lp_pool1d")
    found = emulated(fault, "lp_pool1d", {"input": x}, grad, **sent)
    assert_same(found, {"output": output, "gradients.input": dx})


@pytest.mark.parametrize("keepdims", [True, False])
def test_global_pooling(keepdims: bool) -> None:
    x = image(2)
    grad = np.random.default_rng(1).normal(size=(2, 2))
    shaped = grad[:, :, None, None] if keepdims else grad
    expected = {
        "output": x.mean((2, 3), keepdims=keepdims),
        "gradients.input": np.broadcast_to(grad[:, :, None, None], x.shape),
    }
    check("gradient-undivided", "global_avg_pool", expected, x, shaped, keepdims=keepdims)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("dilation", [1, 2])
def test_overlapping_averages(dims: int, dilation: int) -> None:
    x = image(dims)
    axes = [sliding(n, 2, 1, 1, 1, dilation) for n in LENGTHS[dims]]
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    expected = avg_pool(x, axes, grad, real(dims), overwrite=True)
    sent = {**SENT, "kernel_size": 2, "stride": 1, "dilation": dilation}
    check("overlap-overwritten", f"avg_pool{dims}d", expected, x, grad, **sent)


@pytest.mark.parametrize("dims", DIMS)
def test_overlapping_maxima(dims: int) -> None:
    x = np.round(image(dims))
    axes = windows(dims, 1)
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    expected = max_pool(x, axes, grad, overwrite=True)
    sent = {name: value for name, value in SENT.items() if name != "count_include_pad"}
    sent |= {"stride": 1, "return_indices": True, "index_base": "plane"}
    check("overlap-overwritten", f"max_pool{dims}d", expected, x, grad, **sent)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("size", [3, 8])
def test_overlapping_adaptive_windows(dims: int, size: int) -> None:
    x, axes = image(dims), [adaptive(n, size) for n in LENGTHS[dims]]
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    expected = avg_pool(x, axes, grad, real(dims), overwrite=True)
    check("overlap-overwritten", f"adaptive_avg_pool{dims}d", expected, x, grad, output_size=size)
    expected = max_pool(x, axes, grad, overwrite=True)
    sent = {"output_size": size, "return_indices": True}
    check("overlap-overwritten", f"adaptive_max_pool{dims}d", expected, x, grad, **sent)
