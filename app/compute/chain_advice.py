"""Advice on the order of the layers in a chain."""

import itertools
from collections.abc import Iterator, Sequence

from app.compute.chain_link import Link
from app.schemas.chains import PlacementAdvice

POOLS = frozenset(("max_pool", "avg_pool", "lp_pool", "adaptive_pool", "global_pool"))
NORMS = frozenset(("batch_norm", "group_norm", "layer_norm"))
LEAST_POSITIONS = 4
"""Positions of the input from which on a head that reads them all is worth a remark."""


def placement(links: Sequence[Link]) -> tuple[PlacementAdvice, ...]:
    """Advice on the chain as a whole, in the order of its layers."""
    found = [*_neighbors(links), *_repeated_pooling(links), *_heads(links)]
    return tuple(sorted(found, key=lambda advice: advice.layers))


def _neighbors(links: Sequence[Link]) -> Iterator[PlacementAdvice]:
    """Advice on pairs of layers that follow each other."""
    for index, (first, second) in enumerate(itertools.pairwise(links)):
        names = f"layers/{index}, {first.spec.name}", f"layers/{index + 1}, {second.spec.name}"
        pair = (index, index + 1)
        has_bias = getattr(first.call, "bias", None) is not None
        if first.spec.family == "conv" and second.spec.family == "batch_norm" and has_bias:
            yield PlacementAdvice(
                code="bias-before-batch-norm",
                message=f"{names[1]}, subtracts the mean, and the bias of {names[0]}, with it. In "
                "training, the bias has no effect on the output, and its gradient is zero.",
                suggestion="Leave out the convolution's bias: batch norm has its own.",
                layers=pair,
            )
        if first.spec.family == "relu" and second.spec.family in NORMS:
            yield PlacementAdvice(
                code="activation-before-normalisation",
                message=f"{names[0]}, comes before {names[1]}: the statistics are those of values "
                "cut off at 0, and half of them may be 0.",
                suggestion="Normalize first, then apply the activation.",
                layers=pair,
            )


def _repeated_pooling(links: Sequence[Link]) -> Iterator[PlacementAdvice]:
    """Advice on pooling layers with nothing but activations between them."""
    before: int | None = None
    for index, link in enumerate(links):
        if link.spec.family in POOLS and _reduces(link):
            if before is not None:
                yield PlacementAdvice(
                    code="repeated-pooling",
                    message=f"layers/{before}, {links[before].spec.name}, and layers/{index}, "
                    f"{link.spec.name}, pool one after the other, with no convolution in between.",
                    suggestion="Pool once, with a larger window, or put a convolution in between.",
                    layers=(before, index),
                )
            before = index
        elif link.spec.family != "relu":
            before = None


def _reduces(link: Link) -> bool:
    """Whether a pooling layer has fewer output than input positions."""
    return any(axis.output < axis.input for axis in link.plan.axes)


def _heads(links: Sequence[Link]) -> Iterator[PlacementAdvice]:
    """Advice on a convolution that reads every position at once, as a dense layer does."""
    for index, link in enumerate(links):
        if link.spec.family != "conv":
            continue
        positions = 1
        for axis in link.plan.axes:
            positions *= axis.kernel if axis.output == 1 and axis.kernel == axis.input else 0
        if positions >= LEAST_POSITIONS:
            yield PlacementAdvice(
                code="global-average-before-head",
                message=f"layers/{index}, {link.spec.name}, has weights for all {positions} "
                "positions of its input, and takes inputs of this size only.",
                suggestion="`global_avg_pool` and a convolution with kernel size 1 need one part "
                f"in {positions} of the weights, and take any size.",
                layers=(index,),
            )
