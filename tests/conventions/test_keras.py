"""`convention: "keras"` against Keras 3 on its torch backend: outputs, gradients, statistics."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from app.compute import Engine
from tests.conftest import compute
from tests.conventions import LENGTHS, by_windows, close, parameters, sample, statistics

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")

SMALL = 0.01
CHANNELS = 3
DIMS = pytest.mark.parametrize("dims", [1, 2, 3])
KINDS = pytest.mark.parametrize(("ours", "theirs"), [("avg", "Average"), ("max", "Max")])
VARIABLES = {
    "weight": ("gamma", "scale", "kernel"),
    "bias": ("beta", "bias"),
    "running_mean": ("moving_mean",),
    "running_var": ("moving_variance",),
}
"""What Keras calls a tensor of ours, in one layer or another."""


def feature_map(dims: int, channels: int = CHANNELS, scale: float = 1.0) -> torch.Tensor:
    return sample(2, *LENGTHS[:dims], channels, scale=scale)


def variable(layer: Any, field: str) -> Any:
    """Keras's variable for a field of ours; some layers have a switch of the same name."""
    named = (getattr(layer, name, None) for name in VARIABLES[field])
    return next(v for v in named if isinstance(v, keras.Variable))


def agree(
    engine: Engine,
    name: str,
    layer: Any,
    x: torch.Tensor,
    options: Mapping[str, object],
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Our layer gives the output, the gradients and the running statistics of Keras's."""
    tensors = tensors or {}
    layer.build(tuple(x.shape))
    for field, value in tensors.items():
        variable(layer, field).assign(value)
    leaf = x.clone().requires_grad_()
    output = layer(leaf, **{key: options[key] for key in ("training",) if key in options})
    grad_output = sample(*output.shape, seed=9)
    output.backward(grad_output)
    body = {"input": x, "grad_output": grad_output, "convention": "keras", **options, **tensors}
    answer = compute(engine, name, body)
    close(answer["output"], output.detach())
    assert leaf.grad is not None
    close(answer["gradients"]["input"], leaf.grad)
    for field in {"weight", "bias"} & tensors.keys():
        close(answer["gradients"][field], variable(layer, field).value.grad)
    if options.get("training"):
        close(answer["running_stats"]["mean"], layer.moving_mean.value.detach())
        close(answer["running_stats"]["var"], layer.moving_variance.value.detach())


@DIMS
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [{}, {"stride": 2}])
def test_max_pool(engine: Engine, dims: int, padding: str, stride: dict[str, int]) -> None:
    layer = getattr(keras.layers, f"MaxPooling{dims}D")(3, stride.get("stride"), padding)
    options = {"kernel_size": 3, "padding": padding, **stride}
    agree(engine, f"max_pool{dims}d", layer, feature_map(dims), options)


@DIMS
@pytest.mark.parametrize("stride", [{}, {"stride": 2}])
def test_avg_pool(engine: Engine, dims: int, stride: dict[str, int]) -> None:
    layer = getattr(keras.layers, f"AveragePooling{dims}D")(3, stride.get("stride"))
    agree(engine, f"avg_pool{dims}d", layer, feature_map(dims), {"kernel_size": 3, **stride})


@DIMS
def test_avg_pool_does_not_count_padding(engine: Engine, dims: int) -> None:
    x = sample(2, *([7] * dims), CHANNELS)  # one element of padding on either side
    layer = getattr(keras.layers, f"AveragePooling{dims}D")(3, padding="same")
    agree(engine, f"avg_pool{dims}d", layer, x, {"kernel_size": 3, "padding": "same"})


@DIMS
def test_avg_pool_pads_more_behind(engine: Engine, dims: int) -> None:
    # Keras's torch backend averages copies of the border here; no other backend does
    # (keras-team/keras#23233).
    x = sample(2, *([8] * dims), CHANNELS).requires_grad_()
    first, outputs = [0] * dims, [4] * dims
    pooled = by_windows(x.movedim(-1, 1), 3, 2, first, outputs, lambda w: w.mean(-1)).movedim(1, -1)
    grad_output = sample(*pooled.shape, seed=9)
    pooled.backward(grad_output)
    options = {"kernel_size": 3, "stride": 2, "padding": "same", "convention": "keras"}
    body = {"input": x.detach(), "grad_output": grad_output, **options}
    answer = compute(engine, f"avg_pool{dims}d", body)
    close(answer["output"], pooled.detach())
    assert x.grad is not None
    close(answer["gradients"]["input"], x.grad)


