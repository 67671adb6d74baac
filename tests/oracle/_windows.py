"""Where a porter's windows lie, with everything that can go wrong in placing them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.oracle._request import Array, Request, per_axis


class NoAnswer(Exception):
    """The request as the client read it has no answer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One axis: for each window, the pairs (tap, position in the input, perhaps outside it).

    `first` and `last`: the padded axis, from the first padding to just past the last.
    """

    length: int
    kernel: int
    windows: list[list[tuple[int, int]]]
    first: int
    last: int


def sliding(request: Request, spatial: Sequence[int], kernel: Sequence[int]) -> list[Line]:
    """The axes of a pooling or a convolution with its stride, padding, dilation and ceil mode."""
    dims, fault = len(spatial), request.fault
    stride = request("stride")
    if stride is None:
        pools = request.family != "conv" and request.convention in ("torch", "keras")
        stride = list(kernel) if pools else 1
    padding, dilation = request("padding"), per_axis(request("dilation"), dims)
    strides, kernels = per_axis(stride, dims), list(kernel)
    pads = [padding] * dims if isinstance(padding, str) else per_axis(padding, dims)
    if fault == "dilation-ignored":
        dilation = [1] * dims
    if fault in ("axes-swapped", "axes-swapped:with the kernel"):
        kernels, strides, pads = kernels[::-1], strides[::-1], pads[::-1]
    return [
        _line(request, n, k, s, d, p)
        for n, k, s, d, p in zip(spatial, kernels, strides, dilation, pads, strict=True)
    ]


def _line(request: Request, n: int, k: int, s: int, d: int, pad: Any) -> Line:
    reach, fault = d * (k - 1) + 1, request.fault
    pad = "same_upper" if pad == "same" else pad
    if pad in ("same_upper", "same_lower"):
        out = -(-n // s)
        total = max(0, (out - 1) * s + reach - n)
        before = total // 2 if pad == "same_upper" else total - total // 2
        after = total - before
    else:
        if pad == "valid":
            before = after = 0
        else:
            before, after = pad if isinstance(pad, list | tuple) else (pad, pad)
        room = n + before + after - reach
        out = (-(-room // s) if request("ceil_mode") else room // s) + 1
        dropping = request("ceil_mode") and request("ceil_rule") == "drop"
        if dropping and (out - 1) * s >= n + before:
            out -= 1
    if out < 1:
        raise NoAnswer("no window fits")
    if fault == "begin-padding-dropped":
        before = 0
    if fault == "end-padding-dropped":
        after = 0
    if fault == "end-padding-as-begin":
        after = before
    if fault == "begin-padding-as-end":
        before = after
    if fault == "dilation-ignored:for the size alone":
        d, reach = 1, k
    windows = []
    for o in range(out):
        start = o * s - before
        if fault == "dilation-from-clamped-begin":
            at = range(max(0, start), start + reach, d)
        else:
            at = range(start, start + reach, d)
        windows.append(list(enumerate(at)))
    return Line(n, k, windows, -before, n + after)


def adaptive(n: int, out: int, fault: str | None) -> Line:
    """Windows [floor(i n / o), ceil((i + 1) n / o)), or what some take for them."""
    bounds = []
    for i in range(out):
        start, end = i * n // out, -(-(i + 1) * n // out)
        if fault == "adaptive-end-floored":
            end = (i + 1) * n // out
        if fault == "adaptive-fixed-stride":
            step = n // out
            start = i * step
            end = start + n - (out - 1) * step
        bounds.append((start, end))
    windows = [list(enumerate(range(start, end))) for start, end in bounds]
    return Line(n, n, windows, 0, n)


@dataclass(frozen=True, slots=True)
class Window:
    """One window over all axes.

    `inside`: row-major positions in the plane; `taps`: their taps, flat in the kernel. `outer`:
    the coordinates of every tap. `counted`: taps on the input or its padding.
    """

    inside: list[int]
    taps: list[int]
    coordinates: list[tuple[int, ...]]
    size: int
    counted: int


def windows(lines: Sequence[Line]) -> list[Window]:
    """All windows, in row-major order of the output; taps count within each window's own size."""
    lengths, kernel = [line.length for line in lines], [line.kernel for line in lines]
    found = []
    for parts in itertools.product(*(line.windows for line in lines)):
        inside, taps, where, counted, size = [], [], [], 0, math.prod(kernel)
        for pairs in itertools.product(*parts):
            tap, at = [p[0] for p in pairs], tuple(p[1] for p in pairs)
            if all(
                line.first <= c < line.last or 0 <= c < line.length
                for c, line in zip(at, lines, strict=True)
            ):
                counted += 1
            if all(0 <= c < n for c, n in zip(at, lengths, strict=True)):
                inside.append(flat(at, lengths))
                taps.append(flat(tap, [len(p) for p in parts]))
                where.append(at)
        found.append(Window(inside, taps, where, size, counted))
    return found


def flat(index: Sequence[int], lengths: Sequence[int]) -> int:
    position = 0
    for at, length in zip(index, lengths, strict=True):
        position = position * length + at
    return position


def planes(x: Array) -> Array:
    """`(N, C, *spatial) -> (N, C, positions)`."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
