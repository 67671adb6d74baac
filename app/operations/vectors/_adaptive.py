"""Cases of adaptive and global pooling, and of unpooling."""

import math
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._average import swallowing
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario, several_axes
from app.operations.vectors._windows import (
    SIDES,
    Image,
    layout_scenarios,
    numbered_image,
    small_image,
)

UNEVEN = {1: (7,), 2: (5, 4), 3: (5, 3, 2)}
"""Spatial lengths of which three outputs get windows of different sizes."""
EVEN = {1: (8,), 2: (4, 4), 3: (4, 2, 2)}
"""Spatial lengths that two outputs divide into windows of a power of two."""


def _adaptive(image: Image, even: Image) -> tuple[Scenario, ...]:
    def case(name: str, why: str, size: Any, tag: str = "size", **options: Any) -> Scenario:
        def body(draw: Draw) -> dict[str, Any]:
            lengths = size[: draw.dims] if isinstance(size, list) else size
            return {"input": image(draw, 2, *UNEVEN[draw.dims]), "output_size": lengths, **options}

        return Scenario(name, why, body, (tag,))

    return (
        case("windows-overlap-where-the-size-does-not-divide", "Window i ends at ceil((i + 1) n / "
             "o), not floor: windows overlap, and their gradients add.", 2, "indivisible"),
        case("windows-differ-in-size", "One stride and one kernel for all windows give others than "
             "start and end computed for each.", [3, 3, 2], "indivisible"),
        case("more-outputs-than-inputs", "With more outputs than inputs, windows repeat elements.",
             [9, 7, 5], "overlap"),
        case("null-keeps-every-axis", "null keeps the length of the input.", None),
        case("null-keeps-one-axis", "null among numbers keeps the length of that axis.",
             [None, 2, None]),
        case("each-axis-has-its-own-size", "Output sizes in the order of the axes.", [5, 3, 2],
             "axes"),
        case("one-output-is-the-whole-input", "An output size of 1 is global pooling.", 1),
        case("no-outputs", "An output size of 0 gives an empty output and a gradient of 0.", 0),
        case("gradient-of-ones", "With a gradient of ones, each element gets what its windows give "
             "it.", [3, 2, 2], "overlap", gradient="ones"),
        *layout_scenarios(even, output_size=2),
    )  # fmt: skip


def _tied(draw: Draw) -> Array:
    x: Array = draw.small(1, 2, *SIDES[draw.dims], most=2)
    return x


def _with(value: float) -> Image:
    def image(draw: Draw, *_: int) -> Array:
        x = numbered_image(draw, 1)
        x[..., 1] = value
        return x

    return image


def _pool(image: Image, **options: Any) -> Make:
    return lambda draw: {"input": image(draw), "output_size": 2, **options}


def _crossed(draw: Draw) -> dict[str, Any]:
    x = np.zeros((1, 2, *(1,) * (draw.dims - 2), 2, 2)) + np.array([[1.0, 3.0], [3.0, 2.0]])
    return {"input": x, "output_size": 1, "return_indices": True}


MAXIMA = _adaptive(numbered_image, numbered_image)
ADAPTIVE_MAX = (
    *MAXIMA[:3],
    Scenario("indices-count-the-plane", "Indices number the plane of the input, not the window.",
             _pool(numbered_image, return_indices=True), ("indices",)),
    Scenario("first-of-equal-maxima-gets-the-gradient", "Of equal maxima, the first gets all of "
             "the gradient.", _pool(_tied, return_indices=True), ("ties", "indices")),
    Scenario("tie-across-rows", "The first maximum of a row-major scan is not that of a "
             "column-major one.", _crossed, ("ties", "indices"), fits=several_axes),
    Scenario("nan-wins", "NaN is the maximum of each window that holds it.",
             _pool(_with(math.nan), return_indices=True), ("nan",)),
    Scenario("minus-infinity-is-a-maximum", "A window may hold nothing but -Infinity.",
             _pool(lambda draw: numbered_image(draw, 1) - math.inf, return_indices=True),
             ("infinity", "indices")),
    Scenario("no-indices-unless-asked", "Without `return_indices` there are none.",
             _pool(numbered_image, return_indices=False), ("indices",)),
    *MAXIMA[3:],
)  # fmt: skip
MEANS = _adaptive(small_image, lambda draw, batch: draw.small(batch, 2, *EVEN[draw.dims]))
ADAPTIVE_AVG = (
    *MEANS[:3],
    Scenario("windows-of-equal-size", "A size that divides is average pooling with that stride.",
             lambda draw: {"input": draw.small(2, 2, *EVEN[draw.dims]), "output_size": 2},
             ("size",)),
    Scenario("constant-input", "The mean of equal numbers is that number, in every window.",
             _pool(lambda draw: draw.small(1, 2, *SIDES[draw.dims]) * 0 + 3), ("constant",)),
    Scenario("small-terms-vanish-beside-a-large-one", "Summed one after the other in a half dtype, "
             "the ones after the large number are lost.",
             lambda draw: {"input": swallowing(draw, 64), "output_size": 1}, ("precision",)),
    Scenario("nan-stays-in-its-windows", "NaN makes the windows that hold it NaN.",
             _pool(_with(math.nan)), ("nan",)),
    *MEANS[3:],
)  # fmt: skip


