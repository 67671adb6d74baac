"""Cases of average and Lp pooling: divisors, powers, sums."""

import math
from typing import Any

import numpy as np

from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario, has
from app.operations.vectors._windows import (
    Image,
    small_image,
    small_positive_image,
    window_scenarios,
)

SWALLOWING = {"float16": 2048, "bfloat16": 256}
"""The first number of each half dtype that adding 1 does not change; in others, any."""


def swallowing(draw: Draw, count: int) -> Any:
    """`(1, 2, 1..., count)`: a large number, then ones: summed in a half dtype, they get lost."""
    x = np.ones((1, 2, *(1,) * (draw.dims - 1), count))
    x[..., 0] = SWALLOWING.get(draw.dtype, 2048)
    x[:, 1] = -x[:, 1]
    return x


def _swallowed(draw: Draw) -> dict[str, Any]:
    return {"input": swallowing(draw, 64), "kernel_size": [1, 1, 64][-draw.dims :]}


def _swallowed_gradient(draw: Draw) -> dict[str, Any]:
    """64 windows over each inner element."""
    x = draw.small(1, 1, *(1,) * (draw.dims - 1), 65, most=1)
    return {"input": x, "kernel_size": [1, 1, 64][-draw.dims :], "stride": 1}


def _planted(image: Image, value: float, **options: Any) -> Make:
    def body(draw: Draw) -> dict[str, Any]:
        x = image(draw)
        x[(0, 0, *(1,) * draw.dims)] = value
        return {"input": x, "kernel_size": 2, "stride": 1, **options}

    return body


def _with(image: Image, **options: Any) -> Make:
    return lambda draw: {"input": image(draw), **options}


PADDED = {"kernel_size": 2, "stride": 1, "padding": 1}
OVERHANG = {"kernel_size": 2, "stride": 3, "padding": [[1, 1]], "ceil_mode": True}
SHARED = window_scenarios(small_image)

AVERAGE = (
    *SHARED[:3],
    Scenario("divisor-counts-padding", "The divisor of a window at the edge counts its padding.",
             _with(small_image, **PADDED, count_include_pad=True), ("divisor", "padding")),
    Scenario("divisor-leaves-padding-out", "The divisor of a window at the edge counts its real "
             "elements alone; in the corners, one.",
             _with(small_image, **PADDED, count_include_pad=False), ("divisor", "padding")),
    Scenario("padding-is-zero-not-the-edge", "Padding repeats nothing: it is 0.",
             _with(small_image, kernel_size=4, stride=2, padding=2, count_include_pad=True),
             ("divisor", "padding")),
    Scenario("overhang-is-not-divided-by", "Elements beyond the padding, which ceil mode's last "
             "window reaches, do not count in the divisor.",
             _with(small_image, **OVERHANG, overhang_divisor="inside", count_include_pad=True),
             ("divisor", "ceil")),
    Scenario("overhang-is-divided-by", "ONNX Runtime until 2026 divides by the whole kernel there.",
             _with(small_image, **OVERHANG, overhang_divisor="kernel", count_include_pad=True),
             ("divisor", "ceil")),
    Scenario("gradient-is-divided-by-what-was-counted", "The gradient of each window has the "
             "window's own divisor, not the kernel's size.",
             _with(small_image, kernel_size=4, stride=3, padding=[[2, 1]],
                   count_include_pad=False), ("divisor", "padding")),
    Scenario("kept-window-of-padding-is-zero", "Ceil mode with `keep` has a last window of only "
             "padding, whose mean is 0.",
             _with(small_image, kernel_size=2, stride=2, padding=1, ceil_mode=True,
                   ceil_rule="keep", count_include_pad=True), ("divisor", "ceil")),
    Scenario("divisor-override-replaces-every-divisor", "A fixed divisor holds for edges and for "
             "the inside.", _with(small_image, **PADDED, divisor_override=8), ("divisor",)),
    Scenario("divisor-override-below-zero", "A negative divisor is legal, and changes the sign of "
             "output and gradient.", _with(small_image, kernel_size=2, divisor_override=-2),
             ("divisor",)),
    Scenario("no-divisor-override", "null divides by the elements that count.",
             _with(small_image, **PADDED, divisor_override=None), ("divisor",)),
    Scenario("small-terms-vanish-beside-a-large-one", "Summed one after the other in a half dtype, "
             "the ones after the large number are lost.", _swallowed, ("precision",)),
    Scenario("gradients-of-many-windows", "An element in the middle sums the gradients of all "
             "windows: in a half dtype, digits are lost.", _swallowed_gradient, ("precision",)),
    Scenario("nan-stays-in-its-windows", "NaN makes the windows that hold it NaN, and no gradient.",
             _planted(small_image, math.nan), ("nan",)),
    Scenario("infinity-stays-in-its-windows", "Infinity makes the windows that hold it infinite.",
             _planted(small_image, math.inf), ("infinity",)),
    Scenario("window-of-uncounted-padding-is-zero", "Where padding does not count, a window "
             "without an element has no mean: it is 0 if asked for, and passes no gradient.",
             _with(small_image, kernel_size=2, stride=2, padding=1, ceil_mode=True,
                   ceil_rule="keep", count_include_pad=False, empty_window="zero"),
             ("empty-window", "divisor"), fits=has("empty_window")),
    Scenario("no-window-of-padding-is-let-through", "Where every window has an element, refusing "
             "those without changes nothing.",
             _with(small_image, **PADDED, count_include_pad=False, empty_window="refuse"),
             ("empty-window",), fits=has("empty_window")),
    *SHARED[3:],
)  # fmt: skip


