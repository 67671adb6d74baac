"""Faults of maxima, against loops over each window."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from app.faults import Fault
from tests.faults._emulation import Arrays, assert_same, emulated, of_name, right
from tests.faults._loops import (
    Axes,
    adaptive,
    column_major,
    each_window,
    is_inside,
    max_pool,
    plane_index,
    row_major,
    shape_of,
    sliding,
)

LENGTHS = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
SLIDING: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": [[1, 1]], "convention": "onnx"}
DIMS = (1, 2, 3)
LAYERS = ("max", "adaptive_max", "global_max")
NAN = math.nan


def layer_of(kind: str, dims: int) -> str:
    return "global_max_pool" if kind == "global_max" else f"{kind}_pool{dims}d"


def options_of(kind: str) -> dict[str, Any]:
    if kind == "max":
        return {**SLIDING, "return_indices": True, "index_base": "plane"}
    return {"output_size": 3, "return_indices": True} if kind == "adaptive_max" else {}


def windows_of(kind: str, dims: int) -> Axes:
    if kind == "max":
        return [sliding(n, 3, 2, 1, 1) for n in LENGTHS[dims]]
    if kind == "adaptive_max":
        return [adaptive(n, 3) for n in LENGTHS[dims]]
    return [[list(range(n))] for n in LENGTHS[dims]]


def with_ties(dims: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, size=(2, 2, *LENGTHS[dims])).astype(float)


def with_nans(dims: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 2, *LENGTHS[dims]))
    x[rng.random(x.shape) < 0.3] = NAN
    x[rng.random(x.shape) < 0.1] = -np.inf
    return x


def check(name: str, kind: str, dims: int, x: np.ndarray, **rules: Any) -> None:
    layer, axes = layer_of(kind, dims), windows_of(kind, dims)
    fault, *others = of_name(name, layer)
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    expected = max_pool(x, axes, grad, **rules)
    if kind == "global_max":
        expected.pop("indices")
    found = emulated(fault, layer, {"input": x}, grad, **options_of(kind))
    assert_same(found, expected)
    own = right(layer, {"input": x}, grad, **options_of(kind))
    assert_wrong(expected, own)
    for other in others:  # with the right indices
        found = emulated(other, layer, {"input": x}, grad, **options_of(kind))
        assert_same(found, {**expected, "indices": own["indices"]})
        assert_wrong({"indices": expected["indices"]}, own)


def assert_wrong(expected: Arrays, found: Arrays) -> None:
    assert not all(np.array_equal(found[name], expected[name], equal_nan=True) for name in expected)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_tie_last(kind: str, dims: int) -> None:
    def wins(value: float, best: float) -> bool:
        return value >= best

    check("tie-last", kind, dims, with_ties(dims), wins=wins)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", LAYERS)
def test_tie_column_major(kind: str, dims: int) -> None:
    check("tie-column-major", kind, dims, with_ties(dims), order=column_major)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["tie-last", "tie-column-major"])
def test_ties_in_ceil_mode(name: str, dims: int) -> None:
    fault, _ = of_name(name, f"max_pool{dims}d")
    x = with_ties(dims)
    axes = [sliding(n, 2, 2, 0, n % 2) for n in LENGTHS[dims]]
    rules: Any = {"order": column_major}
    if name == "tie-last":
        rules = {"wins": lambda value, best: value >= best}
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    sent = {"kernel_size": 2, "ceil_mode": True, "return_indices": True}
    found = emulated(fault, f"max_pool{dims}d", {"input": x}, grad, **sent)
    assert_same(found, max_pool(x, axes, grad, **rules))


FAR: dict[str, Any] = {"kernel_size": 2, "dilation": 4, "stride": 1, "padding": [[4, 3]]}
"""Over 3 elements: windows of two taps, some of them both outside."""


@pytest.mark.parametrize("name", ["tie-last", "nan-if-first", "maximum-from-lowest"])
@pytest.mark.parametrize(("choice", "empty"), [("zero", 0.0), ("lowest", -math.inf)])
def test_windows_without_elements(name: str, choice: str, empty: float) -> None:
    fault = of_name(name, "max_pool1d")[0]
    x = np.array([[[2.0, 5.0, 3.0]]])
    sent = {**FAR, "convention": "onnx", "empty_window": choice, "return_indices": True}
    axes = [sliding(3, 2, 1, 4, 3, 4)]
    grad = np.arange(1.0, len(axes[0]) + 1).reshape(1, 1, -1)
    expected = max_pool(x, axes, grad)
    expected["output"][expected["indices"] < 0] = empty
    assert (expected["indices"] < 0).any()
    dtype = torch.float32 if fault.in_dtype else torch.float64
    assert_same(emulated(fault, "max_pool1d", {"input": x}, grad, dtype, **sent), expected)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_nan_if_first(kind: str, dims: int) -> None:
    def wins(value: float, best: float) -> bool:
        return value > best

    x = with_nans(dims)
    if kind == "global_max":
        x[0, 0].flat[0], x[1, 1].flat[0] = NAN, 1.0
    check("nan-if-first", kind, dims, x, wins=wins)


@pytest.mark.parametrize("tie", ["first", "all"])
@pytest.mark.parametrize(("choice", "empty"), [("zero", 0.0), ("lowest", -math.inf)])
def test_moved_windows_without_elements(choice: str, empty: float, tie: str) -> None:
    (fault,) = of_name("begin-padding-dropped", "max_pool1d")
    x, grad = np.array([[[2.0, 5.0, 3.0]]]), np.arange(1.0, 7).reshape(1, 1, 6)
    sent = {**FAR, "convention": "onnx", "empty_window": choice, "tie": tie}
    found = emulated(fault, "max_pool1d", {"input": x}, grad, **sent)
    assert_same(found, {"output": [[[2, 5, 3, *[empty] * 3]]], "gradients.input": [[[1, 2, 3]]]})


def from_lowest(x: np.ndarray, axes: Axes, grad: np.ndarray, least: float) -> Arrays:
    output = np.full(shape_of(x, axes), least)
    where, dx = np.full(output.shape, -1), np.zeros_like(x)
    for o, taps in each_window(x, axes):
        best = None
        for at in row_major(taps):
            if is_inside(at, x.shape[2:]) and x[(*o[:2], *at)] > output[o]:
                best, output[o] = at, x[(*o[:2], *at)]
        if best is not None:
            where[o] = plane_index(best, x.shape[2:])
            dx[(*o[:2], *best)] += grad[o]
    return {"output": output, "indices": where, "gradients.input": dx}


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_maximum_from_lowest(kind: str, dims: int) -> None:
    layer, axes = layer_of(kind, dims), windows_of(kind, dims)
    (fault,) = of_name("maximum-from-lowest", layer)
    x = with_nans(dims).astype("float32").astype(float)
    x[0, 0] = -np.inf
    x[1, 1] = NAN
    grad = np.random.default_rng(1).integers(1, 9, size=shape_of(x, axes)).astype(float)
    expected = from_lowest(x, axes, grad, float(np.finfo("float32").min))
    if kind == "global_max":
        expected.pop("indices")
    found = emulated(fault, layer, {"input": x}, grad, torch.float32, **options_of(kind))
    assert_same(found, expected)


@pytest.mark.parametrize("dims", DIMS)
def test_zero_padded_maximum(dims: int) -> None:
    fault, _ = of_name("zero-padded-maximum", f"max_pool{dims}d")
    x = with_ties(dims) - 2.5
    check_zeros(fault, x, windows_of("max", dims), options_of("max"), 1, 1)


def check_zeros(
    fault: Fault, x: np.ndarray, axes: Axes, sent: dict[str, Any], before: int, after: int
) -> None:
    """Against maxima of an input with zeros around it."""
    dims = x.ndim - 2
    grad = np.random.default_rng(1).normal(size=shape_of(x, axes))
    padded = np.pad(x, ((0, 0), (0, 0), *[(before, after)] * dims))
    moved = [[[c + before for c in window] for window in axis] for axis in axes]
    expected = max_pool(padded, moved, grad)
    inner: Any = (..., *(slice(before, before + n) for n in x.shape[2:]))
    expected["gradients.input"] = expected["gradients.input"][inner]
    where = expected["indices"]
    for o in np.ndindex(where.shape):
        at = np.unravel_index(where[o], padded.shape[2:])
        where[o] = plane_index([int(c) - before for c in at], x.shape[2:])
    found = emulated(fault, f"max_pool{dims}d", {"input": x}, grad, **sent)
    assert_same(found, expected)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("before", [0, 1])
def test_overhang_filled_with_zeros(before: int, dims: int) -> None:
    """Windows of 3, two apart, over 4 elements an axis: the last one reaches beyond the end."""
    _, fault = of_name("zero-padded-maximum", f"max_pool{dims}d")
    x = np.random.default_rng(0).integers(0, 3, (2, 2, *[4] * dims)) - 2.5
    sent = {"kernel_size": 3, "stride": 2, "padding": [[before, 0]], "ceil_mode": True}
    sent |= {"return_indices": True, "index_base": "plane", "convention": "onnx"}
    axes = [sliding(4, 3, 2, before, 1 - before)] * dims
    if not before:
        check_zeros(fault, x, axes, sent, 0, 1)
    else:
        sent["stride"] = 3
        check_zeros(fault, x, [sliding(4, 3, 3, 1, 1)] * dims, sent, 1, 1)


def test_overhang_is_not_padded_with_zeros() -> None:
    fault, _ = of_name("zero-padded-maximum", "max_pool1d")
    x = np.array([[[-3.0, -1.0, -2.0, -5.0, -4.0]]])
    sent = {"kernel_size": 2, "stride": 2, "padding": [[1, 0]], "ceil_mode": True}
    found = emulated(fault, "max_pool1d", {"input": x}, **sent)
    assert_same(found, {"output": [[[0, -1, -4]]]})
    sent["padding"] = 0
    found = emulated(fault, "max_pool1d", {"input": x}, **sent)
    assert_same(found, {"output": [[[-1, -2, -4]]]})


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", ["index-from-one", "index-padded", "index-in-window"])
def test_indices(name: str, dims: int) -> None:
    x, axes = with_ties(dims), windows_of("max", dims)
    (fault,) = of_name(name, f"max_pool{dims}d")
    grad = np.ones(shape_of(x, axes))
    plain = max_pool(x, axes, grad)
    expected = {**plain, "indices": np.zeros_like(plain["indices"])}
    for o, taps in each_window(x, axes):
        at = [int(c) for c in np.unravel_index(plain["indices"][o], x.shape[2:])]
        if name == "index-from-one":
            index = plane_index(at, x.shape[2:]) + 1
        elif name == "index-padded":
            index = plane_index([c + 1 for c in at], [n + 2 for n in x.shape[2:]])
        else:
            index = plane_index(
                [axis.index(c) for axis, c in zip(taps, at, strict=True)], [3] * dims
            )
        expected["indices"][o] = index
    found = emulated(fault, f"max_pool{dims}d", {"input": x}, grad, **options_of("max"))
    assert_same(found, expected)


@pytest.mark.parametrize("dims", DIMS)
def test_adaptive_indices_within_windows_of_their_own_lengths(dims: int) -> None:
    x, axes = with_ties(dims), windows_of("adaptive_max", dims)
    (fault,) = of_name("index-in-window", f"adaptive_max_pool{dims}d")
    plain = max_pool(x, axes, np.ones(shape_of(x, axes)))["indices"]
    expected = np.zeros_like(plain)
    for o, taps in each_window(x, axes):
        at = np.unravel_index(plain[o], x.shape[2:])
        tap = [axis.index(int(c)) for axis, c in zip(taps, at, strict=True)]
        expected[o] = plane_index(tap, [len(axis) for axis in taps])
    found = emulated(fault, f"adaptive_max_pool{dims}d", {"input": x}, **options_of("adaptive_max"))
    assert_same(found, {"indices": expected})


def test_index_bases_hold_with_faults() -> None:
    """Of the whole padded tensor; a tie is found in the base that was asked for."""
    x = np.array([[[5.0, 5.0, 1.0], [2.0, 7.0, 7.0]]])
    sent = {"kernel_size": 3, "stride": 1, "padding": 1, "return_indices": True}
    last = index_fault("tie-last")
    for base, expected in (
        ("plane", [[[1, 1, 1], [1, 2, 2]]]),
        ("onnx", [[[1, 1, 1], [4, 5, 5]]]),
        ("tf", [[[2, 2, 2], [3, 5, 5]]]),
    ):
        found = emulated(last, "max_pool1d", {"input": x}, index_base=base, **sent)
        assert_same(found, {"indices": expected})
    padded = index_fault("index-padded")
    found = emulated(padded, "max_pool1d", {"input": x}, index_base="onnx", **sent)
    assert_same(found, {"indices": [[[1, 1, 2], [7, 7, 7]]]})


def index_fault(name: str) -> Fault:
    return of_name(name, "max_pool1d")[0]
