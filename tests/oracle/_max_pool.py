"""A porter's max pooling: window by window, channel by channel."""

import math
from collections.abc import Sequence

import numpy as np

from tests.oracle._request import Array, Request, per_axis
from tests.oracle._windows import Line, NoAnswer, Window, adaptive, flat, planes, sliding, windows

Results = dict[str, Array]


def lines_of(request: Request, spatial: Sequence[int]) -> list[Line]:
    """The windows of each axis, in any of the poolings."""
    dims = len(spatial)
    if request.family.startswith("global"):
        return [adaptive(n, 1, None) for n in spatial]
    if request.family.startswith("adaptive"):
        sizes = per_axis(request("output_size"), dims)
        return [
            adaptive(n, n if o is None else o, request.fault)
            for n, o in zip(spatial, sizes, strict=True)
        ]
    return sliding(request, spatial, per_axis(request("kernel_size"), dims))


def max_pool(request: Request) -> Results:
    """The output, the indices, and the input's gradient."""
    x = request.image()
    spatial = x.shape[2:]
    lines = lines_of(request, spatial)
    seen, shape = windows(lines), (*x.shape[:2], *(len(line.windows) for line in lines))
    gradient = request.gradient(shape)
    output, where = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    back = np.zeros(planes(x).shape)
    for n, c in np.ndindex(*x.shape[:2]):
        for number, window in enumerate(seen):
            at = (n, c, *np.unravel_index(number, shape[2:]))
            best, chosen, shares = _largest(planes(x)[n, c], window, request)
            output[at] = best
            where[at] = _index(chosen, window, n, c, lines, x.shape[1], request)
            if gradient is None:
                continue
            for position, share in shares.items():
                if request.fault == "overlap-overwritten":
                    back[n, c, position] = share * gradient[at]
                else:
                    back[n, c, position] += share * gradient[at]
    squeezed = request.family.startswith("global") and not request("keepdims")
    found = {"output": request.outward(output.reshape(x.shape[:2]) if squeezed else output)}
    if request("return_indices"):
        found["indices"] = request.outward(where)
    if gradient is not None:
        found["gradients.input"] = request.outward(back.reshape(x.shape))
    return found


def _largest(plane: Array, window: Window, request: Request) -> tuple[float, int, dict[int, float]]:
    """The maximum, the number of the tap that has it, and the share of the gradient by position."""
    values = plane[window.inside]
    if not values.size:
        if request("empty_window") == "refuse":
            raise NoAnswer("a window holds no element")
        return (0.0 if request("empty_window") == "zero" else -math.inf), -1, {}
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if request.fault == "nan-if-first":
        missing[1:] = False
        usable = values.copy()
        usable[1:] = np.where(np.isnan(values[1:]), -math.inf, values[1:])
        values = usable
    if request("nan") == "ignore" and missing.any():
        real = ~missing
        if not real.any():
            return -math.inf, 0, {}
        best = values[real].max()
        winners = np.flatnonzero(real & (values == best))
    elif missing.any():
        best, winners = np.nan, np.flatnonzero(missing)[::-1]
    else:
        best = values.max()
        winners = np.flatnonzero(values == best)
    if request.fault == "maximum-from-lowest" and (best == -math.inf or np.isnan(values).all()):
        return float(np.finfo(np.float32).min), -1, {}
    if request.fault == "zero-padded-maximum" and len(values) < window.size and best < 0:
        return 0.0, -1, {}
    chosen = int(winners[0])
    if request.fault == "tie-last":
        chosen = int(winners[-1])
    if request.fault == "tie-column-major":
        chosen = min(map(int, winners), key=lambda w: window.coordinates[w][::-1])
    share = {"first": 0.0, "split": 1 / len(winners), "all": 1.0}[request("tie")]
    shares = {window.inside[w]: share for w in winners} if share else {window.inside[chosen]: 1.0}
    return best, chosen, shares


def _index(
    chosen: int, window: Window, n: int, c: int, lines: list[Line], channels: int, request: Request
) -> int:
    """The index of a tap in the base asked for, or in one of the wrong ones."""
    if chosen < 0:
        return -1
    lengths = [line.length for line in lines]
    place = window.coordinates[chosen]
    if request.fault == "index-in-window":
        return window.taps[chosen]
    if request.fault == "index-padded":
        place = tuple(at - line.first for at, line in zip(place, lines, strict=True))
        lengths = [line.last - line.first for line in lines]
    base = "plane" if request.family.startswith("adaptive") else request("index_base")
    if base == "onnx" and request("storage_order") == "column":
        index = flat(place[::-1], lengths[::-1])
    else:
        index = flat(place, lengths)
    if base == "tf":
        index = index * channels + c
    if base == "onnx":
        index += (n * channels + c) * math.prod(lengths)
    return index + (request.fault == "index-from-one")
