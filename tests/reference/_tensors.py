"""The other tensors of the product's requests: weights, running statistics, indices, replicas."""

import math
from typing import Any

import numpy as np

from tests.reference._inputs import generator, gradient, numbers
from tests.reference._options import WHOLE
from tests.reference._requests import Request
from tests.reference._windows import Array
from tests.reference.precision import rounded
from tests.reference.unpooling import default_size, output_size

Body = dict[str, Any]


def others(family: str, shape: tuple[int, ...], body: Body, number: int) -> Body:
    """The tensors that go with an input of shape `(N, C, *spatial)`, by name."""
    if family == "max_unpool":
        return _unpooled(body, number)
    if family == "conv":
        return _weight(shape, body, number)
    if not family.endswith("norm"):
        return {}
    names = ("weight", "bias") if number // 3 % 4 else ()
    found = {name: _vector(name, shape[1], body, number) for name in names}
    if "batch_norm" in family and (not body["training"] or number // 2 % 3):
        found |= _running(shape[1], body, number)
    return found


def _vector(name: str, length: int, body: Body, number: int) -> Array:
    values = generator(name, length, number).standard_normal(length)
    return rounded(np.abs(values) if name == "running_var" else values, body["dtype"])


def _running(channels: int, body: Body, number: int) -> Body:
    """Running statistics, in half of the cases close to the batch's own."""
    mean, var = (_vector(f"running_{name}", channels, body, number) for name in ("mean", "var"))
    finite = body["input"][np.isfinite(body["input"])]
    if number // 4 % 2 and finite.size:
        mean = rounded(mean + finite.mean(), body["dtype"])
    return {"running_mean": mean, "running_var": var}


def _weight(shape: tuple[int, ...], body: Body, number: int) -> Body:
    kernel, dims, groups = body.pop("kernel"), len(shape) - 2, body.get("groups", 1)
    if kernel == WHOLE:
        kernel = shape[2:]
    kernel = kernel * dims if len(kernel) == 1 else kernel[-dims:]
    lengths = (2 * groups, shape[1] // groups, *kernel)
    values = generator("kernel", lengths, number).standard_normal(lengths)
    if Request("conv", body)("weight_layout") == "hwio":
        values = np.moveaxis(values, (0, 1), (-1, -2))
    found = {"weight": rounded(values, body["dtype"])}
    if number % 3:
        found["bias"] = _vector("bias", lengths[0], body, number)
    return found


def trailing(family: str, body: Body, number: int) -> Body:
    """Weight and bias over the last axes; also resolves `trailing` and axes that do not exist."""
    x = body["input"]
    if family == "relu":
        return {}
    last = body.pop("trailing", None)
    if last is not None:
        lengths = x.shape[-last:]
        plain = {"normalized_shape": list(lengths) if len(lengths) > 1 else lengths[0]}
    else:
        axis = body["axis"] if -x.ndim <= body["axis"] < x.ndim else -1
        lengths, plain = x.shape[axis:], {"axis": axis}
    names = ("weight", "bias") if family == "layer_norm" else ("weight",)
    drawn = {
        name: rounded(generator(name, number).standard_normal(lengths), body["dtype"])
        for name in names
    }
    return {**plain, **(drawn if number // 3 % 4 else {})}


def _unpooled(body: Body, number: int) -> Body:
    """Positions, some of them duplicates, in the request's index base."""
    request = Request("max_unpool", body)
    found = {}
    extra = body.pop("extra", None)
    if extra is not None:
        found["output_size"] = body["output_size"] = [n + extra for n in default_size(request)]
    space = default_size(request) if request("index_space") == "default" else output_size(request)
    x, plane = request.image(), math.prod(space)
    where = generator("indices", number).integers(0, plane, x.shape)
    channel = np.arange(x.shape[1]).reshape(-1, *[1] * (x.ndim - 2))
    sample = np.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
    base = request("index_base")
    if base == "tf":
        where = where * x.shape[1] + channel
    elif base == "onnx":
        where = where + (sample * x.shape[1] + channel) * plane
    if body["layout"] == "channels_last":
        where = np.moveaxis(where, 1, -1)
    return {**found, "indices": where if body["batched"] else where[0]}


def replicas(body: Body, kind: str, turn: str, number: int) -> Body:
    """Up to two smaller tensors in addition to the first, and a gradient for each."""
    inputs = [body["input"]]
    for replica in range(number // 2 % 3):
        shape = list(inputs[0].shape)
        if body["batched"]:
            shape[0] = replica + 1
        inputs.append(numbers(kind, tuple(shape), body["dtype"], number, replica))
    gradients = [gradient(turn, x.shape, body["dtype"], number, i) for i, x in enumerate(inputs)]
    return {"inputs": inputs, "grad_outputs": "ones" if turn == "ones" else gradients}
