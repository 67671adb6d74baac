"""Faults of norms, against formulas in NumPy: the client's own forward pass, and its gradient by
finite differences where it differentiated that, by its own formula otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from app.faults import FAULTS
from app.layers import LAYERS
from tests.faults._emulation import (
    Arrays,
    assert_same,
    assert_slopes,
    differences,
    emulated,
    of_name,
    planned,
    right,
)

EPS = 0.25
Round = Callable[[Any], np.ndarray]


def to_float16(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float16).astype(float)


def to_bfloat16(x: Any) -> np.ndarray:
    """To nearest, ties to even, on the upper half of a float32."""
    bits: Any = np.asarray(x).astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.asarray(bits.astype(np.uint32).view(np.float32).astype(float))


ROUNDINGS = [(torch.float16, to_float16), (torch.bfloat16, to_bfloat16)]


class Norm(NamedTuple):
    """One layer: its input's shape, the axes of `grouped` that it reduces, and its options."""

    layer: str
    shape: tuple[int, ...]
    grouped: tuple[int, ...]
    axes: tuple[int, ...]
    vector: tuple[int, ...]
    options: dict[str, Any]


BATCH = {"training": True, "momentum": 0.3}
NORMS = (
    Norm("batch_norm1d", (5, 3), (5, 3), (0,), (1, 3), BATCH),
    Norm("batch_norm2d", (3, 2, 3, 1), (3, 2, 3, 1), (0, 2, 3), (1, 2, 1, 1), BATCH),
    Norm("batch_norm3d", (2, 2, 1, 3, 2), (2, 2, 1, 3, 2), (0, 2, 3, 4), (1, 2, 1, 1, 1), BATCH),
    Norm("group_norm", (2, 6, 3), (2, 3, 2, 3), (2, 3), (1, 6, 1), {"num_groups": 3}),
    Norm("instance_norm", (2, 3, 4), (2, 3, 4), (2,), (1, 3, 1), {}),
    Norm("layer_norm", (2, 3, 5), (2, 3, 5), (1, 2), (3, 5), {"axis": 1}),
)
EACH = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.layer)
Scale = Callable[[np.ndarray, int], np.ndarray]


def count_of(norm: Norm) -> int:
    return int(np.prod([norm.grouped[axis] for axis in norm.axes]))


