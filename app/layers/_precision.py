"""Precision of the layers: float32 for short sums, float64 for long sums.

Torch adds float32 numbers one by one in each vector lane, so a sum of a million equal terms is off
by 0.2%. Results and gradients that sum more than `LONGEST_SUM` terms are computed in float64 and
rounded once; `docs/layers.md` states the resulting bounds.
"""

import torch

LONGEST_SUM = 1024
"""Maximum number of terms in a float32 sum."""
LARGEST_MEAN = 4
"""Maximum distance of a mean from 0, in standard deviations, for torch's float32 kernels, which
compute `x * a + b` and so lose digits to cancellation."""
FEW_CHANNELS = 32
"""Up to so many numbers are compared faster in Python than by calls of torch."""
WIDE = 2
"""Size of a float64 element, in float32 elements."""
WIDENED_COPIES = 3
"""Float32 elements that a norm in float64 holds per input element, in addition to the output."""
SMALLEST_VARIANCE, LARGEST_VARIANCE = 1e-30, 1e30
"""Far enough from float32's limits for the squares and cubes that the kernels compute."""


def widened(x: torch.Tensor, terms: int) -> torch.Tensor:
    """Convert to float64 if sums of `terms` terms are too long for float32."""
    return x.double() if terms > LONGEST_SUM else x


def widened_workspace(inputs: int, outputs: int) -> int:
    """Working memory, in float32 elements, of a pooling in float64, in addition to its output.

    The widened input and the output before rounding are not all held at the same time.
    """
    return max(WIDE * inputs + outputs, WIDE * outputs)


def mean_of(near: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The mean of values whose mean is `rest` after `near` was subtracted from them."""
    return near + torch.where(near.isfinite(), rest, 0.0)


def is_well_scaled(mean: torch.Tensor, var: torch.Tensor, eps: float) -> bool:
    """Whether torch's float32 norms are accurate on data with this mean and biased variance.

    False if either is not finite.
    """
    if mean.numel() <= FEW_CHANNELS:
        pairs = zip(mean.flatten().tolist(), var.flatten().tolist(), strict=True)
        return all(_is_well_scaled(mean, var + eps) for mean, var in pairs)
    spread = var + eps
    margin = torch.addcmul(spread, mean, mean, value=-1 / LARGEST_MEAN**2)
    least, most = torch.aminmax(spread)
    within = least.item() > SMALLEST_VARIANCE and most.item() < LARGEST_VARIANCE
    return within and margin.min().item() >= 0


def _is_well_scaled(mean: float, spread: float) -> bool:
    within = SMALLEST_VARIANCE < spread < LARGEST_VARIANCE
    return within and mean * mean <= LARGEST_MEAN**2 * spread
