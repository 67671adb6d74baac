"""Batch norm, and batch norm over replicas."""

import math
from dataclasses import replace

import numpy as np

from tests.reference._requests import Expected, Request
from tests.reference._rows import Normalised, input_gradient, normalised
from tests.reference._windows import Array, Refused

Results = dict[str, Expected]


def batch_norm(request: Request) -> Results:
    """One tensor, normalized per channel."""
    x = request.image()
    gradient = request.gradient(x.shape)
    found = _normalise(request, [x], None if gradient is None else [gradient])
    names = {"outputs.0": "output", "gradients.inputs.0": "gradients.input"}
    return {names.get(name, name): result for name, result in found.items()}


def sync_batch_norm(request: Request) -> Results:
    """A list of tensors, normalized per channel over all of them together."""
    inputs = [request.inward(x) for x in request.body["inputs"]]
    given = request.body.get("grad_outputs")
    gradients: list[Array] | None = None
    if isinstance(given, str):
        gradients = [np.ones(x.shape) for x in inputs]
    elif given is not None:
        gradients = [request.inward(g) for g in given]
    found = _normalise(request, inputs, gradients)
    if request("training"):
        for index, x in enumerate(inputs):
            alone = _normalise(request, [x], None, alone=True)
            found[f"replicas.{index}.output"] = alone["outputs.0"]
            found |= {
                f"replicas.{index}.{name}": result
                for name, result in alone.items()
                if name.startswith("batch_stats.")
            }
    return found


def _normalise(
    request: Request, inputs: list[Array], gradients: list[Array] | None, *, alone: bool = False
) -> Results:
    channels = inputs[0].shape[1]
    rows = _rows(inputs)
    weight = request.vector("weight", channels, 1.0)[:, None]
    bias = request.vector("bias", channels, 0.0)[:, None]
    old = [request.vector(f"running_{name}", channels, fill) for name, fill in OLD.items()]
    training, eps = request("training"), float(request("eps"))
    if training:
        if not alone:
            _check(request, rows.shape[1])
        parts = normalised(rows, eps)
    else:
        inv_std = 1 / np.sqrt(old[1] + eps)
        unit = (rows - old[0][:, None]) * inv_std[:, None]
        parts = Normalised(old[0], old[1], inv_std, unit)
    size = np.abs(parts.unit) + 1
    output = Expected(
        weight * parts.unit + bias, np.abs(weight) * size + np.abs(bias), rows.shape[1]
    )
    found = _split(request, "outputs", output, inputs)
    if training:
        found |= _statistics(request, rows, parts, old)
    if gradients is not None:
        found |= _gradients(request, _rows(gradients), parts, weight, inputs, training=training)
    return found


OLD = {"mean": 0.0, "var": 1.0}


def _check(request: Request, count: int) -> None:
    torch = request.convention == "torch"
    if torch and float(request("eps")) == 0:
        raise Refused("torch wants an eps")
    if count == 1 and (torch or request("running_var_estimator") == "unbiased"):
        raise Refused("one value a channel")


def _gradients(
    request: Request, rows: Array, parts: Normalised, weight: Array, inputs: list[Array], *,
    training: bool,
) -> Results:  # fmt: skip
    if training:
        value, terms = input_gradient(parts, rows * weight)
    else:
        value = rows * weight * parts.inv_std[:, None]
        terms = np.abs(value)
    count = rows.shape[1]
    size = np.abs(rows) * (np.abs(parts.unit) + 1)
    return {
        **_split(request, "gradients.inputs", Expected(value, terms, count), inputs),
        "gradients.weight": Expected((rows * parts.unit).sum(-1), size.sum(-1), count),
        "gradients.bias": Expected(rows.sum(-1), np.abs(rows).sum(-1), count),
    }


def _statistics(request: Request, rows: Array, parts: Normalised, old: list[Array]) -> Results:
    count = rows.shape[1]
    unbiased = parts.var * count / (count - 1) if count > 1 else np.full(len(rows), math.nan)
    size = np.abs(rows).mean(-1)
    tracked = request("num_batches_tracked") + 1
    momentum = request("momentum")
    share = 1 / tracked if momentum is None else momentum
    if momentum is not None and request("momentum_weights") == "running":
        share = 1 - momentum
    new = unbiased if request("running_var_estimator") == "unbiased" else parts.var
    mean = (1 - share) * old[0] + share * parts.mean
    var = (1 - share) * old[1] + share * new
    return {
        "running_stats.mean": Expected(mean, np.abs(old[0]) + share * size, count),
        "running_stats.var": Expected(var, np.abs(old[1]) + share * new, count),
        "running_stats.num_batches_tracked": Expected(np.array(tracked), np.zeros(())),
        "batch_stats.mean": Expected(parts.mean, size, count),
        "batch_stats.var": Expected(parts.var, parts.var, count),
        "batch_stats.var_unbiased": Expected(unbiased, unbiased, count),
        "batch_stats.inv_std": Expected(parts.inv_std, parts.inv_std, count),
    }


def _rows(tensors: list[Array]) -> Array:
    """`(C, values)`: all values of a channel, replica by replica."""
    return np.concatenate([x.swapaxes(0, 1).reshape(x.shape[1], -1) for x in tensors], axis=1)


def _split(request: Request, name: str, rows: Expected, inputs: list[Array]) -> Results:
    """Split `(C, values)` back to each replica's own shape."""
    found, start = {}, 0
    for index, x in enumerate(inputs):
        end = start + x.size // x.shape[1]
        shape = x.swapaxes(0, 1).shape
        value, terms = (
            part[:, start:end].reshape(shape).swapaxes(0, 1) for part in (rows.value, rows.terms)
        )
        found[f"{name}.{index}"] = request.outward(replace(rows, value=value, terms=terms))
        start = end
    return found
