"""Shared by the faults of averages: divisors, and sums over chosen taps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from app.faults._axes import counts, outer
from app.layers import LayerSpec, Plan
from app.layers._averages import Averages


def is_average(spec: LayerSpec) -> bool:
    """Whether the layer takes averages."""
    return "avg_pool" in spec.name


def divisors(spec: LayerSpec, plan: Plan, device: torch.device) -> torch.Tensor:
    """`(*out)`: the divisor of each window's sum."""
    if spec.family != "avg_pool":
        return outer([counts(axis, device) for axis in plan.axes])
    options = plan.options
    overhang = options.overhang_divisor == "kernel"
    averages = Averages(plan.axes, options.count_include_pad, overhang, options.divisor_override)
    return averages.divisors().to(device)


def sums(x: torch.Tensor, taps: Sequence[torch.Tensor]) -> torch.Tensor:
    """`(N, C, *spatial) -> (N, C, *out)`: sums over taps, `(out, taps)` per axis; at -1 none."""
    for dim, at in enumerate(taps, start=2):
        sides = [0, 0] * (x.dim() - 1 - dim) + [0, 1]
        padded, none = F.pad(x, sides), x.shape[dim]
        columns = torch.where(at < 0, none, at).unbind(1)
        x = padded.index_select(dim, columns[0])
        for column in columns[1:]:
            x = x + padded.index_select(dim, column)
    return x
