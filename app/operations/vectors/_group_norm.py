"""Cases of instance and group norm: groups, eps, weight and bias, layouts.

The exact ones have groups whose variance is, with eps, a power of four.
"""

import math
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._batch_norm import AFFINE, DYADIC_EPS, EPS, OFFSETS
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario, Setting, not_torch

PAIR = np.array([[-1.0, 1.0]])
"""A variance of 1."""


def rows(draw: Draw, count: int, length: int = 4) -> Array:
    """`(count, length)`: offsets in random order, about a mean of each row's own."""
    offsets = draw.spread((count,), length, OFFSETS[:1])
    return offsets + draw.small(count, 1, most=2)


def vectors_of(channels: int) -> dict[str, Any]:
    """A weight and a bias per channel, all different."""
    steps = np.arange(channels)
    return {"weight": 2.0 ** (1 - steps % 3) * (1 - 2 * (steps % 2)), "bias": steps + 1.0}


def planted_in(image: Any, value: float) -> Any:
    def planted(draw: Draw) -> Array:
        x: Array = image(draw)
        x[(0,) * x.ndim] = value
        return x

    return planted


def case(name: str, why: str, make: Make, *tags: str, **rest: Any) -> Scenario:
    return Scenario(name, why, make, tags, **{"steady": False, **rest})


def loosely(name: str, why: str, make: Make, *tags: str) -> Scenario:
    return Scenario(name, why, make, tags, exact=False, steady=False)


def _made(image: Any, base: dict[str, Any], **options: Any) -> Make:
    return lambda draw: {"input": image(draw), "eps": EPS, **base, **options}


def _shared(
    image: Any, loose: Any, channels: int, base: dict[str, Any], prefix: tuple[int, ...]
) -> tuple[Scenario, ...]:
    """Cases of both; `image` has exact groups, `loose` other numbers of the same shape."""
    vectors = vectors_of(channels)
    sizes: Any = {
        "sequences": lambda draw: draw.numbers(*prefix, 5),
        "images": lambda draw: draw.numbers(*prefix, 3, 5),
        "volumes": lambda draw: draw.numbers(*prefix, 2, 3, 2),
    }
    return (
        case("output-has-the-biased-variance", "Each group is normalized with its variance "
              "divided by n, not by n - 1.", _made(image, base), "variance"),
        case("weight-and-bias-per-channel", "Each channel has a weight and a bias of its own.",
              _made(image, base, **vectors), "affine"),
        loosely("large-mean", "Around 10,000, E[x^2] - E[x]^2 has no correct digit in float32.",
               _made(lambda draw: draw.around_large_mean(*prefix, 6), base, eps=1e-5),
               "precision"),
        case("eps-is-added-to-the-variance", "eps stands under the root, beside the variance: not "
              "behind it, not as a floor, not missing.", _made(image, base, **vectors), "eps"),
        case("gradient-through-mean-and-variance", "The gradient has two more terms, through the "
              "mean and through the variance.", _made(image, base, weight=vectors["weight"]),
              "statistics"),
        case("constant-channel", "A variance of 0: the output is the bias, and the gradient is "
              "scaled by 1 / sqrt(eps).",
              _made(lambda draw: image(draw) * 0 + draw.small(prefix[0], 1, 1, most=7), base,
                    eps=DYADIC_EPS, **vectors), "constant", "eps", steady=True),
        case("statistics-per-sample", "Each sample has statistics of its own: a second sample far "
              "away changes nothing.",
              _made(lambda draw: image(draw) + 16 * np.arange(prefix[0]).reshape(-1, 1, 1), base),
              "statistics"),
        case("nan-stays-in-its-group", "NaN makes its own group NaN, and leaves the others "
              "alone.", _made(planted_in(image, math.nan), base), "nan"),
        case("infinity-makes-its-group-nan", "Infinity less an infinite mean is NaN.",
              _made(planted_in(image, math.inf), base), "infinity"),
        case("weight-without-bias", "A weight alone has a bias of zeros.",
              _made(image, base, weight=vectors["weight"]), "affine"),
        case("bias-without-weight", "A bias alone has a weight of ones.",
              _made(image, base, bias=vectors["bias"]), "affine"),
        loosely("eps-of-zero", "eps may be 0 where nothing is constant.",
               _made(loose, base, eps=0.0), "eps"),
        loosely("variance-below-eps", "With a variance below eps, eps decides.",
               _made(lambda draw: loose(draw) / 256, base, eps=1.0, **vectors), "eps"),
        *(loosely(f"count-is-no-power-of-two-in-{name}", "Means and variances of counts that do "
                 "not divide evenly.", _made(one, base, eps=1e-5, **vectors), "size")
          for name, one in sizes.items()),
        case("batch-of-one-channels-first", "With one sample, axes of length 1 are easily "
              "confused.", _made(lambda draw: image(draw)[:1], base, layout="channels_first"),
              "layout"),
        case("batch-of-one-channels-last", "With one sample and channels last, strides are "
              "ambiguous: torch has returned wrong gradients here.",
              _made(lambda draw: image(draw)[:1], base, layout="channels_last"), "layout"),
        case("channels-last-interleaves-channels", "With channels last, neighbours in memory are "
              "channels.", _made(image, base, layout="channels_last", **vectors), "layout"),
        case("no-batch-axis", "A single sample without its batch axis is not read as a batch.",
              _made(lambda draw: image(draw)[:1], base, batched=False), "layout"),
        case("empty-batch", "No samples give no outputs.",
              _made(lambda draw: image(draw)[:0], base), "layout", steady=True),
    )  # fmt: skip


