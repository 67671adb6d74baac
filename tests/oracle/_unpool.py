"""A porter's max unpooling and ReLU."""

import math

import numpy as np

from tests.oracle._max_pool import Results
from tests.oracle._request import Request, per_axis
from tests.oracle._windows import NoAnswer


def max_unpool(request: Request) -> Results:
    """Each value at its index, zero elsewhere."""
    x = request.image()
    dims = x.ndim - 2
    indices = np.asarray(request.image("indices"), np.int64)
    kernel = per_axis(request("kernel_size"), dims)
    stride = request("stride")
    if stride is None:
        stride = kernel if request.convention in ("torch", "keras") else 1
    padding = [
        p if isinstance(p, list | tuple) else (p, p) for p in per_axis(request("padding"), dims)
    ]
    default = [
        (n - 1) * s - before - after + k
        for n, k, s, (before, after) in zip(
            x.shape[2:], kernel, per_axis(stride, dims), padding, strict=True
        )
    ]
    asked = request("output_size")
    out = default if asked is None else per_axis(asked, dims)
    space = default if request("index_space") == "default" else out
    output = np.zeros((*x.shape[:2], *out))
    gradient, back = request.gradient(output.shape), np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        position = int(indices[index])
        if request("index_base") == "tf":
            position //= x.shape[1]
        if request("index_base") == "onnx":
            position %= math.prod(space)
        if position >= math.prod(space):
            raise NoAnswer("an index outside")
        if request("index_base") == "onnx" and request("storage_order") == "column":
            place = np.unravel_index(position, space[::-1])[::-1]
        else:
            place = np.unravel_index(position, space)
        output[(*index[:2], *place)] = x[index]
        if gradient is not None:
            back[index] = gradient[(*index[:2], *place)]
    found = {"output": request.outward(output)}
    if gradient is not None:
        found["gradients.input"] = request.outward(back)
    return found


def relu(request: Request) -> Results:
    """`max(x, 0)`."""
    x = request.numbers("input")
    assert x is not None
    found = {"output": np.where((x > 0) | np.isnan(x), x, 0.0)}
    if request.fault == "nan-to-zero":
        found = {"output": np.where(x > 0, x, 0.0)}
    if request.body.get("grad_output") is not None:
        gradient = request.numbers("grad_output")
        passes = x >= 0 if request.fault == "gradient-at-zero" else x > 0
        found["gradients.input"] = np.where(passes, 1.0 if gradient is None else gradient, 0.0)
    return found
