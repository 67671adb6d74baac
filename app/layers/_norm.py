"""Shared by the norms of single samples: options, advice, and preparation of the input."""

import torch

from app.errors import InvalidRequest
from app.layers._precision import LONGEST_SUM, is_well_scaled, mean_of
from app.layers._spec import Notes
from app.schemas.answers import Advice
from app.schemas.options import Epsilon, LayerOptions
from app.schemas.tensors import Shape, Shapes

ROW_COST = 60
"""Operations per group for its statistics, whatever its length."""
CONSTANT = Advice(
    code="constant-channel",
    message="A normalized group is constant: its variance is 0.",
    suggestion="Its output is the bias; its input gradient is scaled by 1/sqrt(eps).",
)


class NormOptions(LayerOptions):
    """Options of every norm."""

    eps: Epsilon = 1e-5
    """Added to the variance before the square root."""


def check_parameters(shapes: Shapes, wanted: Shape, what: str) -> None:
    """Check that weight and bias have the shape that the input requires."""
    for name in ("weight", "bias"):
        if shapes.get(name, wanted) != wanted:
            detail = f"{name}: expected shape {list(wanted)}, {what}; got {list(shapes[name])}"
            raise InvalidRequest.at(name, "shape-mismatch", detail)


def prepared(
    groups: torch.Tensor, eps: float, groups_per_weight: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prepare groups `(..., values)` so that torch's kernels lose no digits.

    Also returns each group's mean and 1 / sqrt(biased variance + eps), `(...)`. The groups are
    centered and in float64 unless the means are small relative to the spread and the sums are
    short: those over `values`, and those over `groups_per_weight` in a weight's gradient.
    """
    if not groups.numel():
        nothing = groups.new_empty(groups.shape[:-1])
        return groups, nothing, nothing
    if max(groups.shape[-1], groups_per_weight) <= LONGEST_SUM:
        var, mean = torch.var_mean(groups.detach(), -1, correction=0)
        if is_well_scaled(mean, var, eps):
            return groups, mean, (var + eps).rsqrt()
    near = groups.detach().mean(-1, keepdim=True, dtype=torch.float64)
    groups = groups.double() - near
    var, rest = torch.var_mean(groups.detach(), -1, correction=0)
    return groups, mean_of(near.squeeze(-1), rest), (var + eps).rsqrt()


def notes(groups: torch.Tensor) -> Notes:
    """Advice on `(..., values)`."""
    constant = groups.shape[-1] > 0 and bool((groups == groups[..., :1]).all(-1).any())
    return Notes(advice=(CONSTANT,) if constant else ())
