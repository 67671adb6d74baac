"""Gradients of overlapping windows that overwrite each other, against loops."""

from typing import Any

import numpy as np
import pytest

from tests.faults._emulation import assert_same, emulated, of_name, right
from tests.faults._loops import (
    Axes,
    adaptive,
    each_window,
    is_inside,
    max_pool,
    row_major,
    shape_of,
    sliding,
)

LENGTHS = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
DIMS = (1, 2, 3)


def lp_loop(x: np.ndarray, axes: Axes, grad: np.ndarray, p: float, *, scaled: bool) -> Any:
    """The p-norm of absolute values; a partial window's sum is scaled by its padded length."""
    output, dx = np.zeros(shape_of(x, axes)), np.zeros_like(x)
    for o, taps in each_window(x, axes):
        real = [at for at in row_major(taps) if is_inside(at, x.shape[2:])]
        total = sum(abs(x[(*o[:2], *at)]) ** p for at in real)
        if scaled:
            ends = [(-1, n + 1) for n in x.shape[2:]]  # padding of one counts, the overhang not
            count = np.prod(
                [sum(a <= c < b for c in t) for t, (a, b) in zip(taps, ends, strict=True)]
            )
            total *= np.prod([len(t) for t in taps]) / count
        output[o] = total ** (1 / p)
        for at in real:
            value = x[(*o[:2], *at)]
            factor = 1.0
            if scaled:
                factor = np.prod([len(t) for t in taps]) / count
            slope = np.sign(value) * abs(value) ** (p - 1)
            dx[(*o[:2], *at)] = grad[o] * factor * slope * output[o] ** (1 - p)
    return {"output": output, "gradients.input": dx}


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("partial", ["sum", "scaled"])
@pytest.mark.parametrize("p", [2.0, 3.0])
def test_p_norms(p: float, partial: str, dims: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2, *LENGTHS[dims]))
    overhangs = [n % 2 == 0 for n in LENGTHS[dims]]
    axes = [sliding(n, 3, 2, 1, 1 + over) for n, over in zip(LENGTHS[dims], overhangs, strict=True)]
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    expected = lp_loop(x, axes, grad, p, scaled=partial == "scaled")
    sent: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1, "norm_type": p}
    sent |= {"lp_partial": partial, "lp_abs": True, "ceil_mode": True}
    (fault,) = of_name("overlap-overwritten", f"lp_pool{dims}d")
    assert_same(emulated(fault, f"lp_pool{dims}d", {"input": x}, grad, **sent), expected)
    own = right(f"lp_pool{dims}d", {"input": x}, grad, **sent)
    assert not np.allclose(own["gradients.input"], expected["gradients.input"])


def test_a_norm_of_zeros_passes_no_gradient() -> None:
    (fault,) = of_name("overlap-overwritten", "lp_pool1d")
    x, grad = np.array([[[3.0, 4.0, 0.0, 0.0]]]), np.ones((1, 1, 3))
    found = emulated(fault, "lp_pool1d", {"input": x}, grad, kernel_size=2, stride=1)
    assert_same(found, {"output": [[[5, 4, 0]]], "gradients.input": [[[0.6, 1, 0, 0]]]})


def tied(dims: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (2, 2, *LENGTHS[dims])).astype(float)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("tie", ["all", "split"])
def test_equal_maxima(tie: str, dims: int) -> None:
    """Each winner gets all or its share, and the last window overwrites."""
    x = tied(dims)
    axes = [sliding(n, 3, 1, 1, 0) for n in LENGTHS[dims]]
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    dx = np.zeros_like(x)
    for o, taps in each_window(x, axes):
        real = [(*o[:2], *at) for at in row_major(taps) if is_inside(at, x.shape[2:])]
        winners = [at for at in real if x[at] == max(x[other] for other in real)]
        for at in winners:
            dx[at] = grad[o] / (len(winners) if tie == "split" else 1)
    (fault,) = of_name("overlap-overwritten", f"max_pool{dims}d")
    sent = {"kernel_size": 3, "stride": 1, "padding": [[1, 0]], "tie": tie, "convention": "onnx"}
    found = emulated(fault, f"max_pool{dims}d", {"input": x}, grad, **sent)
    expected = max_pool(x, axes, grad)["output"]
    assert_same(found, {"output": expected, "gradients.input": dx})


def gated(x: np.ndarray, axes: Axes, grad: np.ndarray) -> np.ndarray:
    """First each window writes the gate of its elements, then each adds its gradient through."""
    gate, dx = np.zeros(x.shape, bool), np.zeros_like(x)
    for o, taps in each_window(x, axes):
        real = [(*o[:2], *at) for at in row_major(taps) if is_inside(at, x.shape[2:])]
        best = max(real, key=lambda at: x[at])
        for at in real:
            gate[at] = at == best
    for o, taps in each_window(x, axes):
        for at in row_major(taps):
            if is_inside(at, x.shape[2:]) and gate[(*o[:2], *at)]:
                dx[(*o[:2], *at)] += grad[o]
    return dx


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", ["max", "adaptive_max"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_gate_of_the_last_window(dilation: int, kind: str, dims: int) -> None:
    x = tied(dims)
    sent: dict[str, Any] = {"output_size": [8, 4, 3][:dims], "return_indices": True}
    axes: Axes = [adaptive(n, o) for n, o in zip(LENGTHS[dims], (8, 4, 3), strict=False)]
    if kind == "max":
        sent = {"kernel_size": 2, "stride": 1, "padding": [[1, 1]], "dilation": dilation}
        sent |= {"convention": "onnx"}
        axes = [sliding(n, 2, 1, 1, 1, dilation) for n in LENGTHS[dims]]
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    (fault,) = of_name("gate-overwritten", f"{kind}_pool{dims}d")
    found = emulated(fault, f"{kind}_pool{dims}d", {"input": x}, grad, **sent)
    plain = max_pool(x, axes, grad)
    assert_same(found, {"output": plain["output"], "gradients.input": gated(x, axes, grad)})
    assert not np.allclose(found["gradients.input"], plain["gradients.input"])


def test_the_reported_gate() -> None:
    """ocannl#512."""
    (fault,) = of_name("gate-overwritten", "max_pool1d")
    x, grad = np.array([[[5.0, 3.0, 1.0, 2.0, 5.0]]]), np.ones((1, 1, 4))
    found = emulated(fault, "max_pool1d", {"input": x}, grad, kernel_size=2, stride=1)
    assert_same(found, {"output": [[[5, 3, 2, 5]]], "gradients.input": [[[1, 2, 0, 0, 1]]]})
