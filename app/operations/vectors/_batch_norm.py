"""Cases of the batch norms: statistics, running statistics, momentum, evaluation.

Most are exact: the values of a channel are a mean and offsets whose variance, with eps, is a power
of four, so that the standard deviation is a power of two.
"""

import math
from typing import Any

import numpy as np

from app.codecs import Array
from app.operations.vectors._draw import Draw
from app.operations.vectors._scenario import Make, Scenario, Setting, not_torch
from app.operations.vectors._windows import SIDES

OFFSETS = np.array([[-1.5, -0.5, 0.5, 1.5], [-4.5, -2.5, 2.5, 4.5]])
"""Variances 1.25 and 13.25: with an eps of 2.75, 4 and 16."""
EPS = 2.75
DYADIC_EPS = 2.0**-10
"""1 / sqrt(eps) is 32."""
STATE: dict[str, Any] = {
    "running_mean": np.array([0.5, -1.0]), "running_var": np.array([2.0, 0.5]),
}  # fmt: skip
AFFINE: dict[str, Any] = {"weight": np.array([1.5, -2.0]), "bias": np.array([0.25, 1.0])}


def _lengths(dims: int) -> tuple[int, ...]:
    """Four positions."""
    return {1: (4,), 2: (2, 2), 3: (1, 2, 2)}[dims]


def balanced(draw: Draw, batch: int = 2) -> Array:
    """`(N, 2, *spatial)`: each channel's offsets in random order, about a mean of its own.

    Each sample has all offsets, so that the statistics of a replica alone are exact too.
    """
    x: Array = draw.spread((batch, 2), 4, OFFSETS) + draw.small(2, 1, most=2)
    return x.reshape(batch, 2, *_lengths(draw.dims))


def uneven(draw: Draw, batch: int = 2) -> Array:
    """`(N, 2, *spatial)`: different numbers, whose count per channel is no power of two."""
    return draw.numbers(batch, 2, *{1: (7,), 2: (5, 3), 3: (3, 3, 1)}[draw.dims])


def _one_value(draw: Draw) -> Array:
    return draw.small(1, 2, *(1,) * draw.dims)


def _constant(draw: Draw) -> Array:
    x = balanced(draw)
    x[:, 0] = 3.0
    return x


def _planted(value: float) -> Any:
    def image(draw: Draw) -> Array:
        x = balanced(draw)
        x[(0, 0, *(0,) * draw.dims)] = value
        return x

    return image


def _shifted(draw: Draw) -> Array:
    """Samples and channels far apart: each alone has another mean and variance."""
    x = draw.numbers(3, 2, *{1: (4,), 2: (2, 2), 3: (2, 1, 2)}[draw.dims]) / 2
    x[1] += 8
    x[:, 1] = 4 * x[:, 1] - 16
    return x


def _pairs(draw: Draw) -> Array:
    """Two values per channel: a mean, 1 less and 1 more."""
    signs = draw.spread((2,), 2, np.array([[-1.0, 1.0]])) + draw.small(2, 1, most=2)
    return signs.T.reshape(2, 2, *(1,) * draw.dims)


def _train(image: Any = balanced, **options: Any) -> Make:
    def body(draw: Draw) -> dict[str, Any]:
        own = {"training": True, "momentum": 0.25, "eps": EPS, **options}
        return {"input": image(draw), **own}

    return body


def _rows(batch: int) -> Any:
    """`(N, 2)`: samples without spatial axes."""

    def image(draw: Draw) -> Array:
        if batch == 4:
            return (draw.spread((2,), 4, OFFSETS) + draw.small(2, 1, most=2)).T
        return draw.numbers(batch, 2)

    return image


def _evaluate(image: Any, **options: Any) -> Make:
    """With running variances that, with the eps, are powers of four."""
    state = {"running_mean": np.array([1.0, -2.0]), "running_var": np.array([3.5, 0.5])}

    def body(draw: Draw) -> dict[str, Any]:
        return {"input": image(draw), "training": False, "eps": 0.5, **state, **options}

    return body


def _integers(draw: Draw) -> Array:
    return draw.small(2, 2, *SIDES[draw.dims], most=7)


def _takes_rows(setting: Setting) -> bool:
    return setting.dims == 1


