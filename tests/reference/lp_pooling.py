"""Lp pooling: the p-norm of each window."""

import numpy as np

from tests.reference._requests import Expected, Request
from tests.reference._windows import Array, Window, windows
from tests.reference.pooling import Results, axes_of, gradient_of, shaped, spread


def lp_pool(request: Request) -> Results:
    """`y = (scale * sum |x|^p)^(1/p)`, signed where `lp_abs` is false.

    `dy/dx = scale * s^(1/p - 1) * |x|^(p - 1) * sign(x)`; no gradient passes
    through a sum of 0, and a gradient of 0 stays 0 at an element of 0, however steep the slope.
    """
    x, axes, p = request.image(), axes_of(request), float(request("norm_type"))
    planes, seen = x.reshape(*x.shape[:2], -1), windows(axes)
    output, terms = np.empty((2, *planes.shape[:2], len(seen)))
    slopes, doubts = [], []
    for number, window in enumerate(seen):
        elements = planes[:, :, window.positions]
        scale = _scale(window, request)
        powers = (np.abs(elements) if request("lp_abs") else elements) ** p
        total = powers.sum(-1) * scale
        size = np.abs(powers).sum(-1) * scale
        output[:, :, number] = total ** (1 / p)
        # How much an error of 1 in the sum's terms, and in the root, changes the result.
        ratio = size / np.abs(total) / p
        amplified = np.where(np.isfinite(ratio), ratio, 0)
        terms[:, :, number] = np.abs(output[:, :, number]) * (1 + amplified)
        slope, through = _slope(elements, total, scale, p, absolute=request("lp_abs"))
        slopes.append((slope, through, (elements == 0) & np.isinf(slope)))
        doubts.append(1 + abs(1 - p) * amplified[..., None])
    shape = (*x.shape[:2], *(axis.output for axis in axes))
    taps = max(window.positions.size for window in seen)
    found = {"output": shaped(Expected(output, terms, taps), request, shape)}
    gradient = gradient_of(request, shape)
    if gradient is not None:
        parts = [
            np.where(through & ((gradient[:, :, number, None] != 0) | ~steep), part, 0)
            for number, (slope, through, steep) in enumerate(slopes)
            for part in (slope * gradient[:, :, number, None],)
        ]
        right = spread(request, x.shape, seen, parts)
        sizes = [np.abs(part) * doubt for part, doubt in zip(parts, doubts, strict=True)]
        error = spread(request, x.shape, seen, sizes)
        found["gradients.input"] = Expected(right.value, error.terms, right.count * taps)
    return found


def _scale(window: Window, request: Request) -> float:
    """The factor by which a partial window's sum is scaled up."""
    if request("lp_partial") == "sum":
        return 1.0
    return window.size / max(1, window.within)


def _slope(
    elements: Array, total: Array, scale: float, p: float, *, absolute: bool
) -> tuple[Array, Array]:
    """`(N, C, taps)`: dy/dx, and where a gradient passes at all."""
    outer = scale * total[..., None] ** (1 / p - 1)
    through = np.broadcast_to(total[..., None] != 0, elements.shape)
    if not absolute:
        return outer * elements ** (p - 1), through
    inner = np.abs(elements) ** (p - 1) * np.sign(elements)
    return outer * inner, through & (elements != 0)
