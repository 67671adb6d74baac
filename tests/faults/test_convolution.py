"""Faults of a convolution's weight, against loops."""

from typing import Any

import numpy as np
import pytest

from app.layers import LAYERS
from tests.faults._emulation import assert_same, emulated, of_name, planned, right
from tests.faults._loops import conv, sliding

LENGTHS = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
DIMS = (1, 2, 3)
SENT: dict[str, Any] = {"stride": 2, "padding": [[1, 2]], "convention": "onnx"}


def hwio(weight: np.ndarray) -> np.ndarray:
    return np.moveaxis(weight, (1, 0), (-2, -1))


def check(name: str, dims: int, turn: Any, turn_back: Any, groups: int = 1) -> None:
    """`turn` is what the client does to [out, in, *kernel] before a right convolution."""
    layer = f"conv{dims}d"
    (fault,) = of_name(name, layer)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4 // groups, *[3] * dims))
    inputs = {"input": rng.normal(size=(2, 4, *LENGTHS[dims])), "weight": weight}
    inputs["bias"] = rng.normal(size=4)
    axes = [sliding(n, 3, 2, 1, 2) for n in LENGTHS[dims]]
    grad = rng.normal(size=(2, 4, *(len(axis) for axis in axes)))
    expected = conv(inputs["input"], turn(weight), inputs["bias"], axes, groups, grad)
    expected["gradients.weight"] = turn_back(expected["gradients.weight"])
    sent = {**SENT, "groups": groups}
    assert_same(emulated(fault, layer, inputs, grad, **sent), expected)
    own = right(layer, inputs, grad, **sent)
    assert not np.allclose(own["output"], expected["output"])
    inputs["weight"], sent["weight_layout"] = hwio(weight), "hwio"
    expected["gradients.weight"] = hwio(expected["gradients.weight"])
    assert_same(emulated(fault, layer, inputs, grad, **sent), expected)


@pytest.mark.parametrize("dims", DIMS)
def test_kernel_flipped(dims: int) -> None:
    def flip(weight: np.ndarray) -> np.ndarray:
        return np.flip(weight, tuple(range(2, weight.ndim)))

    check("kernel-flipped", dims, flip, flip)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("groups", [1, 2])
def test_weight_transposed(dims: int, groups: int) -> None:
    def transpose(weight: np.ndarray) -> np.ndarray:
        size = 4 // groups
        blocks = [weight[i : i + size].swapaxes(0, 1) for i in range(0, 4, size)]
        return np.concatenate(blocks)

    check("weight-transposed", dims, transpose, transpose, groups)


@pytest.mark.parametrize("dims", [2, 3])
def test_kernel_transposed(dims: int) -> None:
    def transpose(weight: np.ndarray) -> np.ndarray:
        return np.transpose(weight, (0, 1, *range(weight.ndim - 1, 1, -1)))

    check("kernel-transposed", dims, transpose, transpose)


@pytest.mark.parametrize(
    ("shape", "groups", "applies"),
    [((4, 4, 3), 1, True), ((3, 4, 3), 1, False), ((4, 2, 3), 2, True), ((4, 1, 3), 4, False)],
)
def test_only_square_weights_are_transposed(
    shape: tuple[int, ...], groups: int, applies: bool
) -> None:
    spec = LAYERS["conv1d"]
    (fault,) = of_name("weight-transposed", "conv1d")
    inputs = {"input": np.zeros((1, shape[1] * groups, 7)), "weight": np.zeros(shape)}
    assert fault.applies(planned(spec, spec, inputs, groups=groups)) is applies
    inputs["weight"] = hwio(inputs["weight"])
    sent = {"groups": groups, "weight_layout": "hwio"}
    assert fault.applies(planned(spec, spec, inputs, **sent)) is applies
