"""Faults of weight and bias, against formulas in NumPy."""

from typing import Any

import numpy as np
import pytest

from tests.faults._emulation import (
    assert_same,
    assert_slopes,
    differences,
    emulated,
    of_name,
    right,
)
from tests.faults._loops import conv, sliding
from tests.faults.test_norms import EACH, EPS, Norm, client, gradient_of, inputs_of, sent


def plain(norm: Norm) -> Any:
    return client(norm, lambda var, n: 1 / np.sqrt(var + EPS))


@EACH
def test_affine_swapped(norm: Norm) -> None:
    (fault,) = of_name("affine-swapped", norm.layer)
    inputs, grad = inputs_of(norm), gradient_of(norm)

    def swapped(input: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:  # noqa: A002
        return plain(norm)(input, bias, weight)

    found = emulated(fault, norm.layer, inputs, grad, **sent(norm))
    assert_same(found, {"output": swapped(**inputs)})
    assert_slopes(found, differences(swapped, inputs, grad, list(inputs)))


@EACH
@pytest.mark.parametrize(
    ("name", "neutral"),
    [("affine-ignored", {"weight": 1.0, "bias": 0.0}), ("bias-ignored", {"bias": 0.0})],
)
def test_norms_without_them(name: str, neutral: dict[str, float], norm: Norm) -> None:
    """The first gives them the gradients that they have at these values, the second none."""
    inputs, grad = inputs_of(norm), gradient_of(norm)
    used = {n: np.full_like(v, neutral[n]) if n in neutral else v for n, v in inputs.items()}
    slopes = differences(plain(norm), used, grad, list(inputs))
    nothing = {f"gradients.{n}": np.zeros_like(inputs[n]) for n in neutral}
    for fault, gradients in zip(
        of_name(name, norm.layer), (slopes, {**slopes, **nothing}), strict=True
    ):
        found = emulated(fault, norm.layer, inputs, grad, **sent(norm))
        assert_same(found, {"output": plain(norm)(**used)})
        assert_slopes(found, gradients)
    own = right(norm.layer, inputs, grad, **sent(norm))
    assert not np.allclose(own["output"], found["output"])


@pytest.mark.parametrize("offset", [0, 1])
def test_rms_norm_without_its_weight(offset: int) -> None:
    rng = np.random.default_rng(0)
    x, weight, grad = rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=(3, 5))
    for fault in of_name("affine-ignored", "rms_norm"):
        options = {"axis": -1, "eps": EPS, "weight_offset": offset}
        found = emulated(fault, "rms_norm", {"input": x, "weight": weight}, grad, **options)
        assert_same(found, {"output": x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)})
    assert not of_name("bias-ignored", "rms_norm")


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_without_its_bias(dims: int) -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "input": rng.normal(size=(2, 3, *[4] * dims)),
        "weight": rng.normal(size=(2, 3, *[2] * dims)),
        "bias": rng.normal(size=2),
    }
    grad = rng.normal(size=(2, 2, *[3] * dims))
    axes = [sliding(4, 2, 1, 0, 0)] * dims
    expected = conv(inputs["input"], inputs["weight"], np.zeros(2), axes, 1, grad)
    with_gradient, without = of_name("bias-ignored", f"conv{dims}d")
    assert_same(emulated(with_gradient, f"conv{dims}d", inputs, grad), expected)
    expected["gradients.bias"] = np.zeros(2)
    assert_same(emulated(without, f"conv{dims}d", inputs, grad), expected)
