"""Faults of the loss, and of ReLU."""

import math

import numpy as np
import pytest

from tests.faults._emulation import assert_same, emulated, of_name, right

X = np.array([[[-1.5, 0.0, 2.0, 3.0]], [[1.0, -0.5, 0.25, 7.0]]])


@pytest.mark.parametrize(
    ("layer", "options", "outputs"),
    [
        ("relu", {}, 8),
        ("max_pool1d", {"kernel_size": 2}, 4),
        ("avg_pool1d", {"kernel_size": 2}, 4),
        ("global_avg_pool", {}, 2),
        ("batch_norm1d", {"training": True}, 8),
        ("layer_norm", {"axis": -1}, 8),
    ],
)
def test_a_loss_of_means(layer: str, options: dict[str, object], outputs: int) -> None:
    grad = np.arange(1.0, outputs + 1)
    own = right(layer, {"input": X}, grad.reshape(shape_of(layer, options)), **options)
    for name, divisor in (("loss-mean", outputs), ("loss-mean-over-batch", 2)):
        (fault,) = of_name(name, layer)
        found = emulated(
            fault, layer, {"input": X}, grad.reshape(shape_of(layer, options)), **options
        )
        expected = {n: v / divisor if n.startswith("gradients.") else v for n, v in own.items()}
        assert_same(found, expected)


def shape_of(layer: str, options: dict[str, object]) -> tuple[int, ...]:
    return right(layer, {"input": X}, **options)["output"].shape


def test_the_mean_is_over_all_replicas() -> None:
    (fault,) = of_name("loss-mean", "sync_batch_norm")
    inputs = {"inputs.0": np.array([[1.0], [4.0]]), "inputs.1": np.array([[3.0]])}
    grads = [np.array([[1.0], [3.0]]), np.array([[-2.0]])]
    own = right("sync_batch_norm", inputs, grads, training=True)
    found = emulated(fault, "sync_batch_norm", inputs, grads, training=True)
    expected = {n: v / 3 if n.startswith("gradients.") else v for n, v in own.items()}
    assert_same(found, {name: v for name, v in expected.items() if "replicas" not in name})


def test_relu_without_nan() -> None:
    (fault,) = of_name("nan-to-zero", "relu")
    x, grad = np.array([math.nan, -1.0, 0.0, 2.0]), np.array([1.0, 2.0, 4.0, 8.0])
    found = emulated(fault, "relu", {"input": x}, grad)
    assert_same(found, {"output": [0, 0, 0, 2], "gradients.input": [0, 0, 0, 8]})


def test_relu_with_a_gradient_at_zero() -> None:
    x, grad = np.array([math.nan, -1.0, 0.0, 2.0]), np.array([1.0, 2.0, 4.0, 8.0])
    for fault, at_zero in zip(of_name("gradient-at-zero", "relu"), (4, 2), strict=True):
        found = emulated(fault, "relu", {"input": x}, grad)
        assert_same(found, {"output": [math.nan, 0, 0, 2], "gradients.input": [1, 0, at_zero, 8]})