@DIMS
def test_indices_count_as_tensorflow_does(engine: Engine, dims: int) -> None:
    # Keras answers no indices; tf.nn.max_pool_with_argmax documents (y * width + x) * channels + c.
    x = feature_map(dims)
    body = {"input": x, "kernel_size": 3, "return_indices": True, "convention": "keras"}
    answer = compute(engine, f"max_pool{dims}d", body)
    found = x.flatten(1).gather(1, answer["indices"].flatten(1))
    assert torch.equal(found, answer["output"].flatten(1))


@DIMS
@KINDS
def test_adaptive_pool(engine: Engine, dims: int, ours: str, theirs: str) -> None:
    layer = getattr(keras.layers, f"Adaptive{theirs}Pooling{dims}D")(5)
    agree(engine, f"adaptive_{ours}_pool{dims}d", layer, feature_map(dims), {"output_size": 5})


@DIMS
@KINDS
def test_global_pool_drops_its_axes(engine: Engine, dims: int, ours: str, theirs: str) -> None:
    layer = getattr(keras.layers, f"Global{theirs}Pooling{dims}D")()
    agree(engine, f"global_{ours}_pool", layer, feature_map(dims), {})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_batch_norm(engine: Engine, dims: int, training: bool) -> None:
    x = feature_map(dims, scale=SMALL) if dims else sample(6, CHANNELS, scale=SMALL)
    tensors = parameters(CHANNELS) | statistics(CHANNELS, SMALL)
    layer, name = keras.layers.BatchNormalization(), f"batch_norm{dims or 1}d"
    agree(engine, name, layer, x, {"training": training}, tensors)


def test_running_statistics_start_at_zero_and_one(engine: Engine) -> None:
    layer = keras.layers.BatchNormalization()
    agree(engine, "batch_norm2d", layer, feature_map(2), {"training": True})


def test_one_value_a_channel_has_variance_zero(engine: Engine) -> None:
    tensors = parameters(CHANNELS) | statistics(CHANNELS, 1.0)
    layer = keras.layers.BatchNormalization()
    agree(engine, "batch_norm1d", layer, sample(1, CHANNELS), {"training": True}, tensors)


@DIMS
def test_group_norm_has_32_groups(engine: Engine, dims: int) -> None:
    layer, x = keras.layers.GroupNormalization(), feature_map(dims, 64, scale=SMALL)
    agree(engine, "group_norm", layer, x, {}, parameters(64))


@DIMS
def test_instance_norm(engine: Engine, dims: int) -> None:
    layer, x = keras.layers.GroupNormalization(groups=-1), feature_map(dims, scale=SMALL)
    agree(engine, "instance_norm", layer, x, {}, parameters(CHANNELS))


@pytest.mark.parametrize("axes", [[-1], [-2, -1]])
def test_layer_norm(engine: Engine, axes: list[int]) -> None:
    layer, x = keras.layers.LayerNormalization(axis=axes), feature_map(2, scale=SMALL)
    tensors = parameters(*(x.shape[axis] for axis in axes))
    agree(engine, "layer_norm", layer, x, {"axis": axes[0]}, tensors)


@pytest.mark.parametrize("axes", [[-1], [-2, -1]])
def test_rms_norm(engine: Engine, axes: list[int]) -> None:
    layer, x = keras.layers.RMSNormalization(axis=axes), feature_map(2, scale=SMALL / 10)
    weight = parameters(*(x.shape[axis] for axis in axes))["weight"]
    agree(engine, "rms_norm", layer, x, {"axis": axes[0]}, {"weight": weight})


@DIMS
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"padding": "same", "stride": 2}, {"padding": "same", "strides": 2}),
        ({"padding": "same", "dilation": 2}, {"padding": "same", "dilation_rate": 2}),
        ({"groups": 2}, {"groups": 2}),
    ],
)
def test_conv(engine: Engine, dims: int, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    layer = getattr(keras.layers, f"Conv{dims}D")(6, 3, **theirs)
    weight = sample(*([3] * dims), 4 // ours.get("groups", 1), 6, seed=1)
    tensors = {"weight": weight, "bias": sample(6, seed=2)}
    agree(engine, f"conv{dims}d", layer, feature_map(dims, 4), ours, tensors)
