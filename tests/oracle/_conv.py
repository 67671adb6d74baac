"""A porter's convolution: window by window, channel by channel."""

import numpy as np

from tests.oracle._avg_pool import added
from tests.oracle._max_pool import Results
from tests.oracle._request import Array, Request
from tests.oracle._windows import NoAnswer, planes, sliding, windows


def conv(request: Request) -> Results:
    """The output, and the gradients of input, weight and bias."""
    x, kernel = request.image(), _kernel(request)
    groups = request("groups")
    outs, ins = kernel.shape[:2]
    if x.shape[1] != ins * groups:
        raise NoAnswer("channels")
    flat = kernel.reshape(outs, ins, -1)
    bias = request.vector("bias", outs, 0.0)
    if len(bias) != outs:
        raise NoAnswer("bias")
    lines = sliding(request, x.shape[2:], kernel.shape[2:])
    seen, shape = windows(lines), (x.shape[0], outs, *(len(line.windows) for line in lines))
    gradient = request.gradient(shape)
    output = np.empty(shape, x.dtype)
    back, weight_back = np.zeros(planes(x).shape), np.zeros(flat.shape)
    for n, o in np.ndindex(*shape[:2]):
        first = o // (outs // groups) * ins
        for number, window in enumerate(seen):
            at = (n, o, *np.unravel_index(number, shape[2:]))
            part = planes(x)[n, first : first + ins][:, window.inside]
            own = flat[o][:, window.taps]
            output[at] = added((part * own).ravel(), request) + bias[o]
            if gradient is not None:
                for c in range(ins):
                    np.add.at(back[n, first + c], window.inside, gradient[at] * own[c])
                    np.add.at(weight_back[o, c], window.taps, gradient[at] * part[c])
    found = {"output": request.outward(output)}
    if gradient is not None:
        found["gradients.input"] = request.outward(back.reshape(x.shape))
        found["gradients.weight"] = _as_sent(weight_back.reshape(kernel.shape), request)
        found["gradients.bias"] = gradient.sum((0, *range(2, gradient.ndim)))
    return found


def _turned(kernel: Array, request: Request) -> Array:
    """What a fault makes of the kernel; it is its own inverse."""
    if request.fault == "kernel-flipped":
        return np.asarray(np.flip(kernel, tuple(range(2, kernel.ndim))))
    if request.fault == "weight-transposed":
        return kernel.swapaxes(0, 1)
    if request.fault in ("kernel-transposed", "axes-swapped:with the kernel"):
        return kernel.transpose(0, 1, *range(kernel.ndim - 1, 1, -1))
    return kernel


def _kernel(request: Request) -> Array:
    """`(out, in / groups, *kernel)`."""
    sent = request.numbers("weight")
    assert sent is not None
    if request("weight_layout") == "hwio":
        sent = np.moveaxis(sent, (-1, -2), (0, 1))
    return _turned(sent, request)


def _as_sent(kernel: Array, request: Request) -> Array:
    kernel = _turned(kernel, request)
    if request("weight_layout") == "hwio":
        kernel = np.moveaxis(kernel, (0, 1), (-1, -2))
    return kernel
