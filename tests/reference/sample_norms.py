"""The norms of single samples: instance, group, layer and RMS."""

import math
from collections.abc import Callable

import numpy as np

from tests.reference._requests import Expected, Request, as_numbers
from tests.reference._rows import (
    input_gradient,
    normalised,
    root_mean_square,
    uncentred_gradient,
)
from tests.reference._windows import Array, Refused

Results = dict[str, Expected]
FLOAT32_EPSILON, FLOAT64_EPSILON = 2.0**-23, 2.0**-52


def group_norm(request: Request) -> Results:
    """Normalize each group of channels in each sample."""
    x = request.image()
    instance = request.family == "instance_norm"
    groups = x.shape[1] if instance else request("num_groups")
    if groups is None or x.shape[1] % groups:
        raise Refused("no such groups")
    if instance and request.convention == "torch" and math.prod(x.shape[2:]) == 1:
        raise Refused("one value a sample and channel")
    shape = (1, x.shape[1], *[1] * (x.ndim - 2))
    weight, bias = (
        np.broadcast_to(request.vector(name, x.shape[1], fill).reshape(shape), x.shape)
        for name, fill in (("weight", 1.0), ("bias", 0.0))
    )
    axes = (0, *range(2, x.ndim))
    found = _centred(
        x, weight, bias, request.gradient(x.shape), (x.shape[0], groups), axes, request("eps")
    )
    mapped = ("output", "gradients.input", "statistics.mean", "statistics.inv_std")
    return {n: request.outward(r) if n in mapped else r for n, r in found.items()}


def layer_norm(request: Request) -> Results:
    """Normalize the last axes together, for each position of the leading axes."""
    x = as_numbers(request.body["input"])
    lead = _lead(request, x)
    weight, bias = (_parameter(request, name, x, lead) for name in ("weight", "bias"))
    gradient = _as_sent(request, x)
    axes = tuple(range(lead))
    return _centred(x, weight, bias, gradient, x.shape[:lead], axes, request("eps"))


def rms_norm(request: Request) -> Results:
    """Divide the last axes, for each position of the leading axes, by their root mean square."""
    x = as_numbers(request.body["input"])
    lead = _lead(request, x)
    weight, gradient = _scale(request, x, lead), _as_sent(request, x)
    eps = request("eps")
    if eps is None:
        eps = FLOAT64_EPSILON if request("dtype") == "float64" else FLOAT32_EPSILON
    rows = (math.prod(x.shape[:lead]), -1)
    inv_rms, unit = root_mean_square(x.reshape(rows), eps)
    count = unit.shape[1]
    output = weight * unit.reshape(x.shape)
    found = {
        "output": Expected(output, np.abs(output), count),
        "statistics.inv_rms": _statistic(inv_rms, inv_rms, x.shape[:lead], count),
    }
    if gradient is not None:
        value, terms = uncentred_gradient(inv_rms, unit, (gradient * weight).reshape(rows))
        found["gradients.input"] = Expected(value.reshape(x.shape), terms.reshape(x.shape), count)
        product = gradient * unit.reshape(x.shape)
        found["gradients.weight"] = _sum(product, np.abs(product), tuple(range(lead)))
    return found


def _centred(
    x: Array, weight: Array, bias: Array, gradient: Array | None, groups: tuple[int, ...],
    summed: tuple[int, ...], eps: float,
) -> Results:  # fmt: skip
    """Normalize rows of `groups`, row-major; parameter gradients are summed over axes `summed`."""
    rows = x.reshape(math.prod(groups), -1)
    parts = normalised(rows, float(eps))
    count = rows.shape[1]
    unit = parts.unit.reshape(x.shape)
    size = np.abs(unit) + 1
    terms = np.abs(weight) * size + np.abs(bias)
    found = {
        "output": Expected(weight * unit + bias, terms, count),
        "statistics.mean": _statistic(parts.mean, np.abs(rows).mean(-1), groups, count),
        "statistics.inv_std": _statistic(parts.inv_std, parts.inv_std, groups, count),
    }
    if gradient is not None:
        value, terms = input_gradient(parts, (gradient * weight).reshape(rows.shape))
        found["gradients.input"] = Expected(value.reshape(x.shape), terms.reshape(x.shape), count)
        found["gradients.weight"] = _sum(gradient * unit, np.abs(gradient) * size, summed)
        found["gradients.bias"] = _sum(gradient, np.abs(gradient), summed)
    return found


def _sum(values: Array, terms: Array, axes: tuple[int, ...]) -> Expected:
    count = math.prod(values.shape[axis] for axis in axes)
    add: Callable[[Array], Array] = lambda array: array.sum(axes) if axes else array  # noqa: E731
    return Expected(add(values), add(terms), count)


def _statistic(value: Array, terms: Array, shape: tuple[int, ...], count: int) -> Expected:
    return Expected(value.reshape(shape), terms.reshape(shape), count)


def _lead(request: Request, x: Array) -> int:
    """How many axes come before the normalized ones."""
    axis, lengths = request("axis"), request("normalized_shape")
    if axis is not None:
        return int(axis) % x.ndim
    return x.ndim - (len(lengths) if isinstance(lengths, list | tuple) else 1)


def _parameter(request: Request, name: str, x: Array, lead: int) -> Array:
    given = request.body.get(name)
    fill = 1.0 if name == "weight" else 0.0
    values = np.full(x.shape[lead:], fill) if given is None else as_numbers(given)
    return np.broadcast_to(values, x.shape)


def _scale(request: Request, x: Array, lead: int) -> Array:
    """What RMS norm multiplies by: 1 if no weight was sent."""
    offset = request("weight_offset") if "weight" in request.body else 0
    return _parameter(request, "weight", x, lead) + offset


def _as_sent(request: Request, x: Array) -> Array | None:
    given = request.body.get("grad_output")
    if given is None:
        return None
    return np.ones(x.shape) if isinstance(given, str) else as_numbers(given)
