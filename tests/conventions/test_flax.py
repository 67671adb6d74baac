"""`convention: "flax"` against Flax: outputs, gradients, running statistics."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from app.compute import Engine
from tests.conftest import compute, unwire, wire
from tests.conventions import LENGTHS, close, parameters, sample, statistics

jax = pytest.importorskip("jax")
nn = pytest.importorskip("flax.linen")

SMALL = 0.01
CHANNELS = 3
DIMS = pytest.mark.parametrize("dims", [1, 2, 3])
Tensors = Mapping[str, torch.Tensor]


def feature_map(dims: int, channels: int = CHANNELS, scale: float = 1.0) -> torch.Tensor:
    return sample(2, *LENGTHS[:dims], channels, scale=scale)


def to_jax(tensor: torch.Tensor) -> Any:
    return jax.numpy.asarray(tensor.numpy())


def to_torch(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def agree(
    engine: Engine, name: str, theirs: Callable[[Any], Any], x: torch.Tensor, **options: object
) -> None:
    """Our layer gives the output and the gradient of a function of the input alone."""
    output, pull = jax.vjp(theirs, to_jax(x))
    grad_output = sample(*output.shape, seed=9)
    body = {"input": x, "grad_output": grad_output, "convention": "flax", **options}
    answer = compute(engine, name, body)
    close(answer["output"], to_torch(output))
    close(answer["gradients"]["input"], to_torch(pull(to_jax(grad_output))[0]))


def agree_with_module(
    engine: Engine, name: str, module: Any, x: torch.Tensor, tensors: Tensors, **options: object
) -> None:
    """Our layer gives the output, the gradients and the running statistics of a module."""
    names = {"weight": "kernel" if name.startswith("conv") else "scale", "bias": "bias"}
    params = {names[key]: to_jax(tensors[key]) for key in names if key in tensors}
    stats = {key: to_jax(tensors[f"running_{key}"]) for key in ("mean", "var")
             if f"running_{key}" in tensors}  # fmt: skip

    def apply(params: Any, x: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        return module.apply(variables, x, mutable=["batch_stats"])

    output, pull, updated = jax.vjp(apply, params, to_jax(x), has_aux=True)
    grad_output = sample(*output.shape, seed=9)
    body = {"input": x, "grad_output": grad_output, "convention": "flax", **tensors, **options}
    answer = compute(engine, name, body)
    grad_params, grad_input = pull(to_jax(grad_output))
    close(answer["output"], to_torch(output))
    close(answer["gradients"]["input"], to_torch(grad_input))
    for key in names.keys() & tensors.keys():
        close(answer["gradients"][key], to_torch(grad_params[names[key]]))
    if options.get("training"):
        for key, value in updated["batch_stats"].items():
            close(answer["running_stats"][key], to_torch(value))


WINDOWS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"padding": "same"},
    {"padding": "same", "stride": 2},
    {"padding": [2, 1]},
    {"padding": [2, 2], "stride": 2},  # more than half the kernel
]


def pooling(dims: int, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of ours and arguments of theirs; what is not given is left out on both sides."""
    ours: dict[str, Any] = {"kernel_size": 3, **given}
    theirs: dict[str, Any] = {"window_shape": (3,) * dims}
    if "stride" in given:
        theirs["strides"] = (given["stride"],) * dims
    if given.get("padding") == "same":
        theirs["padding"] = "SAME"
    elif "padding" in given:
        ours["padding"] = [given["padding"]] * dims
        theirs["padding"] = (tuple(given["padding"]),) * dims
    return ours, theirs


@DIMS
@pytest.mark.parametrize("given", WINDOWS)
def test_max_pool_gives_ties_to_the_first(engine: Engine, dims: int, given: Any) -> None:
    ours, theirs = pooling(dims, given)
    x = (2 * feature_map(dims)).round()  # many ties
    agree(engine, f"max_pool{dims}d", lambda v: nn.max_pool(v, **theirs), x, **ours)


