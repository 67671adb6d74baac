"""Convolution, as cross-correlation."""

import math

import numpy as np

from tests.reference._requests import Expected, Request, as_numbers
from tests.reference._windows import Array, Axis, axes_of, per_axis, windows


def conv_axes(request: Request) -> tuple[Axis, ...]:
    """The axes over which the kernel slides."""
    spatial = request.image().shape[2:]
    kernels = list(weight_of(request).shape[2:])
    stride = per_axis(request("stride"), len(spatial))
    return axes_of(spatial, kernels, stride, request("padding"), request, halved=False)


def weight_of(request: Request) -> Array:
    """The weight as `(out, in / groups, *kernel)`."""
    weight = as_numbers(request.body["weight"])
    if request("weight_layout") == "hwio":
        *kernel, ins, outs = range(weight.ndim)
        weight = weight.transpose(outs, ins, *kernel)
    return weight


def _as_sent(request: Request, weight: Array) -> Array:
    if request("weight_layout") == "hwio":
        outs, ins, *kernel = range(weight.ndim)
        weight = weight.transpose(*kernel, ins, outs)
    return weight


def conv(request: Request) -> dict[str, Expected]:
    """`y[n, o] = bias[o] + sum over c and taps of weight[o, c, tap] * x[n, c, position]`."""
    x, weight = request.image(), weight_of(request)
    axes, groups = conv_axes(request), request("groups")
    seen, samples, outs = windows(axes), x.shape[0], weight.shape[0]
    bias = request.vector("bias", outs, 0.0).reshape(groups, -1)
    planes = x.reshape(samples, groups, x.shape[1] // groups, -1)
    kernel = weight.reshape(groups, outs // groups, weight.shape[1], -1)
    out_shape = (samples, outs, *(axis.output for axis in axes))
    gradient = request.gradient(out_shape)
    grad = None if gradient is None else gradient.reshape(samples, *bias.shape, -1)
    output, size = np.zeros((2, samples, *bias.shape, len(seen)))
    back = np.zeros((2, *planes.shape))
    kernel_back = np.zeros((2, *kernel.shape))
    touched = np.zeros(planes.shape[-1], np.int64)
    for number, window in enumerate(seen):
        part, own = planes[..., window.positions], kernel[..., window.taps]
        output[..., number], size[..., number] = _both("ngct,goct->ngo", part, own)
        if grad is None:
            continue
        back[..., window.positions] += _both("ngo,goct->ngct", grad[..., number], own)
        kernel_back[..., window.taps] += _both("ngo,ngct->goct", grad[..., number], part)
        touched[window.positions] += 1
    output += bias[..., None]
    size += np.abs(bias)[..., None]
    terms = math.prod(weight.shape[1:]) + 1
    found = {"output": _image(request, output, size, out_shape, terms)}
    if grad is not None:
        per_input = int(touched.max()) * outs // groups
        found["gradients.input"] = _image(request, back[0], back[1], x.shape, per_input)
        pair = kernel_back.reshape(2, *weight.shape)
        value, magnitude = (_as_sent(request, each) for each in pair)
        found["gradients.weight"] = Expected(value, magnitude, samples * len(seen))
        total, size = (array.sum((0, 3)).reshape(-1) for array in (grad, np.abs(grad)))
        found["gradients.bias"] = Expected(total, size, samples * len(seen))
    return found


def _both(product: str, a: Array, b: Array) -> tuple[Array, Array]:
    """The sums of products, and the magnitude of their terms."""
    return (
        np.einsum(product, a, b),
        np.einsum(product, np.abs(a), np.abs(b)),
    )


def _image(
    request: Request, value: Array, terms: Array, shape: tuple[int, ...], count: int
) -> Expected:
    return request.outward(Expected(value.reshape(shape), terms.reshape(shape), count))
