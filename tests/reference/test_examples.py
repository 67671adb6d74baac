"""Regression tests: requests once answered incorrectly, with their correct results."""

from typing import Any

import numpy as np
import pytest

from app.compute import Engine
from tests.reference.service import ask

LAYOUTS = ("channels_first", "channels_last")


def array(values: Any) -> Any:
    return np.array(values, np.float64)


def test_instance_norm_of_one_sample_with_channels_last(engine: Engine) -> None:
    body = {
        "input": array([[[[1, 2], [3, 5], [4, 9]]]]),
        "grad_output": array([[[[1, 0], [2, 1], [0, 3]]]]),
        "layout": "channels_last",
        "dtype": "float64",
    }
    gradient = ask(engine, "instance_norm", body)["gradients.input"]
    assert np.allclose(gradient[0, 0, :, 0], [-0.2863, 0.8590, -0.5727], atol=5e-4)


def test_group_norm_of_a_large_mean_with_channels_last(engine: Engine) -> None:
    body = {
        "input": array([[[[10000, 10003], [10001, 10002]]]]),
        "num_groups": 1,
        "layout": "channels_last",
    }
    output = ask(engine, "group_norm", body)["output"]
    assert np.allclose(output, [[[[-1.34164, 1.34164], [-0.44721, 0.44721]]]], atol=1e-5)


def test_max_pool3d_of_the_lowest_value_with_channels_last(engine: Engine) -> None:
    body = {
        "input": np.array([[[[[9, 9]]], [[[0, 0]]]]], np.uint8),
        "kernel_size": 1,
        "dtype": "uint8",
        "layout": "channels_last",
        "tie": "split",
        "return_indices": True,
    }
    answer = ask(engine, "max_pool3d", body)
    assert answer["output"].tolist() == [[[[[9, 9]]], [[[0, 0]]]]]
    assert answer["indices"].tolist() == [[[[[0, 0]]], [[[1, 1]]]]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_pool1d_of_many_small_integers(engine: Engine, layout: str) -> None:
    body = {
        "input": np.zeros((1, 128, 2), np.int8),
        "kernel_size": 1,
        "dtype": "int8",
        "layout": layout,
        "return_indices": True,
    }
    indices = ask(engine, "max_pool1d", body)["indices"]
    axis = 2 if layout == "channels_first" else 1
    assert (indices == np.arange(indices.shape[axis]).reshape(-1, *[1] * (2 - axis))).all()


def test_batch_norm_of_a_large_constant_batch(engine: Engine) -> None:
    body = {"input": np.full((8, 224, 224, 3), 3.3), "training": True, "layout": "channels_last"}
    assert not ask(engine, "batch_norm2d", body)["output"].any()


def test_rms_norm_of_large_numbers_passes_the_right_gradient(engine: Engine) -> None:
    body = {"input": array([[1e15, 2e15]]), "axis": -1, "grad_output": "ones"}
    gradient = ask(engine, "rms_norm", body)["gradients.input"]
    # With r = sqrt(5 / 2) 1e15: (1 - 1 * 3 / 5) / r and (1 - 2 * 3 / 5) / r.
    root = np.sqrt(2.5) * 1e15
    assert np.allclose(gradient, [[0.4 / root, -0.2 / root]], rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [512, 1024])
def test_averages_of_a_constant(engine: Engine, kernel: int, layout: str) -> None:
    shape = (1, 1, kernel, kernel) if layout == "channels_first" else (1, kernel, kernel, 1)
    body = {"input": np.full(shape, 3.3), "layout": layout}
    for layer, options in (
        ("avg_pool2d", {"kernel_size": kernel}),
        ("adaptive_avg_pool2d", {"output_size": 1}),
        ("adaptive_avg_pool2d", {"output_size": 3}),
        ("global_avg_pool", {}),
    ):
        output = ask(engine, layer, {**body, **options})["output"]
        assert (output == float(np.float32(3.3))).all(), layer
