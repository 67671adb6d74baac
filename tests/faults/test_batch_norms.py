"""Faults of batch, instance, group and synchronized batch norm, against formulas in NumPy."""

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

EPS = 0.25
SHAPES = {1: (4, 3, 2), 2: (3, 2, 2, 3), 3: (2, 3, 2, 1, 3)}
DIMS = (1, 2, 3)


def inputs_of(shape: tuple[int, ...], *, running: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    channels = shape[1]
    inputs = {
        "input": rng.normal(0.5, 1.5, shape),
        "weight": rng.normal(size=channels),
        "bias": rng.normal(size=channels),
    }
    if running:
        inputs["running_mean"] = rng.normal(size=channels)
        inputs["running_var"] = rng.uniform(0.5, 2, channels)
    return inputs


def by_channel(vector: np.ndarray, x: np.ndarray) -> Any:
    return vector.reshape(1, -1, *[1] * (x.ndim - 2))


def all_but(x: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis)


@pytest.mark.parametrize("dims", DIMS)
def test_inverse_std_as_variance(dims: int) -> None:
    layer = f"batch_norm{dims}d"
    (fault,) = of_name("inverse-std-as-variance", layer)
    inputs = inputs_of(SHAPES[dims])
    x, axes = inputs["input"], all_but(inputs["input"], 1)
    grad = np.random.default_rng(1).normal(size=x.shape)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    right_inverse = 1 / np.sqrt(var + EPS)
    inverse = 1 / np.sqrt(right_inverse + EPS)
    moved = (x - mean) * inverse
    g = grad * by_channel(inputs["weight"], x)
    dx = inverse * (g - g.mean(axes, keepdims=True) - moved * (g * moved).mean(axes, keepdims=True))
    normal = (x - mean) * right_inverse
    expected = {
        "output": normal * by_channel(inputs["weight"], x) + by_channel(inputs["bias"], x),
        "batch_stats.mean": mean.reshape(-1),
        "batch_stats.var": var.reshape(-1),
        "batch_stats.inv_std": right_inverse.reshape(-1),
        "gradients.input": dx,
        "gradients.weight": (grad * moved).sum(axes),
        "gradients.bias": grad.sum(axes),
    }
    found = emulated(fault, layer, inputs, grad, training=True, eps=EPS)
    assert_same(found, expected)
    own = right(layer, inputs, grad, training=True, eps=EPS)
    assert not np.allclose(own["gradients.input"], dx)


@pytest.mark.parametrize("layer", ["batch_norm1d", "sync_batch_norm"])
def test_inverse_std_as_variance_with_running_statistics(layer: str) -> None:
    (fault,) = of_name("inverse-std-as-variance", layer)
    inputs = inputs_of((4, 3, 2), running=True)
    x, grad = inputs["input"], np.random.default_rng(1).normal(size=(4, 3, 2))
    right_inverse = by_channel(1 / np.sqrt(inputs["running_var"] + EPS), x)
    inverse = 1 / np.sqrt(right_inverse + EPS)
    moved = x - by_channel(inputs["running_mean"], x)
    weight = by_channel(inputs["weight"], x)
    expected = {
        "output": moved * right_inverse * weight + by_channel(inputs["bias"], x),
        "gradients.input": grad * weight * inverse,
        "gradients.weight": (grad * moved * inverse).sum((0, 2)),
        "gradients.bias": grad.sum((0, 2)),
    }
    sent: dict[str, np.ndarray] = dict(inputs)
    grads: Any = grad
    if layer == "sync_batch_norm":
        del sent["input"]
        sent |= {"inputs.0": x[:1], "inputs.1": x[1:]}
        grads = [grad[:1], grad[1:]]
        for name, own in (("output", "outputs"), ("gradients.input", "gradients.inputs")):
            whole = expected.pop(name)
            expected |= {f"{own}.0": whole[:1], f"{own}.1": whole[1:]}
    assert_same(emulated(fault, layer, sent, grads, training=False, eps=EPS), expected)


def running_after(old: Any, seen: Any, share: float, times: int = 1) -> Any:
    for _ in range(times):
        old = (1 - share) * old + share * seen
    return old


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("name", ["running-std", "running-not-updated", "running-updated-twice"])
def test_running_statistics(name: str, estimator: str) -> None:
    fault = of_name(name, "batch_norm2d")[0]
    inputs = inputs_of(SHAPES[2], running=True)
    x, axes = inputs["input"], all_but(inputs["input"], 1)
    mean, var = x.mean(axes), x.var(axes, ddof=estimator == "unbiased")
    old_mean, old_var = inputs["running_mean"], inputs["running_var"]
    cases: dict[str, Any] = {
        "running-std": (
            running_after(old_mean, mean, 0.3),
            running_after(old_var, np.sqrt(var), 0.3),
            5,
        ),
        "running-not-updated": (old_mean, old_var, 4),
        "running-updated-twice": (
            running_after(old_mean, mean, 0.3, 2),
            running_after(old_var, var, 0.3, 2),
            6,
        ),
    }
    expected = cases[name]
    sent = {
        "training": True,
        "momentum": 0.3,
        "running_var_estimator": estimator,
        "num_batches_tracked": 4,
    }
    names = ("mean", "var", "num_batches_tracked")
    stats = {f"running_stats.{n}": v for n, v in zip(names, expected, strict=True)}
    grad = np.random.default_rng(1).normal(size=x.shape)
    found = emulated(fault, "batch_norm2d", inputs, grad, **sent)
    own = right("batch_norm2d", inputs, grad, **sent)
    assert_same(found, {**own, **stats})
    assert not np.allclose(own["running_stats.var"], found["running_stats.var"])


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_other_estimates_than_the_variance(estimator: str) -> None:
    """That of Flux#314, and the inverse deviation; both of the biased variance."""
    inputs = inputs_of(SHAPES[2], running=True)
    x, axes = inputs["input"], all_but(inputs["input"], 1)
    count = x.size // x.shape[1]
    deviation = np.sqrt(x.var(axes) + EPS)
    _, flux = of_name("running-std", "batch_norm2d")
    (inverse,) = of_name("running-inverse-std", "batch_norm2d")
    sent = {"training": True, "momentum": 0.3, "eps": EPS, "running_var_estimator": estimator}
    for fault, kept in ((flux, deviation * count / (count - 1)), (inverse, 1 / deviation)):
        found = emulated(fault, "batch_norm2d", inputs, **sent)
        own = right("batch_norm2d", inputs, **sent)
        var = running_after(inputs["running_var"], kept, 0.3)
        assert_same(found, {**own, "running_stats.var": var})


def test_a_cumulative_average_updated_twice() -> None:
    (fault,) = of_name("running-updated-twice", "batch_norm1d")
    inputs = inputs_of((4, 3), running=True)
    sent = {"training": True, "momentum": None, "num_batches_tracked": 2}
    found = emulated(fault, "batch_norm1d", inputs, **sent)
    mean = inputs["input"].mean(0)
    once = inputs["running_mean"] * 2 / 3 + mean / 3
    expected = {"running_stats.mean": once * 3 / 4 + mean / 4}
    assert_same(found, {**expected, "running_stats.num_batches_tracked": 4})


def normalized(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(var + EPS))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("name", ["statistics-per-sample", "statistics-of-all-channels"])
def test_batch_norm_over_other_axes(name: str, dims: int) -> None:
    layer = f"batch_norm{dims}d"
    (fault,) = of_name(name, layer)
    inputs = inputs_of(SHAPES[dims])
    x = inputs["input"]
    axes = tuple(range(2 if name == "statistics-per-sample" else 1, x.ndim))
    count = int(np.prod([x.shape[axis] for axis in axes]))

    def forward(input: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:  # noqa: A002
        return normalized(input, axes) * by_channel(weight, x) + by_channel(bias, x)

    grad = np.random.default_rng(1).normal(size=x.shape)
    found = emulated(fault, layer, inputs, grad, training=True, eps=EPS, momentum=0.3)
    channels = (x.shape[0], x.shape[1])
    mean, var = (
        np.broadcast_to(one.reshape(x.shape[0], -1), channels).mean(0)
        for one in (x.mean(axes), x.var(axes))
    )
    unbiased = var * count / (count - 1)
    expected = {
        "output": forward(**inputs),
        "batch_stats.mean": mean,
        "batch_stats.var": var,
        "batch_stats.var_unbiased": unbiased,
        "running_stats.mean": 0.3 * mean,
        "running_stats.var": 0.7 + 0.3 * unbiased,
    }
    assert_same(found, expected)
    assert_slopes(found, differences(forward, inputs, grad, list(inputs)))


def test_instance_norm_over_all_channels() -> None:
    (fault,) = of_name("statistics-of-all-channels", "instance_norm")
    inputs = inputs_of((2, 3, 2, 2))
    x = inputs["input"]

    def forward(input: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:  # noqa: A002
        return normalized(input, (1, 2, 3)) * by_channel(weight, x) + by_channel(bias, x)

    grad = np.random.default_rng(1).normal(size=x.shape)
    found = emulated(fault, "instance_norm", inputs, grad, eps=EPS)
    mean = np.broadcast_to(x.mean((1, 2, 3))[:, None], (2, 3))
    assert_same(found, {"output": forward(**inputs), "statistics.mean": mean})
    assert_slopes(found, differences(forward, inputs, grad, list(inputs)))
    assert not of_name("statistics-of-all-channels", "group_norm")


def test_groups_interleaved() -> None:
    (fault,) = of_name("groups-interleaved", "group_norm")
    inputs = inputs_of((2, 6, 3))
    x = inputs["input"]

    def forward(input: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:  # noqa: A002
        output = np.zeros_like(input)
        for group in range(2):
            own = [c for c in range(6) if c % 2 == group]
            output[:, own] = normalized(input[:, own], (1, 2))
        return output * by_channel(weight, x) + by_channel(bias, x)

    grad = np.random.default_rng(1).normal(size=x.shape)
    found = emulated(fault, "group_norm", inputs, grad, num_groups=2, eps=EPS)
    mean = np.stack([x[:, group::2].mean((1, 2)) for group in range(2)], 1)
    assert_same(found, {"output": forward(**inputs), "statistics.mean": mean})
    assert_slopes(found, differences(forward, inputs, grad, list(inputs)))
    own = right("group_norm", inputs, grad, num_groups=2, eps=EPS)
    assert not np.allclose(own["output"], found["output"])


REPLICAS = ((2, 3, 2), (1, 3, 5))


def replicas() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = {f"inputs.{i}": rng.normal(i, 1, shape) for i, shape in enumerate(REPLICAS)}
    return {**images, "weight": rng.normal(size=3), "bias": rng.normal(size=3)}


def apart(inputs: dict[str, np.ndarray], mean: Any, var: Any) -> list[np.ndarray]:
    """Each replica's output; `mean(index)` and `var(index)` are the statistics it takes."""
    return [
        (inputs[f"inputs.{i}"] - mean(i)[:, None])
        / np.sqrt(var(i) + EPS)[:, None]
        * inputs["weight"][:, None]
        + inputs["bias"][:, None]
        for i in range(2)
    ]


def check_replicas(name: str, statistics: Any, expected: Any) -> None:
    (fault,) = of_name(name, "sync_batch_norm")
    inputs, rng = replicas(), np.random.default_rng(1)
    grads = [rng.normal(size=shape) for shape in REPLICAS]

    def forward(**changed: np.ndarray) -> Any:
        outputs = apart(changed, *statistics(changed))
        return np.concatenate([output.ravel() for output in outputs])

    found = emulated(fault, "sync_batch_norm", inputs, grads, training=True, eps=EPS, momentum=0.3)
    outputs = apart(inputs, *statistics(inputs))
    assert_same(found, {f"outputs.{i}": output for i, output in enumerate(outputs)})
    assert_same(found, expected(inputs))
    flat = np.concatenate([grad.ravel() for grad in grads])
    assert_slopes(found, differences(forward, inputs, flat, list(inputs)))


def test_replicas_not_synchronized() -> None:
    def statistics(inputs: dict[str, np.ndarray]) -> Any:
        return (
            lambda i: inputs[f"inputs.{i}"].mean((0, 2)),
            lambda i: inputs[f"inputs.{i}"].var((0, 2)),
        )

    def of_the_first(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = inputs["inputs.0"]
        return {
            "batch_stats.mean": first.mean((0, 2)),
            "running_stats.var": 0.7 + 0.3 * first.var((0, 2), ddof=1),
        }

    check_replicas("replicas-not-synchronized", statistics, of_the_first)


def test_replica_gradients_averaged() -> None:
    (fault,) = of_name("replica-gradients-averaged", "sync_batch_norm")
    inputs, rng = replicas(), np.random.default_rng(1)
    grads = [rng.normal(size=shape) for shape in REPLICAS]
    own = right("sync_batch_norm", inputs, grads, training=True)
    halves = {f"gradients.{name}": own[f"gradients.{name}"] / 2 for name in ("weight", "bias")}
    found = emulated(fault, "sync_batch_norm", inputs, grads, training=True)
    assert_same(found, {**own, **halves})


def test_replicas_unweighted() -> None:
    def joint(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        images = [inputs[f"inputs.{i}"] for i in range(2)]
        mean = np.mean([x.mean((0, 2)) for x in images], axis=0)
        square = np.mean([(x**2).mean((0, 2)) for x in images], axis=0)
        return mean, square - mean**2

    def statistics(inputs: dict[str, np.ndarray]) -> Any:
        mean, var = joint(inputs)
        return lambda i: mean, lambda i: var

    def kept(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mean, var = joint(inputs)
        return {"batch_stats.mean": mean, "running_stats.var": 0.7 + 0.3 * var * 9 / 8}

    check_replicas("replicas-unweighted", statistics, kept)