def _pythagorean(draw: Draw) -> dict[str, Any]:
    """Every window's sum of squares is a square: 3 and 4 in one place, 0 elsewhere."""
    x = np.zeros((2, 2, *(2,) * (draw.dims - 1), 4))
    x[..., 0], x[..., 1] = 3, -4
    x[..., 2] = draw.small(2, 2, *(2,) * (draw.dims - 1), most=3)
    x[..., 1:, :] *= 0 if draw.dims > 1 else 1
    x[..., 3] = 0
    return {"input": x, "kernel_size": 2, "norm_type": 2.0, "lp_abs": True}


def _zero_window(draw: Draw) -> dict[str, Any]:
    x = draw.positive(1, 2, *(1,) * (draw.dims - 1), 6)
    x[..., 2:4] = 0
    return {"input": x, "kernel_size": [1, 1, 2][-draw.dims :], "norm_type": 2.0}


def _p(norm_type: float, image: Image = small_positive_image, **options: Any) -> Make:
    return lambda draw: {"input": image(draw), "kernel_size": 2, "norm_type": norm_type, **options}


ONE = window_scenarios(small_positive_image, norm_type=1.0)
LP = (
    *ONE[:3],
    Scenario("square-root-of-squares", "p = 2 of 3 and -4 is 5, whatever their signs.",
             _pythagorean, ("power",)),
    Scenario("absolute-values-first", "With `lp_abs`, p = 1 of 3 and -4 is 7; without, -1.",
             _p(1.0, small_image, lp_abs=True), ("power", "sign")),
    Scenario("signs-cancel-without-absolute-values", "torch does not take absolute values: odd "
             "powers cancel.", _p(1.0, small_image, lp_abs=False), ("power", "sign")),
    Scenario("odd-root-of-a-negative-sum", "Without absolute values, the root of a negative sum is "
             "NaN.", _p(3.0, lambda draw: -small_positive_image(draw), lp_abs=False),
             ("power", "nan"), exact=False, steady=False),
    Scenario("partial-window-is-scaled-up", "torch scales the sum of a window beyond the padding "
             "up to a full one.",
             _p(1.0, stride=3, ceil_mode=True, lp_partial="scaled"), ("ceil", "divisor")),
    Scenario("partial-window-is-summed", "ONNX takes the sum of a window beyond the padding as it "
             "is.", _p(1.0, stride=3, ceil_mode=True, lp_partial="sum"), ("ceil",)),
    Scenario("window-of-zeros-passes-no-gradient", "The root has no slope at 0: a window of zeros "
             "passes no gradient.", _zero_window, ("zero",)),
    Scenario("cubes-and-their-root", "p = 3.", _p(3.0), ("power",), exact=False),
    Scenario("fractional-power", "p need not be an integer.", _p(1.5, stride=1), ("power",),
             exact=False, steady=False),
    Scenario("squares-of-overlapping-windows", "The gradient of p = 2 is x / y, added over "
             "windows.", _p(2.0, stride=1), ("power", "overlap"), exact=False, steady=False),
    Scenario("small-terms-vanish-beside-a-large-one", "Summed one after the other in a half dtype, "
             "the ones after the large number are lost.",
             lambda draw: {**_swallowed(draw), "norm_type": 1.0, "lp_abs": True}, ("precision",)),
    *ONE[3:],
)  # fmt: skip
