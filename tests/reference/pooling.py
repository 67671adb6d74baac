"""Max and average pooling: over sliding, adaptive and whole windows."""

import math
from typing import Any

import numpy as np

from tests.reference._inputs import INTEGERS
from tests.reference._requests import Expected, Request, exact
from tests.reference._windows import (
    Array,
    Axis,
    Refused,
    Window,
    adaptive_axis,
    flat,
    per_axis,
    pool_axes,
    whole_axis,
    windows,
)

Results = dict[str, Expected]


def axes_of(request: Request) -> tuple[Axis, ...]:
    """The axes over which the layer pools."""
    spatial = request.image().shape[2:]
    if request.family.startswith("global"):
        return tuple(map(whole_axis, spatial))
    if request.family.startswith("adaptive"):
        sizes = per_axis(request("output_size"), len(spatial))
        return tuple(
            adaptive_axis(n, n if size is None else size)
            for n, size in zip(spatial, sizes, strict=True)
        )
    return pool_axes(spatial, request)


def max_pool(request: Request) -> Results:
    """The largest element of each window; ties, NaN and indices as the options say."""
    x, axes = request.image(), axes_of(request)
    planes, seen = x.reshape(*x.shape[:2], -1), windows(axes)
    output = np.empty((*planes.shape[:2], len(seen)), x.dtype)
    where = np.empty(output.shape, np.int64)
    shares = []
    for number, window in enumerate(seen):
        elements = planes[:, :, window.positions]
        if not window.positions.size:
            output[:, :, number], where[:, :, number] = _of_nothing(request), -1
            shares.append(np.empty(elements.shape))
            continue
        best, chosen, winners = _maximum(elements, request("nan") == "ignore")
        output[:, :, number] = best
        where[:, :, number] = window.positions[chosen]
        shares.append(_shares(winners, chosen, request("tie")))
    shape = (*x.shape[:2], *(axis.output for axis in axes))
    found = {"output": shaped(exact(output), request, shape)}
    if request("return_indices"):
        numbers = _numbered(where, x.shape, request)
        found["indices"] = request.outward(exact(numbers.reshape(shape)))
    gradient = gradient_of(request, shape)
    if gradient is not None:
        parts = [gradient[:, :, number, None] * share for number, share in enumerate(shares)]
        # A window passes no gradient to elements that did not win, not even NaN.
        parts = [np.where(s > 0, part, 0.0) for s, part in zip(shares, parts, strict=True)]
        found["gradients.input"] = spread(request, x.shape, seen, parts)
    return found


def _of_nothing(request: Request) -> float:
    """The maximum of a window without elements."""
    if request("empty_window") == "zero":
        return 0
    if request("empty_window") == "lowest":
        dtype = request("dtype")
        return INTEGERS[dtype][0] if dtype in INTEGERS else -math.inf
    raise Refused("a window without elements")


def _maximum(elements: Array, ignore_nan: bool) -> tuple[Array, Array, Array]:
    """`(N, C, taps)`: the maximum, the number of the chosen tap, and which taps equal it."""
    missing: Array = np.zeros(elements.shape, bool)
    if elements.dtype.kind == "f":
        missing = np.isnan(elements)
    if not ignore_nan:
        wins: Array = np.asarray(missing.any(-1))
        best: Array = elements.max(-1)
        winners: Array = np.where(wins[..., None], missing, elements == best[..., None])
        last = elements.shape[-1] - 1 - missing[..., ::-1].argmax(-1)
        return best, np.where(wins, last, winners.argmax(-1)), winners
    if elements.dtype.kind != "f":
        return _maximum(elements, ignore_nan=False)
    best = np.where(missing, -np.inf, elements).max(-1)
    won: Array = elements == best[..., None]
    return best, won.argmax(-1), won


def _shares(winners: Array, chosen: Array, tie: str) -> Array:
    """`(N, C, taps)`: the share of the window's gradient that each tap gets."""
    if tie == "all":
        return winners.astype(np.float64)
    share: Array = winners / np.maximum(winners.sum(-1, keepdims=True), 1)
    if tie == "split":
        return share
    first = np.arange(winners.shape[-1]) == chosen[..., None]
    return np.where(first & winners, 1.0, 0.0)


