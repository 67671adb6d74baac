"""How precisely a layer computes: float32 where its sums are short, float64 where they are long.

Torch adds float32 numbers one by one in each vector lane, so that a sum of a million equal terms is
0.2 % off. Results and gradients that sum more than `LONGEST_SUM` terms are computed in float64 and
rounded once; `docs/layers.md` states the bounds that follow.
"""

import torch

LONGEST_SUM = 1024
"""Most terms of a float32 sum."""
LARGEST_MEAN = 4
"""Most standard deviations that a mean may lie from 0 in torch's float32 kernels, which compute
`x * a + b` and so cancel."""
WIDE = 2
"""Float32 elements in the room of one of float64."""
WIDENED_COPIES = 3
"""Float32 elements that a norm in float64 holds for each of its input beside the output."""
SMALLEST_VARIANCE, LARGEST_VARIANCE = 1e-30, 1e30
"""Far enough from what float32 holds for the squares and cubes that kernels compute."""


def widened(x: torch.Tensor, terms: int) -> torch.Tensor:
    """The tensor, in float64 if it goes into sums of so many terms that float32 loses digits."""
    return x.double() if terms > LONGEST_SUM else x


def widened_workspace(inputs: int, outputs: int) -> int:
    """Float32 elements that a pooling in float64 holds beside its output: the input widened and the
    output before it is rounded, not all at once.
    """
    return max(WIDE * inputs + outputs, WIDE * outputs)


def mean_of(near: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The mean of what has the mean `rest` after `near` was subtracted."""
    return near + torch.where(near.isfinite(), rest, 0.0)


def is_well_scaled(mean: torch.Tensor, var: torch.Tensor, eps: float) -> bool:
    """Whether torch's float32 norms keep their digits on data of this mean and biased variance.

    False where either is not finite.
    """
    spread = var + eps
    margin = torch.addcmul(spread, mean, mean, value=-1 / LARGEST_MEAN**2)
    least, most = torch.aminmax(spread)
    within = least.item() > SMALLEST_VARIANCE and most.item() < LARGEST_VARIANCE
    return within and margin.min().item() >= 0
