"""Cases of layer and RMS norm: which axes, eps, weight and bias."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._batch_norm import DYADIC_EPS, EPS
from app.operations.vectors._draw import Draw
from app.operations.vectors._group_norm import case, loosely, planted_in, rows
from app.operations.vectors._scenario import Make, Scenario, has

SQUARES = np.array(
    [[4, 4, 3, 3, 2, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 0], [2] * 6 + [-2] * 6 + [4, 0, 0, 0]],
    np.float64,
)
"""Sixteen numbers each, whose mean square is 4."""


def _row(draw: Draw, *shape: int) -> Array:
    """A weight or bias, of small halves without 0."""
    return draw.small(*shape, most=3) / 2


def _norm(image: Callable[[Draw], Array], eps: float, *, weight: tuple[int, ...] = (),
          bias: tuple[int, ...] = (), **options: Any) -> Make:  # fmt: skip
    def body(draw: Draw) -> dict[str, Any]:
        named = {"weight": weight, "bias": bias}
        vectors = {name: _row(draw, *shape) for name, shape in named.items() if shape}
        return {"input": image(draw), "eps": eps, **vectors, **options}

    return body


def _shared(
    image: Callable[[Draw, int, int], Array], eps: float, length: int, *, is_rms: bool
) -> tuple[Scenario, ...]:
    """Cases of both; `image(draw, count, length)` has rows that are exact with this eps."""
    half = length // 2

    def vectors(*shape: int) -> dict[str, tuple[int, ...]]:
        return {"weight": shape, **({} if is_rms else {"bias": shape})}

    def last(draw: Draw) -> Array:
        return image(draw, 4, length).reshape(2, 2, length)

    def two(draw: Draw) -> Array:
        return image(draw, 2, length).reshape(2, 2, half)

    # RMS norm of these numbers rounds nothing, where layer norm divides by counts that vary.
    exactly = partial(case, steady=is_rms)
    return (
        exactly("last-axis-alone", "Each position of the leading axes is normalized by itself.",
             _norm(last, eps, axis=-1), "axis"),
        exactly("two-axes-together", "With an axis of 1, it and all behind it are normalized "
             "together.", _norm(two, eps, axis=1), "axis"),
        loosely("large-mean", "Around 10,000, E[x^2] - E[x]^2 has no correct digit in float32.",
                _norm(lambda draw: draw.around_large_mean(3, 6), 1e-5, axis=-1), "precision"),
        exactly("weight-per-element", "The weight has the shape of the normalized axes, and its "
             "gradient is summed over the others.",
             _norm(two, eps, **vectors(2, half), normalized_shape=[2, half]), "affine"),
        exactly("all-axes", "With an axis of 0, the whole tensor is one group.",
             _norm(lambda draw: image(draw, 1, length).reshape(2, half), eps, axis=0), "axis"),
        exactly("normalized-shape-as-a-number", "One length means the last axis.",
             _norm(last, eps, normalized_shape=length, **vectors(length)), "axis"),
        exactly("normalized-shape-as-a-list", "Several lengths mean the last axes.",
             _norm(two, eps, normalized_shape=[2, half]), "axis"),
        exactly("no-leading-axis", "A vector is one group.",
             _norm(lambda draw: image(draw, 1, length)[0], eps, axis=0), "axis"),
        loosely("eps-is-added-under-the-root", "eps stands under the root, beside the variance: "
                "not behind it, not as a floor, not missing.",
                _norm(lambda draw: draw.numbers(3, 5) / 4, 0.5, axis=-1, **vectors(5)), "eps"),
        loosely("count-is-no-power-of-two", "Means and variances of counts that do not divide "
                "evenly.", _norm(lambda draw: draw.numbers(2, 3, 5), 1e-5, axis=-1, **vectors(5)),
                "size"),
        loosely("one-axis-of-several-is-not-meant", "The axis is the first of those normalized "
                "together, and never one alone in the middle.",
                _norm(lambda draw: draw.numbers(2, 3, 5), 1e-5, axis=-2, **vectors(3, 5)), "axis"),
        loosely("eps-of-zero", "eps may be 0 where nothing is constant.",
                _norm(lambda draw: draw.numbers(2, 7), 0.0, axis=-1), "eps"),
        loosely("variance-below-eps", "With a variance below eps, eps decides.",
                _norm(lambda draw: draw.numbers(2, 7) / 256, 1.0, axis=-1, **vectors(7)), "eps"),
        exactly("nan-stays-in-its-row", "NaN makes its own row NaN, and leaves the others alone.",
             _norm(planted_in(last, math.nan), eps, axis=-1), "nan"),
        exactly("layout-changes-nothing", "`layout` says nothing here: the axes are those of the "
             "tensor as sent.", _norm(last, eps, axis=-1, layout="channels_last"), "layout"),
        exactly("layout-first-changes-nothing", "`layout` says nothing here.",
             _norm(last, eps, axis=-1, layout="channels_first"), "layout"),
        exactly("empty-batch", "No rows give no outputs.",
             _norm(lambda draw: last(draw)[:0], eps, axis=-1), "layout"),
        exactly("many-axes", "Five axes, of which the last is normalized.",
             _norm(lambda draw: image(draw, 4, length).reshape(1, 2, 1, 2, length), eps, axis=-1,
                   **vectors(length)), "axis"),
        exactly("one-row", "A batch of one row.", _norm(lambda draw: image(draw, 1, length), eps,
                                                     axis=1, **vectors(length)), "size"),
    )  # fmt: skip


def _squares(draw: Draw, count: int, length: int) -> Array:
    return draw.spread((count,), length, SQUARES)


def _offset(offset: int, **options: Any) -> Make:
    """A weight that is read as itself plus an offset."""

    def body(draw: Draw) -> dict[str, Any]:
        x, weight = _squares(draw, 2, 16), _row(draw, 16)
        own = {"weight": weight, "axis": -1, "eps": 0.0, "weight_offset": offset}
        return {"input": x, **own, **options}

    return body


def swallowed_squares(draw: Draw) -> Array:
    """A number whose square no half dtype can add 1 to, then ones of random sign."""
    x = draw.small(2, 64, most=1)
    x[:, 0] = 64.0 if draw.dtype == "float16" else 16.0
    return x


LAYER = (
    *_shared(lambda draw, count, length: rows(draw, count, length), EPS, 8, is_rms=False),
    case("gradient-through-mean-and-variance", "The gradient has two more terms, through the "
         "mean and through the variance.",
         _norm(lambda draw: rows(draw, 4), EPS, axis=-1, weight=(4,)), "statistics"),
    case("output-has-the-biased-variance", "The variance is divided by n, not by n - 1.",
         _norm(lambda draw: rows(draw, 4), EPS, axis=-1), "variance"),
    case("constant-row", "A variance of 0: the output is the bias, and the gradient is scaled by "
         "1 / sqrt(eps).", _norm(lambda draw: draw.small(3, 1, most=7) * np.ones(4), DYADIC_EPS,
                                 axis=-1, weight=(4,), bias=(4,)), "constant", steady=True),
    case("one-value-per-row", "A single value has a variance of 0, and its gradient is 0.",
         _norm(lambda draw: draw.small(3, 1), DYADIC_EPS, axis=-1, weight=(1,), bias=(1,)), "size",
         steady=True),
    case("weight-without-bias", "A weight alone has a bias of zeros.",
         _norm(lambda draw: rows(draw, 4), EPS, axis=-1, weight=(4,)), "affine"),
    case("bias-without-weight", "A bias alone has a weight of ones.",
         _norm(lambda draw: rows(draw, 4), EPS, axis=-1, bias=(4,)), "affine"),
    case("infinity-makes-its-row-nan", "Infinity less an infinite mean is NaN.",
         _norm(planted_in(lambda draw: rows(draw, 4), math.inf), EPS, axis=-1), "infinity"),
)  # fmt: skip
RMS = (
    *_shared(_squares, 0.0, 16, is_rms=True),
    case("mean-is-not-subtracted", "RMS norm divides by the root of the mean square, about 0 and "
         "not about the mean.", _norm(lambda draw: abs(_squares(draw, 2, 16)), 0.0, axis=-1),
         "statistics", steady=True),
    case("weight-offset-is-added", "Some models keep the weight less 1, and multiply by 1 + "
         "weight.", _offset(1), "affine", steady=True, fits=has("weight_offset")),
    case("weight-offset-of-zero", "The weight is meant as it is.", _offset(0), "affine",
         steady=True, fits=has("weight_offset")),
    loosely("default-eps", "null is the convention's eps: in torch the dtype's machine epsilon.",
            lambda draw: {"input": draw.numbers(2, 7) / 2048, "axis": -1, "eps": None}, "eps"),
    loosely("row-of-one-value", "A single value becomes 1 or -1, less what eps takes.",
            _norm(lambda draw: draw.numbers(3, 1), 0.5, axis=-1, weight=(1,)), "size"),
    loosely("small-squares-vanish-beside-a-large-one", "Summed one after the other in a half "
            "dtype, the squares of 1 after the large one are lost.",
            lambda draw: {"input": swallowed_squares(draw), "axis": -1, "eps": 1e-5}, "precision"),
    case("row-of-zeros", "Zeros stay zeros, with an eps above 0.",
         _norm(lambda draw: draw.small(2, 4) * 0, DYADIC_EPS, axis=-1, weight=(4,)), "zero",
         steady=True),
)  # fmt: skip
