"""Clients in plain loops: pooling and convolution over windows given as lists of coordinates.

An axis is a list of windows, a window a list of coordinates; those outside the input are padding.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Axes = Sequence[Sequence[Sequence[int]]]
Order = Callable[[Sequence[Sequence[int]]], list[tuple[int, ...]]]


def row_major(taps: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Every combination of coordinates, the last axis fastest."""
    if not taps:
        return [()]
    return [(first, *rest) for first in taps[0] for rest in row_major(taps[1:])]


def column_major(taps: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Every combination of coordinates, the first axis fastest."""
    return [tuple(reversed(at)) for at in row_major(list(reversed(taps)))]


def sliding(
    length: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1
) -> list[list[int]]:
    """The windows of one axis, as many as the padding makes room for."""
    count = (length + before + after - dilation * (kernel - 1) - 1) // stride + 1
    return [[o * stride - before + i * dilation for i in range(kernel)] for o in range(count)]


def adaptive(length: int, output: int) -> list[list[int]]:
    """The windows of adaptive pooling."""
    return [
        list(range(math.floor(i * length / output), math.ceil((i + 1) * length / output)))
        for i in range(output)
    ]


def is_inside(at: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether the coordinates are those of an element."""
    return all(0 <= c < n for c, n in zip(at, shape, strict=True))


def plane_index(at: Sequence[int], shape: Sequence[int]) -> int:
    """The row-major position."""
    index = 0
    for coordinate, length in zip(at, shape, strict=True):
        index = index * length + coordinate
    return index


def each_window(x: np.ndarray, axes: Axes) -> Any:
    """Every sample, channel and window: its index in the output, and its coordinates."""
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for o in np.ndindex(*(len(axis) for axis in axes)):
                yield (n, c, *o), [axis[i] for axis, i in zip(axes, o, strict=True)]


def shape_of(x: np.ndarray, axes: Axes) -> tuple[int, ...]:
    """The output's shape."""
    return (*x.shape[:2], *(len(axis) for axis in axes))


def max_pool(
    x: np.ndarray,
    axes: Axes,
    grad: np.ndarray,
    *,
    order: Order = row_major,
    wins: Callable[[float, float], bool] = lambda value, best: value > best or value != value,
    overwrite: bool = False,
) -> dict[str, np.ndarray]:
    """A loop over each window; `wins(value, best)` says whether an element replaces the best."""
    output = np.full(shape_of(x, axes), -np.inf)
    where = np.full(output.shape, -1)
    dx = np.zeros_like(x)
    for o, taps in each_window(x, axes):
        real = [at for at in order(taps) if is_inside(at, x.shape[2:])]
        best = None
        for at in real:
            value = x[(*o[:2], *at)]
            if best is None or wins(value, x[(*o[:2], *best)]):
                best = at
        if best is None:
            continue
        output[o] = x[(*o[:2], *best)]
        where[o] = plane_index(best, x.shape[2:])
        if overwrite:
            dx[(*o[:2], *best)] = grad[o]
        else:
            dx[(*o[:2], *best)] += grad[o]
    return {"output": output, "indices": where, "gradients.input": dx}


def avg_pool(
    x: np.ndarray,
    axes: Axes,
    grad: np.ndarray,
    divisor: Callable[[Sequence[Sequence[int]]], float],
    *,
    gradient_divisor: Callable[[Sequence[Sequence[int]]], float] | None = None,
    overwrite: bool = False,
) -> dict[str, np.ndarray]:
    """A loop over each window; `divisor(taps)` is what its sum is divided by."""
    output = np.zeros(shape_of(x, axes))
    dx = np.zeros_like(x)
    for o, taps in each_window(x, axes):
        real = [at for at in row_major(taps) if is_inside(at, x.shape[2:])]
        output[o] = sum(x[(*o[:2], *at)] for at in real) / divisor(taps)
        share = grad[o] / (gradient_divisor or divisor)(taps)
        for at in real:
            if overwrite:
                dx[(*o[:2], *at)] = share
            else:
                dx[(*o[:2], *at)] += share
    return {"output": output, "gradients.input": dx}


def within(bounds: Sequence[tuple[int, int]]) -> Callable[[Sequence[Sequence[int]]], float]:
    """The divisor that counts the taps within [first, last) of each axis."""

    def divisor(taps: Sequence[Sequence[int]]) -> float:
        return math.prod(
            sum(first <= c < last for c in axis)
            for axis, (first, last) in zip(taps, bounds, strict=True)
        )

    return divisor


def conv(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, axes: Axes, groups: int, grad: np.ndarray
) -> dict[str, np.ndarray]:
    """A loop over samples, output channels, windows, input channels and taps."""
    out, per_group = weight.shape[:2]
    output = np.zeros((x.shape[0], out, *(len(axis) for axis in axes)))
    dx, dw, db = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(bias)
    for n, c, *o in np.ndindex(output.shape):
        total = bias[c]
        db[c] += grad[(n, c, *o)]
        windows = [axis[i] for axis, i in zip(axes, o, strict=True)]
        for j in range(per_group):
            source = c // (out // groups) * per_group + j
            for tap in np.ndindex(weight.shape[2:]):
                at = tuple(window[i] for window, i in zip(windows, tap, strict=True))
                if not is_inside(at, x.shape[2:]):
                    continue
                total += weight[(c, j, *tap)] * x[(n, source, *at)]
                dx[(n, source, *at)] += grad[(n, c, *o)] * weight[(c, j, *tap)]
                dw[(c, j, *tap)] += grad[(n, c, *o)] * x[(n, source, *at)]
        output[(n, c, *o)] = total
    return {
        "output": output,
        "gradients.input": dx,
        "gradients.weight": dw,
        "gradients.bias": db,
    }
