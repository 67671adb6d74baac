"""Window geometry from the formulas: where windows lie, and which elements they contain."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Refused(Exception):
    """The request has no answer, mathematically or in its convention."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis: the positions of each window's taps, whether inside the input or not.

    `limits` are the first position of the leading padding, and the position just past the trailing
    padding.
    """

    length: int
    windows: tuple[tuple[int, ...], ...]
    limits: tuple[int, int]

    @property
    def output(self) -> int:
        return len(self.windows)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window over all spatial axes.

    `positions`: its elements, as row-major positions in a plane. `taps`: the kernel tap of each
    element. `size`: total number of taps. `within`: number of taps on the input or its padding.
    """

    positions: Array
    taps: Array
    size: int
    within: int


def per_axis(value: Any, dims: int) -> list[Any]:
    """Expand to one entry per axis; a single entry applies to all axes."""
    entries = list(value) if isinstance(value, list | tuple) else [value]
    return entries * dims if len(entries) == 1 else entries


def sliding_axis(
    length: int, kernel: int, stride: int, dilation: int, padding: Any, *, ceil: bool, keep: bool
) -> Axis:
    """Windows of `kernel` taps, `dilation` apart, each `stride` after the previous one.

    `padding` is a mode, or the padding before and after.
    """
    extent = dilation * (kernel - 1) + 1
    if padding in ("same", "same_upper", "same_lower"):
        output = -(-length // stride)
        total = max(0, (output - 1) * stride + extent - length)
        less, more = total // 2, total - total // 2
        before, after = (more, less) if padding == "same_lower" else (less, more)
    else:
        before, after = (0, 0) if padding == "valid" else padding
        room = length + before + after - extent
        output = (math.ceil(room / stride) if ceil else math.floor(room / stride)) + 1
        if ceil and not keep and (output - 1) * stride >= length + before:
            output -= 1
    if output < 1:
        raise Refused("the window is longer than its axis")
    windows = tuple(
        tuple(index * stride - before + tap * dilation for tap in range(kernel))
        for index in range(output)
    )
    return Axis(length, windows, (-before, length + after))


def adaptive_axis(length: int, output: int) -> Axis:
    """Window i is [floor(i * n / o), ceil((i + 1) * n / o))."""
    windows = tuple(
        tuple(range(i * length // output, -(-(i + 1) * length // output))) for i in range(output)
    )
    return Axis(length, windows, (0, length))


def whole_axis(length: int) -> Axis:
    """One window over the whole axis."""
    return Axis(length, (tuple(range(length)),), (0, length))


@lru_cache(maxsize=4096)
def windows(axes: tuple[Axis, ...]) -> tuple[Window, ...]:
    """All windows, in row-major order."""
    return tuple(
        _window(axes, taps) for taps in itertools.product(*(axis.windows for axis in axes))
    )


def _window(axes: Sequence[Axis], taps: Sequence[tuple[int, ...]]) -> Window:
    inside, within = [], 1
    for axis, line in zip(axes, taps, strict=True):
        first, last = axis.limits
        within *= sum(first <= position < last for position in line)
        inside.append(
            [(tap, at) for tap, at in enumerate(line) if 0 <= at < axis.length],
        )
    lengths, kernel = [a.length for a in axes], list(map(len, taps))
    real = [
        (flat((tap for tap, _ in pairs), kernel), flat((at for _, at in pairs), lengths))
        for pairs in itertools.product(*inside)
    ]
    numbers, positions = np.array(real, dtype=np.int64).reshape(-1, 2).T
    return Window(positions, numbers, math.prod(kernel), within)


def flat(index: Iterable[int], lengths: Iterable[int]) -> int:
    """The row-major position of an index."""
    position = 0
    for at, length in zip(index, lengths, strict=True):
        position = position * length + at
    return position


def pool_axes(spatial: Sequence[int], options: Any) -> tuple[Axis, ...]:
    """The axes of a pooling over sliding windows; `options` is called with each option's name."""
    dims = len(spatial)
    kernels = per_axis(options("kernel_size"), dims)
    stride = options("stride")
    if stride is None:
        stride = kernels if options.convention in ("torch", "keras") else 1
    padding = options("padding")
    return axes_of(spatial, kernels, stride, padding, options, halved=True)


def axes_of(
    spatial: Sequence[int], kernels: list[int], stride: Any, padding: Any, options: Any, *,
    halved: bool,
) -> tuple[Axis, ...]:  # fmt: skip
    """The axes of sliding windows; with `halved`, pooling's limits on padding apply."""
    dims = len(spatial)
    axes = []
    pads = [padding] * dims if isinstance(padding, str) else per_axis(padding, dims)
    rest = (per_axis(stride, dims), per_axis(options("dilation"), dims), pads)
    for length, kernel, step, dilation, pad in zip(spatial, kernels, *rest, strict=True):
        pair = pad if isinstance(pad, str | list | tuple) else (pad, pad)
        if halved and not isinstance(pair, str):
            extent = dilation * (kernel - 1) + 1
            symmetric = options.convention == "torch" and pair[0] == pair[1]
            if max(pair) > (extent // 2 if symmetric else extent - 1):
                raise Refused("too much padding")
        axes.append(
            sliding_axis(
                length, kernel, step, dilation, pair if isinstance(pair, str) else tuple(pair),
                ceil=bool(options("ceil_mode")), keep=options("ceil_rule") == "keep",
            )
        )  # fmt: skip
    return tuple(axes)