def _instances(draw: Draw) -> Array:
    return rows(draw, 4).reshape(2, 2, 4)


def _instance_groups(draw: Draw) -> Array:
    """(2, 4, 4): two groups of two channels, 8 values each."""
    return rows(draw, 4, 8).reshape(2, 4, 4)


INSTANCE = (
    *_shared(_instances, lambda draw: draw.numbers(2, 2, 7), 2, {}, (2, 2)),
    case("one-value-per-channel", "Outside torch, a single value has a variance of 0, and its "
          "gradient is 0.", _made(lambda draw: draw.small(2, 2, 1), {}, eps=DYADIC_EPS, **AFFINE),
          "size", steady=True, fits=not_torch),
    case("channels-have-their-own-statistics", "Each channel of each sample is normalized "
          "alone, also beside a channel of another size.",
          _made(lambda draw: draw.numbers(2, 2, 6) * np.array([[1.0], [0.25]]), {}, eps=1e-5),
          "statistics", exact=False),
)  # fmt: skip
GROUPED = {"num_groups": 2}


def _grouped(groups: int, length: int) -> Make:
    """Four channels in these groups, with `length` values each per group."""

    def body(draw: Draw) -> dict[str, Any]:
        x = rows(draw, 2 * groups, length).reshape(2, 4, -1)
        return {"input": x, "eps": EPS, "num_groups": groups, **vectors_of(4)}

    return body


def _pairs(draw: Draw) -> dict[str, Any]:
    """Each of four channels has a mean less and plus 1."""
    x = draw.spread((2, 4), 2, PAIR) + draw.small(2, 4, 1, most=2)
    return {"input": x, "eps": 3.0, "num_groups": 4, **vectors_of(4)}


def _has_default_groups(setting: Setting) -> bool:
    return setting.used in ("keras", "flax")


GROUP = (
    *_shared(_instance_groups, lambda draw: draw.numbers(2, 4, 3), 4, GROUPED, (2, 4))[:4],
    case("groups-are-neighbouring-channels", "Channels 0 and 1 are the first group; dealt out in "
          "turn, they would be 0 and 2.", _grouped(2, 8), "groups"),
    case("groups-of-one", "With as many groups as channels, it is instance norm.", _pairs, "groups",
          steady=True),
    case("one-group", "With one group, it is layer norm over channels and positions.",
          _grouped(1, 16), "groups"),
    case("one-value-per-group", "A group of one value has a variance of 0: the output is the "
          "bias.", lambda draw: {"input": draw.small(2, 4), "eps": DYADIC_EPS, "num_groups": 4,
                                 **vectors_of(4)}, "groups", "size", steady=True),
    case("channels-without-positions", "(N, C): the groups are of channels alone.",
          lambda draw: {"input": rows(draw, 2, 4).reshape(2, 4), "eps": EPS, "num_groups": 1},
          "size"),
    *_shared(_instance_groups, lambda draw: draw.numbers(2, 4, 3), 4, GROUPED, (2, 4))[4:],
    case("default-number-of-groups", "In Keras and Flax, null is 32 groups.",
          lambda draw: {"input": draw.spread((32,), 2, PAIR)[None], "num_groups": None, "eps": 3.0},
          "groups", steady=True, fits=_has_default_groups),
)  # fmt: skip