def inputs_of(norm: Norm, mean: float = 0.5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    vector = tuple(n for n in norm.vector if norm.layer == "layer_norm" or n > 1)
    return {
        "input": rng.normal(mean, 1.5, norm.shape),
        "weight": rng.normal(size=vector),
        "bias": rng.normal(size=vector),
    }


def gradient_of(norm: Norm) -> np.ndarray:
    return np.random.default_rng(1).normal(size=norm.shape)


def sent(norm: Norm) -> dict[str, Any]:
    return {**norm.options, "eps": EPS}


def client(norm: Norm, scale: Scale) -> Callable[..., np.ndarray]:
    """A forward pass that multiplies the centered values by `scale(biased variance, count)`."""

    def forward(input: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:  # noqa: A002
        x = input.reshape(norm.grouped)
        mean = x.sum(norm.axes, keepdims=True) / count_of(norm)
        var = ((x - mean) ** 2).sum(norm.axes, keepdims=True) / count_of(norm)
        normal = ((x - mean) * scale(var, count_of(norm))).reshape(norm.shape)
        return normal * weight.reshape(norm.vector) + bias.reshape(norm.vector)

    return forward


SCALES: dict[str, list[Scale]] = {
    "variance-unbiased-output": [
        lambda var, n: 1 / np.sqrt(var * n / (n - 1) + EPS),
        lambda var, n: 1 / (np.sqrt(var * n / (n - 1)) + EPS),
    ],
    "eps-outside-root": [lambda var, n: 1 / (np.sqrt(var) + EPS)],
    "eps-as-floor": [lambda var, n: 1 / np.sqrt(np.maximum(var, EPS))],
    "eps-missing": [lambda var, n: 1 / np.sqrt(var)],
}


@EACH
@pytest.mark.parametrize("name", SCALES)
def test_clients_that_differentiate_their_own_scale(name: str, norm: Norm) -> None:
    inputs, grad = inputs_of(norm), gradient_of(norm)
    if name == "eps-as-floor":
        inputs["input"] *= np.where(np.arange(norm.shape[-1]) % 2, 1, 0.5)
    faults = of_name(name, norm.layer)
    for fault, scale in zip(faults, SCALES[name], strict=True):
        forward = client(norm, scale)
        found = emulated(fault, norm.layer, inputs, grad, **sent(norm))
        assert_same(found, {"output": forward(**inputs)})
        slopes = differences(forward, inputs, grad, ["input", "weight", "bias"])
        assert_slopes(found, slopes)
        own = right(norm.layer, inputs, grad, **sent(norm))
        assert not np.allclose(own["output"], found["output"], rtol=1e-3)
        assert_statistics(norm, found, inputs["input"], scale)


def assert_statistics(norm: Norm, found: Arrays, x: np.ndarray, scale: Scale) -> None:
    """The scale is the client's; mean and variance are right."""
    grouped = x.reshape(norm.grouped)
    mean, var = grouped.mean(norm.axes), grouped.var(norm.axes)
    prefix = "batch_stats" if "batch" in norm.layer else "statistics"
    assert_same(found, {f"{prefix}.mean": mean, f"{prefix}.inv_std": scale(var, count_of(norm))})
    if "batch" in norm.layer:
        unbiased = grouped.var(norm.axes, ddof=1)
        assert_same(
            found,
            {
                "batch_stats.var": var,
                "batch_stats.var_unbiased": unbiased,
                "running_stats.mean": 0.3 * mean,
                "running_stats.var": 0.7 + 0.3 * unbiased,
            },
        )


HELD = {
    "statistics-held-constant": (0, 0),
    "mean-term-missing": (0, 1),
    "variance-term-missing": (1, 0),
}


@EACH
@pytest.mark.parametrize("name", HELD)
def test_terms_missing_from_the_gradient(name: str, norm: Norm) -> None:
    (fault,) = of_name(name, norm.layer)
    inputs, grad = inputs_of(norm), gradient_of(norm)
    forward = client(norm, lambda var, n: 1 / np.sqrt(var + EPS))
    with_mean, with_variance = HELD[name]
    x = inputs["input"].reshape(norm.grouped)
    inverse = 1 / np.sqrt(x.var(norm.axes, keepdims=True) + EPS)
    normal = (x - x.mean(norm.axes, keepdims=True)) * inverse
    g = (grad * inputs["weight"].reshape(norm.vector)).reshape(norm.grouped)
    mean_term = g.mean(norm.axes, keepdims=True)
    variance_term = normal * (g * normal).mean(norm.axes, keepdims=True)
    dx = inverse * (g - with_mean * mean_term - with_variance * variance_term)
    slopes = differences(forward, inputs, grad, ["weight", "bias"])
    found = emulated(fault, norm.layer, inputs, grad, **sent(norm))
    assert_same(found, {"output": forward(**inputs), "gradients.input": dx.reshape(norm.shape)})
    assert_slopes(found, slopes)
    own = right(norm.layer, inputs, grad, **sent(norm))
    assert not np.allclose(own["gradients.input"], found["gradients.input"])


def numpy_sums(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.asarray(x.mean(axes, keepdims=True))


def torch_sums(x: np.ndarray, axes: tuple[int, ...]) -> Any:
    return torch.from_numpy(x).mean(axes, keepdim=True).numpy()


def sums_in_order(x: np.ndarray, axes: tuple[int, ...]) -> Any:
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    total = np.zeros(shape, x.dtype)
    for index in np.ndindex(x.shape):
        at = tuple(0 if axis in axes else i for axis, i in enumerate(index))
        total[at] = x.dtype.type(total[at] + x[index])
    return total / x.dtype.type(x.size // total.size)


@EACH
@pytest.mark.parametrize("mean", [30.0, 3000.0])
def test_variance_fast(norm: Norm, mean: float) -> None:
    inputs = {name: v.astype("float32") for name, v in inputs_of(norm, mean).items()}
    x = inputs["input"].reshape(norm.grouped)
    faults = [fault for fault in of_name("variance-fast", norm.layer) if not fault.only_halves]
    exact = inputs["input"].astype(float).reshape(norm.grouped).var(norm.axes)
    for fault, mean_of in zip(faults, (numpy_sums, torch_sums, sums_in_order), strict=True):
        assert fault.in_dtype
        center = mean_of(x, norm.axes)
        var = np.maximum(mean_of(x * x, norm.axes) - center * center, 0)
        scale = 1 / np.sqrt(var + np.float32(EPS))
        normal = ((x - center) * scale).reshape(norm.shape)
        output = normal * inputs["weight"].reshape(norm.vector)
        output = output + inputs["bias"].reshape(norm.vector)
        found = emulated(fault, norm.layer, inputs, None, torch.float32, **sent(norm))
        assert_same(found, {"output": output}, rtol=2e-5)
        if "batch" in norm.layer:
            assert_same(found, {"batch_stats.var": var.reshape(-1)}, rtol=0)
            assert not np.allclose(found["batch_stats.var"], exact, rtol=1e-6)


def test_the_gradient_of_a_fast_variance() -> None:
    """In float64 its digits do not cancel; a variance that was clipped passes none."""
    norm = NORMS[0]
    inputs, grad = inputs_of(norm), gradient_of(norm)
    forward = client(norm, lambda var, n: 1 / np.sqrt(var + EPS))
    for fault in of_name("variance-fast", norm.layer):
        if fault.only_halves:
            continue
        found = emulated(fault, norm.layer, inputs, grad, torch.float64, **sent(norm))
        assert_same(found, {"output": forward(**inputs)}, rtol=1e-7)
        assert_slopes(found, differences(forward, inputs, grad, list(inputs)))


def rounded_each(x: np.ndarray, axes: tuple[int, ...], near: Round) -> np.ndarray:
    """A mean of values that are added one after the other, rounded after each."""
    total = np.zeros([1 if axis in axes else n for axis, n in enumerate(x.shape)])
    for index in np.ndindex(x.shape):
        at = tuple(0 if axis in axes else i for axis, i in enumerate(index))
        total[at] = near(total[at] + x[index])
    return near(total / (x.size // total.size))


@EACH
@pytest.mark.parametrize(("dtype", "near"), ROUNDINGS, ids=["float16", "bfloat16"])
def test_variance_fast_in_half_types(norm: Norm, dtype: torch.dtype, near: Round) -> None:
    """Each step rounded, in plain numpy."""
    inputs = {name: near(v) for name, v in inputs_of(norm, 30.0).items()}
    x = inputs["input"].reshape(norm.grouped)
    once = near(x.mean(norm.axes, keepdims=True))
    square = near(near(x * x).mean(norm.axes, keepdims=True))
    var = np.maximum(near(square - near(once * once)), 0)
    each = rounded_each(x, norm.axes, near)
    square = rounded_each(near(x * x), norm.axes, near)
    var_in_order = np.maximum(near(square - near(each * each)), 0)
    faults = [fault for fault in of_name("variance-fast", norm.layer) if fault.only_halves]
    clients: list[tuple[Round, Any, Any]] = [
        (np.asarray, once, var),
        (near, once, var),
        (np.asarray, each, var_in_order),
        (np.asarray, once, var_in_order),
    ]
    for fault, (rounded, center, var) in zip(faults, clients, strict=True):
        scale = rounded(1 / rounded(np.sqrt(rounded(var + EPS))))
        normal = rounded(rounded(x - center) * scale).reshape(norm.shape)
        output = rounded(normal * inputs["weight"].reshape(norm.vector))
        output = rounded(output + inputs["bias"].reshape(norm.vector))
        found = emulated(fault, norm.layer, inputs, None, dtype, **sent(norm))
        assert_same(found, {"output": output}, rtol=1e-5, atol=1e-5)
        exact = x.var(norm.axes, keepdims=True)
        assert not np.allclose(var, exact, rtol=1e-2)


def test_the_gradient_of_a_fast_variance_in_half_types() -> None:
    """A variance that was clipped passes no gradient: here the mean of 259 rounds to 260."""
    x, grad = np.array([[256.0, 258.0, 260.0, 262.0]]), np.array([[1.0, 0.0, 0.0, 0.0]])
    faults = [fault for fault in of_name("variance-fast", "layer_norm") if fault.only_halves]
    for fault in faults[:2]:
        sent = {"axis": -1, "eps": EPS}
        found = emulated(fault, "layer_norm", {"input": x}, grad, torch.bfloat16, **sent)
        assert_same(found, {"output": [[-8, -4, 0, 4]]})
        assert_same(found, {"gradients.input": [[1.5, -0.5, -0.5, -0.5]]})


RMS_SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "eps-outside-root": lambda square: 1 / (np.sqrt(square) + EPS),
    "eps-as-floor": lambda square: 1 / np.sqrt(np.maximum(square, EPS)),
    "eps-missing": lambda square: 1 / np.sqrt(square),
}


@pytest.mark.parametrize("name", RMS_SCALES)
def test_rms_norm(name: str) -> None:
    (fault,) = of_name(name, "rms_norm")
    rng = np.random.default_rng(0)
    inputs = {"input": rng.normal(size=(3, 5)) * 0.7, "weight": rng.normal(size=5)}
    grad = rng.normal(size=(3, 5))

    def forward(input: np.ndarray, weight: np.ndarray) -> Any:  # noqa: A002
        scale = RMS_SCALES[name]((input**2).mean(-1, keepdims=True))
        return np.asarray(input * scale * weight)

    found = emulated(fault, "rms_norm", inputs, grad, axis=-1, eps=EPS)
    square = (inputs["input"] ** 2).mean(-1)
    assert_same(
        found, {"output": forward(**inputs), "statistics.inv_rms": RMS_SCALES[name](square)}
    )
    assert_slopes(found, differences(forward, inputs, grad, list(inputs)))


def mean_taken(input: np.ndarray, weight: np.ndarray) -> Any:  # noqa: A002
    moved = input - input.mean(-1, keepdims=True)
    return moved / np.sqrt((moved**2).mean(-1, keepdims=True) + EPS) * weight


def mean_left(input: np.ndarray, weight: np.ndarray) -> Any:  # noqa: A002
    return input / np.sqrt((input**2).mean(-1, keepdims=True) + EPS) * weight


@pytest.mark.parametrize(
    ("name", "layer", "forward"),
    [("mean-subtracted", "rms_norm", mean_taken), ("mean-kept", "layer_norm", mean_left)],
)
def test_one_norm_done_as_the_other(name: str, layer: str, forward: Any) -> None:
    (fault,) = of_name(name, layer)
    rng = np.random.default_rng(0)
    inputs = {"input": rng.normal(0.5, 1, (3, 5)), "weight": rng.normal(size=5)}
    grad = rng.normal(size=(3, 5))
    found = emulated(fault, layer, inputs, grad, axis=-1, eps=EPS)
    assert_same(found, {"output": forward(**inputs)})
    assert_slopes(found, differences(forward, inputs, grad, list(inputs)))
    own = right(layer, inputs, grad, axis=-1, eps=EPS)
    assert not np.allclose(own["output"], found["output"], rtol=1e-3)


def test_rms_norm_with_its_statistic_held_constant() -> None:
    (fault,) = of_name("statistics-held-constant", "rms_norm")
    rng = np.random.default_rng(0)
    x, weight, grad = rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=(3, 5))
    scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)
    found = emulated(fault, "rms_norm", {"input": x, "weight": weight}, grad, axis=-1, eps=EPS)
    expected = {
        "output": x * scale * weight,
        "gradients.input": grad * weight * scale,
        "gradients.weight": (grad * x * scale).sum(0),
    }
    assert_same(found, expected)


@pytest.mark.parametrize(
    "name",
    ["variance-fast", "variance-unbiased-output", "mean-term-missing", "mean-kept"],
)
def test_what_an_rms_norm_cannot_have(name: str) -> None:
    assert not of_name(name, "rms_norm")
    assert of_name(name, "layer_norm")


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("eps-outside-root", lambda var: 1 / (np.sqrt(var) + EPS)),
        ("eps-as-floor", lambda var: 1 / np.sqrt(np.maximum(var, EPS))),
        ("eps-missing", lambda var: 1 / np.sqrt(var)),
    ],
)
def test_eps_with_running_statistics(name: str, scale: Any) -> None:
    (fault,) = of_name(name, "batch_norm1d")
    rng = np.random.default_rng(0)
    x, grad = rng.normal(size=(2, 3, 2)), rng.normal(size=(2, 3, 2))
    mean, var = rng.normal(size=3), np.array([0.1, 1.0, 4.0])
    weight, bias = rng.normal(size=3), rng.normal(size=3)
    inputs = {"input": x, "weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    found = emulated(fault, "batch_norm1d", inputs, grad, training=False, eps=EPS)
    normal = (x - mean[:, None]) * scale(var)[:, None]
    expected = {
        "output": normal * weight[:, None] + bias[:, None],
        "gradients.input": grad * (weight * scale(var))[:, None],
        "gradients.weight": (grad * normal).sum((0, 2)),
        "gradients.bias": grad.sum((0, 2)),
    }
    assert_same(found, expected)
    assert set(found) == set(expected)


def test_what_needs_batch_statistics_does_not_apply_without() -> None:
    spec = LAYERS["batch_norm1d"]
    inputs = {"input": np.zeros((2, 3)), "running_mean": np.zeros(3), "running_var": np.ones(3)}
    plan = planned(spec, spec, inputs, training=False)
    applying = {f.name for f in FAULTS if spec.family in f.families and f.applies(plan)}
    assert applying == {
        "eps-outside-root",
        "eps-as-floor",
        "eps-missing",
        "affine-swapped",
        "affine-ignored",
        "bias-ignored",
        "inverse-std-as-variance",
        "half-accumulation",
        "loss-mean",
        "loss-mean-over-batch",
    }