def _spread(name: str, why: str, tag: str, image: Any = uneven, **options: Any) -> Scenario:
    """A case that is not exact, with the numbers' own variances."""
    make = _train(image, **options)
    return Scenario(name, why, make, (tag,), exact=False, steady=False)


SCENARIOS = (
    Scenario("output-has-the-biased-variance", "The batch is normalized with the variance divided "
             "by n; n - 1 is for the running variance alone.", _train(**AFFINE), ("variance",)),
    Scenario("running-variance-is-unbiased", "torch keeps the variance divided by n - 1.",
             _train(**STATE, running_var_estimator="unbiased"), ("running", "variance")),
    Scenario("running-variance-is-biased", "Keras, ONNX and Flax keep the variance divided by n.",
             _train(**STATE, running_var_estimator="biased"), ("running", "variance")),
    Scenario("evaluation-uses-running-statistics", "In evaluation, the batch's own statistics play "
             "no part, and the gradient does not go through any.",
             _evaluate(_integers, **AFFINE), ("evaluation",)),
    Scenario("gradient-through-mean-and-variance", "In training, the gradient has two more terms, "
             "through the mean and through the variance.",
             _train(**AFFINE, running_var_estimator="biased"), ("statistics",)),
    Scenario("momentum-weights-the-batch", "torch's momentum is the share of the new statistics.",
             _train(**STATE, momentum_weights="batch", running_var_estimator="biased"),
             ("running", "momentum")),
    Scenario("momentum-weights-the-running-statistics", "In Keras, ONNX and Flax, momentum is the "
             "share of the old statistics.",
             _train(**STATE, momentum_weights="running", running_var_estimator="biased"),
             ("running", "momentum")),
    _spread("large-mean", "Around 10,000, E[x^2] - E[x]^2 has no correct digit in float32.",
            "precision", lambda draw: draw.around_large_mean(2, 2, *SIDES[draw.dims]), eps=1e-5),
    _spread("statistics-span-the-batch", "One mean and variance per channel, over all samples and "
            "positions; not per sample, and not over all channels.", "statistics", _shifted,
            eps=1e-3, **AFFINE),
    Scenario("constant-channel", "A variance of 0: the output is the bias, and the gradient is "
             "scaled by 1 / sqrt(eps).", _train(_constant, eps=DYADIC_EPS, **AFFINE,
                                                running_var_estimator="biased"),
             ("constant", "eps")),
    Scenario("eps-is-added-to-the-variance", "eps stands under the root, beside the variance: not "
             "behind it, not as a floor, not missing.",
             _train(**STATE, **AFFINE, running_var_estimator="biased"), ("eps",)),
    Scenario("one-value-per-channel-in-evaluation", "A single value per channel is normal in "
             "evaluation.", _evaluate(_one_value, **AFFINE), ("size", "evaluation")),
    Scenario("one-value-per-channel-in-training", "Outside torch, a single value has a variance of "
             "0, and its gradient is 0.",
             _train(_one_value, eps=DYADIC_EPS, running_var_estimator="biased"),
             ("size",), fits=not_torch),
    Scenario("two-values-per-channel", "The fewest that torch trains with: n / (n - 1) is 2.",
             _train(_pairs, eps=3.0, running_var_estimator="unbiased", **STATE),
             ("size", "running")),
    Scenario("nan-stays-in-its-channel", "NaN makes its own channel NaN, running statistics too, "
             "and leaves the other alone.", _train(_planted(math.nan), **STATE), ("nan",)),
    Scenario("infinity-makes-its-channel-nan", "Infinity less an infinite mean is NaN.",
             _train(_planted(math.inf), **STATE), ("infinity",)),
    Scenario("weight-and-bias-left-out", "They are ones and zeros then, and get gradients all the "
             "same.", _train(running_var_estimator="biased"), ("affine",)),
    Scenario("weight-without-bias", "A weight alone has a bias of zeros.",
             _train(weight=AFFINE["weight"]), ("affine",)),
    Scenario("bias-without-weight", "A bias alone has a weight of ones.",
             _train(bias=AFFINE["bias"]), ("affine",)),
    Scenario("weight-of-zero", "A weight of 0 gives the bias, and no gradient to the input.",
             _train(weight=np.array([0.0, 1.0]), bias=np.array([0.5, -1.0])), ("affine",)),
    Scenario("running-statistics-start-at-zero-and-one", "Without running statistics, the update "
             "starts from means of 0 and variances of 1.", _train(running_var_estimator="biased",
                                                                 num_batches_tracked=0),
             ("running",)),
    Scenario("no-momentum-is-a-cumulative-average", "null weights all batches alike: the fourth "
             "counts a quarter.", _train(**STATE, momentum=None, num_batches_tracked=3,
                                         running_var_estimator="biased"), ("momentum",)),
    Scenario("first-batch-without-momentum", "null on the first batch keeps nothing of the old "
             "statistics.", _train(**STATE, momentum=None, num_batches_tracked=0,
                                   momentum_weights="running"), ("momentum",)),
    Scenario("momentum-of-zero", "Running statistics stay as they are, but the batch is counted.",
             _train(**STATE, momentum=0.0, momentum_weights="batch"), ("momentum",)),
    Scenario("momentum-of-one", "Running statistics are the batch's.",
             _train(**STATE, momentum=1.0, momentum_weights="batch",
                    running_var_estimator="unbiased"), ("momentum",)),
    Scenario("many-batches-tracked", "The count needs 64 bits.",
             _train(**STATE, num_batches_tracked=2**40), ("running",)),
    Scenario("eps-of-zero", "Outside torch, eps may be 0.",
             _train(_pairs, eps=0.0, running_var_estimator="biased"), ("eps",), fits=not_torch),
    Scenario("eps-of-zero-in-evaluation", "In evaluation, eps may be 0.",
             _evaluate(_integers, eps=0.0, running_var=np.array([4.0, 0.25])), ("eps",)),
    _spread("count-is-no-power-of-two", "Means and variances of counts that do not divide evenly.",
            "statistics", eps=1e-5, **AFFINE, **STATE),
    _spread("variance-below-eps", "With a variance below eps, eps decides.", "eps",
            lambda draw: uneven(draw) / 256, eps=1.0, **AFFINE),
    Scenario("samples-without-positions", "(N, C): the statistics are over the samples.",
             _train(_rows(4), **AFFINE), ("size",), fits=_takes_rows),
    Scenario("odd-count-of-samples-without-positions", "(N, C) of five samples.",
             _train(_rows(5), eps=1e-5), ("size",), exact=False, steady=False, fits=_takes_rows),
    Scenario("batch-of-one-channels-first", "With one sample, the statistics are over its "
             "positions.", _train(lambda draw: balanced(draw, 1), layout="channels_first"),
             ("layout",)),
    Scenario("batch-of-one-channels-last", "With one sample and channels last, strides are "
             "ambiguous.", _train(lambda draw: balanced(draw, 1), layout="channels_last"),
             ("layout",)),
    Scenario("channels-last-interleaves-channels", "With channels last, neighbours in memory are "
             "channels.", _train(layout="channels_last", **AFFINE), ("layout",)),
    Scenario("no-batch-axis", "A single sample without its batch axis is not read as a batch.",
             _train(lambda draw: balanced(draw, 1), batched=False), ("layout",)),
    Scenario("empty-batch-in-training", "No values: the running statistics stay, and the batch is "
             "counted.", _train(lambda draw: balanced(draw, 2)[:0], **STATE), ("layout",)),
    Scenario("empty-batch-in-evaluation", "No samples give no outputs.",
             _evaluate(lambda draw: _integers(draw)[:0]), ("layout", "evaluation")),
    Scenario("gradient-of-ones-vanishes", "The outputs of a channel sum to its bias, whatever the "
             "input: a gradient of ones has no effect.", _train(gradient="ones"), ("statistics",)),
)  # fmt: skip


def for_replicas(scenarios: tuple[Scenario, ...]) -> tuple[Scenario, ...]:
    """The same cases with the batch split over two replicas."""

    def replicated(one: Scenario) -> Scenario:
        def body(draw: Draw) -> dict[str, Any]:
            made = dict(one.body(draw))
            x = made.pop("input")
            return {"inputs": [x[:1], x[1:]] if len(x) > 1 else [x], **made}

        return Scenario(one.name, one.why, body, one.tags, one.exact, one.steady, one.fits)

    return tuple(map(replicated, scenarios))