def _global(image: Image) -> tuple[Scenario, ...]:
    def case(name: str, why: str, tag: str, *sides: int, **options: Any) -> Scenario:
        def body(draw: Draw) -> dict[str, Any]:
            return {"input": image(draw, 2, *sides), **options}

        return Scenario(name, why, body, (tag,))

    return (
        case("spatial-axes-stay-as-ones", "With `keepdims`, the spatial axes stay, with length 1.",
             "size", keepdims=True),
        case("spatial-axes-disappear", "Without `keepdims`, the output is (N, C).", "size",
             keepdims=False),
        case("gradient-reaches-every-element", "A gradient of (N, C) spreads over the spatial "
             "axes.", "size", 4, 4, keepdims=False),
        case("one-spatial-axis", "Sequences have one spatial axis.", "size", 8, keepdims=True),
        case("three-spatial-axes", "Volumes have three.", "size", 2, 4, 2, keepdims=True),
        case("one-element-per-channel", "With one element, it is the output.", "size", 1, 1,
             keepdims=True),
        case("gradient-of-ones", "With a gradient of ones, each channel's gradient sums to 1.",
             "size", gradient="ones"),
        *layout_scenarios(image),
    )  # fmt: skip


HIGHEST = _global(numbered_image)
GLOBAL_MAX = (
    *HIGHEST[:3],
    Scenario("first-of-equal-maxima-gets-the-gradient", "Of equal maxima, the first gets all of "
             "the gradient.", lambda draw: {"input": _tied(draw)}, ("ties",)),
    Scenario("all-negative", "The maximum of negative numbers is negative.",
             lambda draw: {"input": -draw.positive(1, 2, 5, 4)}, ("sign",)),
    Scenario("nan-wins", "NaN is the maximum of its channel.",
             lambda draw: {"input": _with(math.nan)(draw)}, ("nan",)),
    Scenario("minus-infinity-is-a-maximum", "A channel may hold nothing but -Infinity.",
             lambda draw: {"input": numbered_image(draw) - math.inf}, ("infinity",)),
    *HIGHEST[3:],
)  # fmt: skip
MEAN = _global(lambda draw, batch=2, *sides: small_image(draw, batch, *(sides or (4, 2))))
GLOBAL_AVG = (
    *MEAN[:3],
    Scenario("mean-of-an-odd-count", "Five times three elements are divided by 15, not by 16.",
             lambda draw: {"input": draw.small(2, 2, 5, 3)}, ("divisor",)),
    Scenario("constant-channel", "The mean of equal numbers is that number.",
             lambda draw: {"input": draw.small(1, 2, 5, 4) * 0 + 3}, ("constant",)),
    Scenario("small-terms-vanish-beside-a-large-one", "Summed one after the other in a half dtype, "
             "the ones after the large number are lost.",
             lambda draw: {"input": swallowing(draw, 64)}, ("precision",)),
    Scenario("large-mean", "Around 10,000, a sum of a few numbers needs more digits than each of "
             "them.", lambda draw: {"input": draw.around_large_mean(1, 2, 4, 2)}, ("precision",)),
    Scenario("nan-stays-in-its-channel", "NaN makes its own channel NaN.",
             lambda draw: {"input": _with(math.nan)(draw)}, ("nan",)),
    *MEAN[3:],
)  # fmt: skip