@DIMS
@pytest.mark.parametrize("given", WINDOWS)
def test_avg_pool_counts_padding(engine: Engine, dims: int, given: Any) -> None:
    ours, theirs = pooling(dims, given)
    pool = lambda v: nn.avg_pool(v, **theirs)  # noqa: E731
    agree(engine, f"avg_pool{dims}d", pool, feature_map(dims), **ours)


@DIMS
def test_avg_pool_divides_by_the_real_elements_where_asked(engine: Engine, dims: int) -> None:
    ours, theirs = pooling(dims, {"padding": "same", "stride": 2})
    pool = lambda v: nn.avg_pool(v, **theirs, count_include_pad=False)  # noqa: E731
    agree(engine, f"avg_pool{dims}d", pool, feature_map(dims), count_include_pad=False, **ours)


def test_a_max_window_with_only_padding_is_the_lowest_value(engine: Engine) -> None:
    # Flax's own pools have no dilation, and the service accepts no more padding than the kernel.
    x = sample(2, 4, CHANNELS)
    pooled = jax.lax.reduce_window(
        to_jax(x), -jax.numpy.inf, jax.lax.max, (1, 2, 1), (1, 1, 1), ((0, 0), (2, 1), (0, 0)),
        window_dilation=(1, 5, 1),
    )  # fmt: skip
    expected = to_torch(pooled)
    assert expected.isneginf().any()
    assert not expected.isneginf().all()
    body = {"input": x, "kernel_size": 2, "dilation": 5, "padding": [[2, 1]], "convention": "flax"}
    answer = compute(engine, "max_pool1d", {**body, "empty_window": "lowest"})
    assert torch.equal(answer["output"], expected)


@DIMS
def test_unbatched_input_has_its_channels_last(engine: Engine, dims: int) -> None:
    ours, theirs = pooling(dims, {})
    x = feature_map(dims)[0]
    agree(engine, f"max_pool{dims}d", lambda v: nn.max_pool(v, **theirs), x, batched=False, **ours)


def test_nan_propagates(engine: Engine) -> None:
    # Outputs alone: XLA sends the gradient of such a window to an element behind the NaN.
    x = feature_map(1)
    x[0, 3, 1] = float("nan")
    expected = to_torch(nn.max_pool(to_jax(x), (3,)))
    answer = compute(engine, "max_pool1d", {"input": x, "kernel_size": 3, "convention": "flax"})
    torch.testing.assert_close(answer["output"], expected, equal_nan=True)


@DIMS
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_global_pool_drops_its_axes(engine: Engine, dims: int, kind: str) -> None:
    # Flax has no such layer; its models say `x.mean(axis=(1, 2))`.
    axes = tuple(range(1, dims + 1))
    pool = lambda v: v.mean(axes) if kind == "avg" else v.max(axes)  # noqa: E731
    agree(engine, f"global_{kind}_pool", pool, feature_map(dims))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_batch_norm(engine: Engine, dims: int, training: bool) -> None:
    x = feature_map(dims, scale=SMALL) if dims else sample(6, CHANNELS, scale=SMALL)
    tensors = parameters(CHANNELS) | statistics(CHANNELS, SMALL)
    module, name = nn.BatchNorm(use_running_average=not training), f"batch_norm{dims or 1}d"
    agree_with_module(engine, name, module, x, tensors, training=training)


def test_running_statistics_start_at_zero_and_one(engine: Engine) -> None:
    module, x = nn.BatchNorm(use_running_average=False), feature_map(2)
    variables = module.init(jax.random.key(0), to_jax(x))
    _, updated = module.apply(variables, to_jax(x), mutable=["batch_stats"])
    body = {"input": x, "training": True, "convention": "flax"}
    running = compute(engine, "batch_norm2d", body)["running_stats"]
    for key, value in updated["batch_stats"].items():
        close(running[key], to_torch(value))


