"""Faults of adaptive windows, against loops."""

from typing import Any

import numpy as np
import pytest

from app.layers import LAYERS
from tests.faults._emulation import assert_same, emulated, of_name, planned
from tests.faults._loops import avg_pool, max_pool, shape_of, within

LENGTHS = {1: (7,), 2: (5, 7), 3: (4, 3, 5)}
SIZE = {1: (3,), 2: (3, 4), 3: (3, 2, 1)}
DIMS = (1, 2, 3)


def floored(length: int, output: int) -> list[list[int]]:
    return [list(range(i * length // output, (i + 1) * length // output)) for i in range(output)]


def fixed(length: int, output: int) -> list[list[int]]:
    stride = length // output
    kernel = length - (output - 1) * stride
    return [list(range(i * stride, i * stride + kernel)) for i in range(output)]


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize(
    ("name", "windows"), [("adaptive-end-floored", floored), ("adaptive-fixed-stride", fixed)]
)
def test_windows(name: str, windows: Any, dims: int) -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(2, 3, *LENGTHS[dims])) * 2)
    axes = [windows(n, o) for n, o in zip(LENGTHS[dims], SIZE[dims], strict=True)]
    grad = rng.normal(size=shape_of(x, axes))
    sent: dict[str, Any] = {"output_size": list(SIZE[dims])}
    (fault,) = of_name(name, f"adaptive_avg_pool{dims}d")
    expected = avg_pool(x, axes, grad, within([(0, n) for n in LENGTHS[dims]]))
    assert_same(emulated(fault, f"adaptive_avg_pool{dims}d", {"input": x}, grad, **sent), expected)

    (fault,) = of_name(name, f"adaptive_max_pool{dims}d")
    sent["return_indices"] = True
    expected = max_pool(x, axes, grad)
    assert_same(emulated(fault, f"adaptive_max_pool{dims}d", {"input": x}, grad, **sent), expected)


@pytest.mark.parametrize(
    ("size", "applies"), [(3, True), (7, False), (8, False), (1, False), (0, False)]
)
def test_only_uneven_windows_of_at_least_one_element(size: int, applies: bool) -> None:
    spec = LAYERS["adaptive_max_pool1d"]
    for name in ("adaptive-end-floored", "adaptive-fixed-stride"):
        (fault,) = of_name(name, spec.name)
        plan = planned(spec, spec, {"input": np.zeros((1, 1, 7))}, output_size=size)
        assert fault.applies(plan) is applies