def _numbered(where: Array, shape: tuple[int, ...], request: Request) -> Array:
    """Convert positions in a plane to indices in the requested base."""
    base = "plane" if request.family.startswith("adaptive") else request("index_base")
    samples, channels, spatial = shape[0], shape[1], shape[2:]
    channel = np.arange(channels)[None, :, None]
    if base == "plane":
        return where
    if base == "tf":
        return np.where(where < 0, -1, where * channels + channel)
    found = where
    if request("storage_order") == "column":
        index = np.unravel_index(np.maximum(where, 0), spatial)
        found = np.array(flat(index[::-1], spatial[::-1]))  # type: ignore[arg-type]
    plane = np.arange(samples)[:, None, None] * channels + channel
    return np.where(where < 0, -1, plane * math.prod(spatial) + found)


def avg_pool(request: Request) -> Results:
    """The sum of each window divided by its divisor."""
    x, axes = request.image(), axes_of(request)
    planes, seen = x.reshape(*x.shape[:2], -1), windows(axes)
    divisors = [_divisor(window, request) for window in seen]
    output, terms = np.empty((2, *planes.shape[:2], len(seen)))
    for number, (window, divisor) in enumerate(zip(seen, divisors, strict=True)):
        elements = planes[:, :, window.positions]
        output[:, :, number] = elements.sum(-1) / divisor
        terms[:, :, number] = np.abs(elements).sum(-1) / abs(divisor)
    shape = (*x.shape[:2], *(axis.output for axis in axes))
    taps = max(window.positions.size for window in seen)
    found = {"output": shaped(Expected(output, terms, taps), request, shape)}
    gradient = gradient_of(request, shape)
    if gradient is not None:
        parts = [
            np.repeat(gradient[:, :, number, None] / divisor, window.positions.size, -1)
            for number, (window, divisor) in enumerate(zip(seen, divisors, strict=True))
        ]
        found["gradients.input"] = spread(request, x.shape, seen, parts)
    return found


def _divisor(window: Window, request: Request) -> int:
    if request.family != "avg_pool":
        return window.positions.size
    override = request("divisor_override")
    if override is not None:
        return int(override)
    if not request("count_include_pad"):
        if not window.positions.size and request("empty_window") == "refuse":
            raise Refused("a window without elements")
        return max(1, window.positions.size)
    # A window with only overhang has sum 0, whatever its divisor.
    return window.size if request("overhang_divisor") == "kernel" else max(1, window.within)


def gradient_of(request: Request, shape: tuple[int, ...]) -> Array | None:
    """The gradient of the output, `(N, C, windows)`."""
    sent = (*shape[:2], *output_spatial(request, shape[2:]))
    gradient = request.gradient(sent)
    return None if gradient is None else gradient.reshape(*shape[:2], -1)


def output_spatial(request: Request, out: tuple[int, ...]) -> tuple[int, ...]:
    """The spatial axes of the output as sent."""
    dropped = request.family.startswith("global") and not request("keepdims")
    return () if dropped else out


def shaped(found: Expected, request: Request, shape: tuple[int, ...]) -> Expected:
    sent = (*shape[:2], *output_spatial(request, shape[2:]))
    value, terms = found.value.reshape(sent), found.terms.reshape(sent)
    return request.outward(Expected(value, terms, found.count))


def spread(request: Request, shape: tuple[int, ...], seen: Any, parts: list[Array]) -> Expected:
    """Sum, over all windows, the parts that each contributes to its elements, `(N, C, taps)`."""
    total, terms = np.zeros((2, *shape[:2], math.prod(shape[2:])))
    times = np.zeros(math.prod(shape[2:]), np.int64)
    for window, part in zip(seen, parts, strict=True):
        total[:, :, window.positions] += part
        terms[:, :, window.positions] += np.abs(part)
        times[window.positions] += 1
    count = int(times.max())
    return request.outward(Expected(total.reshape(shape), terms.reshape(shape), count))
