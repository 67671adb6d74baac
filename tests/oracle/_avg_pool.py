"""A porter's average and Lp pooling: window by window, channel by channel."""

import math

import numpy as np

from tests.oracle._max_pool import Results, lines_of
from tests.oracle._numbers import rounded
from tests.oracle._request import Array, Request, per_axis
from tests.oracle._windows import NoAnswer, Window, planes, windows


def avg_pool(request: Request) -> Results:
    """The output and the input's gradient."""
    x = request.image()
    if request.fault == "edge-replicated":
        return _edge_replicated(request)
    lines = lines_of(request, x.shape[2:])
    seen, shape = windows(lines), (*x.shape[:2], *(len(line.windows) for line in lines))
    gradient = request.gradient(shape)
    output, back = np.empty(shape, x.dtype), np.zeros(planes(x).shape, x.dtype)
    for n, c in np.ndindex(*x.shape[:2]):
        for number, window in enumerate(seen):
            at = (n, c, *np.unravel_index(number, shape[2:]))
            divisor = divisor_of(window, request)
            if request.fault == "average-undivided":
                divisor = 1
            total = added(planes(x)[n, c, window.inside], request)
            output[at] = total / divisor if window.inside else 0
            if gradient is None:
                continue
            if request.fault == "gradient-undivided":
                divisor = 1
            if request.fault == "gradient-over-kernel":
                divisor = window.size
            for position in window.inside:
                if request.fault == "overlap-overwritten":
                    back[n, c, position] = gradient[at] / divisor
                else:
                    back[n, c, position] += gradient[at] / divisor
    squeezed = request.family.startswith("global") and not request("keepdims")
    found = {"output": request.outward(output.reshape(x.shape[:2]) if squeezed else output)}
    if gradient is not None:
        found["gradients.input"] = request.outward(back.reshape(x.shape))
    return found


def added(values: Array, request: Request) -> float:
    """The sum, one value after the other in the client's own dtype."""
    total = values.dtype.type(0)
    for value in values:
        total = total + value
        if request.fault == "half-accumulation":
            total = rounded(np.array(total), request("dtype"))[()]
    return total  # type: ignore[no-any-return]


def divisor_of(window: Window, request: Request) -> float:
    if request.family != "avg_pool":
        return len(window.inside)
    override = request("divisor_override")
    if override is not None:
        return float(override)
    if not request("count_include_pad"):
        if not window.inside and request("empty_window") == "refuse":
            raise NoAnswer("a window holds no element")
        return len(window.inside)
    return window.size if request("overhang_divisor") == "kernel" else window.counted


def _edge_replicated(request: Request) -> Results:
    """Pads with copies of the edge, then averages whole windows without padding."""
    x = request.image()
    lines = lines_of(request, x.shape[2:])
    pads = [(0, 0), (0, 0), *((-line.first, line.last - line.length) for line in lines)]
    wide = np.pad(x, pads, mode="edge")
    kernel = per_axis(request("kernel_size"), len(lines))
    shape = (*x.shape[:2], *(len(line.windows) for line in lines))
    gradient, output = request.gradient(shape), np.empty(shape)
    places = np.pad(np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:]), pads[2:], mode="edge")
    back = np.zeros(planes(x).shape)
    for at in np.ndindex(*shape):
        seen = np.ix_(
            *([p - line.first for _, p in line.windows[o]]
              for o, line in zip(at[2:], lines, strict=True))
        )  # fmt: skip
        output[at] = wide[at[:2]][seen].mean()
        if gradient is not None:
            np.add.at(back[at[:2]], places[seen].ravel(), gradient[at] / math.prod(kernel))
    found = {"output": request.outward(output)}
    if gradient is not None:
        found["gradients.input"] = request.outward(back.reshape(x.shape))
    return found


def lp_pool(request: Request) -> Results:
    """`(scale * sum of x^p)^(1/p)` per window, and its gradient."""
    x, p = request.image(), float(request("norm_type"))
    lines = lines_of(request, x.shape[2:])
    seen, shape = windows(lines), (*x.shape[:2], *(len(line.windows) for line in lines))
    gradient = request.gradient(shape)
    output, back = np.empty(shape), np.zeros(planes(x).shape)
    for n, c in np.ndindex(*x.shape[:2]):
        for number, window in enumerate(seen):
            at = (n, c, *np.unravel_index(number, shape[2:]))
            values = planes(x)[n, c, window.inside]
            scale = window.size / window.counted if request("lp_partial") == "scaled" else 1.0
            base = np.abs(values) if request("lp_abs") else values
            total = scale * (base**p).sum()
            output[at] = total ** (1 / p)
            if gradient is None or total == 0:
                continue
            slope = scale * total ** (1 / p - 1) * base ** (p - 1)
            slope = slope * np.sign(values) if request("lp_abs") else slope
            for position, part in zip(window.inside, slope * gradient[at], strict=True):
                if request.fault == "overlap-overwritten":
                    back[n, c, position] = part
                else:
                    back[n, c, position] += part
    found = {"output": request.outward(output)}
    if gradient is not None:
        found["gradients.input"] = request.outward(back.reshape(x.shape))
    return found
