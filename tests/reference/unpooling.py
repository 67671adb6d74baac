"""Max unpooling: puts each value back at the position given by its index."""

import math

import numpy as np

from tests.reference._requests import Expected, Request, exact
from tests.reference._windows import Array, per_axis


def default_size(request: Request) -> tuple[int, ...]:
    """Spatial lengths of the pooling's input, assuming that no remainder was cut off."""
    shape = request.image().shape
    dims = len(shape) - 2
    kernels = per_axis(request("kernel_size"), dims)
    strides = request("stride")
    if strides is None:
        strides = kernels if request.convention in ("torch", "keras") else 1
    padding = per_axis(request("padding"), dims)
    pairs = [pad if isinstance(pad, list | tuple) else (pad, pad) for pad in padding]
    rest = (kernels, per_axis(strides, dims), pairs)
    return tuple(
        (n - 1) * stride - before - after + kernel
        for n, kernel, stride, (before, after) in zip(shape[2:], *rest, strict=True)
    )


def output_size(request: Request) -> tuple[int, ...]:
    """The spatial lengths of the output."""
    given = request("output_size")
    if given is None:
        return default_size(request)
    return tuple(per_axis(given, request.dims))


def max_unpool(request: Request) -> dict[str, Expected]:
    """Zeros except for the values at their indices; of duplicates, the last in row-major order."""
    x, out = request.image(), output_size(request)
    space = default_size(request) if request("index_space") == "default" else out
    where = _positions(request.image("indices"), space, request)
    output = np.zeros((*x.shape[:2], *out))
    gradient = request.gradient(output.shape)
    back = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        at = (*index[:2], *np.unravel_index(where[index], space))
        output[at] = x[index]
        if gradient is not None:
            back[index] = gradient[at]
    found = {"output": request.outward(exact(output))}
    if gradient is not None:
        found["gradients.input"] = request.outward(exact(back))
    return found


def _positions(indices: Array, space: tuple[int, ...], request: Request) -> Array:
    """Convert indices to row-major positions in a plane with lengths `space`."""
    base = request("index_base")
    if base == "plane":
        return indices
    if base == "tf":
        return np.floor_divide(indices, indices.shape[1])
    where: Array = indices % math.prod(space)
    if request("storage_order") == "row":
        return where
    index = np.unravel_index(where, space[::-1])
    return np.ravel_multi_index(index[::-1], space)