def test_one_value_a_channel_has_variance_zero(engine: Engine) -> None:
    x, tensors = sample(1, CHANNELS), parameters(CHANNELS) | statistics(CHANNELS, 1.0)
    module = nn.BatchNorm(use_running_average=False)
    agree_with_module(engine, "batch_norm1d", module, x, tensors, training=True)


def test_replicas_share_their_statistics(engine: Engine) -> None:
    x, params = feature_map(1, scale=SMALL), parameters(CHANNELS)
    running = statistics(CHANNELS, SMALL)
    module = nn.BatchNorm(use_running_average=False, axis_name="replicas")
    variables = {
        "params": {"scale": to_jax(params["weight"]), "bias": to_jax(params["bias"])},
        "batch_stats": {key[8:]: to_jax(value) for key, value in running.items()},
    }

    def apply(x: Any) -> Any:
        return module.apply(variables, x, mutable=["batch_stats"])

    replicas = x[:, None]  # two replicas of one sample each
    output, pull, updated = jax.vjp(
        jax.vmap(apply, axis_name="replicas"), to_jax(replicas), has_aux=True
    )
    grad_output = sample(*output.shape, seed=9)
    body = {
        "inputs": [wire(replica) for replica in replicas],
        "grad_outputs": [wire(gradient) for gradient in grad_output],
        "training": True,
        "convention": "flax",
    }
    answer = compute(engine, "sync_batch_norm", body | params | running)
    outputs = [unwire(replica) for replica in answer["outputs"]]
    close(torch.stack(outputs), to_torch(output))
    gradients = [unwire(replica) for replica in answer["gradients"]["inputs"]]
    close(torch.stack(gradients), to_torch(pull(to_jax(grad_output))[0]))
    for key, value in updated["batch_stats"].items():
        close(answer["running_stats"][key], to_torch(value)[0])


@DIMS
def test_group_norm_has_32_groups(engine: Engine, dims: int) -> None:
    x = feature_map(dims, 64, scale=SMALL)
    agree_with_module(engine, "group_norm", nn.GroupNorm(), x, parameters(64))


@DIMS
def test_instance_norm(engine: Engine, dims: int) -> None:
    x = feature_map(dims, scale=SMALL)
    agree_with_module(engine, "instance_norm", nn.InstanceNorm(), x, parameters(CHANNELS))


@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
def test_layer_norm(engine: Engine, axes: tuple[int, ...]) -> None:
    x = feature_map(2, scale=SMALL)
    module = nn.LayerNorm(reduction_axes=axes, feature_axes=axes)
    tensors = parameters(*(x.shape[axis] for axis in axes))
    agree_with_module(engine, "layer_norm", module, x, tensors, axis=axes[0])


@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
def test_rms_norm(engine: Engine, axes: tuple[int, ...]) -> None:
    x = feature_map(2, scale=SMALL / 10)
    module = nn.RMSNorm(reduction_axes=axes, feature_axes=axes)
    weight = parameters(*(x.shape[axis] for axis in axes))["weight"]
    agree_with_module(engine, "rms_norm", module, x, {"weight": weight}, axis=axes[0])


@DIMS
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"stride": 2}, {"strides": 2}),
        ({"padding": "valid"}, {"padding": "VALID"}),
        ({"padding": "same", "stride": 2}, {"padding": "SAME", "strides": 2}),
        ({"padding": "same", "dilation": 2}, {"padding": "SAME", "kernel_dilation": 2}),
        ({"padding": 1, "groups": 2}, {"padding": 1, "feature_group_count": 2}),
    ],
)
def test_conv(engine: Engine, dims: int, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    module = nn.Conv(6, (3,) * dims, **theirs)
    weight = sample(*([3] * dims), 4 // ours.get("groups", 1), 6, seed=1)
    tensors = {"weight": weight, "bias": sample(6, seed=2)}
    agree_with_module(engine, f"conv{dims}d", module, feature_map(dims, 4), tensors, **ours)
