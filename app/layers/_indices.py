"""Indices of maxima: positions in a plane <-> the frameworks' index bases."""

import math
from collections.abc import Sequence

import torch


def numbered(
    where: torch.Tensor, spatial: Sequence[int], base: str, storage_order: str
) -> torch.Tensor:
    """Convert positions `(N, C, *out)` in a plane of lengths `spatial` to an index base."""
    if base == "plane":
        return where
    if base == "tf":
        return where * where.shape[1] + _channels(where)
    if storage_order == "column":
        where = _transposed(where, spatial)
    return where + _plane_numbers(where) * math.prod(spatial)


def planes(
    indices: torch.Tensor, spatial: Sequence[int], base: str, storage_order: str
) -> torch.Tensor:
    """`(N, C, *out)`: the inverse of `numbered`. An index into another plane gives a value outside
    [0, positions).
    """
    if base == "plane":
        return indices
    if base == "tf":
        channels = indices.shape[1]
        own = indices.remainder(channels) == _channels(indices)
        return torch.where(own, indices.div(channels, rounding_mode="floor"), -1)
    positions = math.prod(spatial)
    where = indices - _plane_numbers(indices) * positions
    if storage_order == "row":
        return where
    inside = (where >= 0) & (where < positions)
    return torch.where(inside, _transposed(where, spatial[::-1]), -1)


def _transposed(where: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
    """Convert row-major positions in `spatial` to column-major (first axis varies fastest)."""
    unit, transposed = math.prod(spatial), torch.zeros_like(where)
    rest = where.clone()
    for length in reversed(spatial):
        unit //= length
        transposed += rest.remainder(length).mul_(unit)
        rest.div_(length, rounding_mode="floor")
    return transposed


def _channels(where: torch.Tensor) -> torch.Tensor:
    return torch.arange(where.shape[1], device=where.device).view(-1, *[1] * (where.dim() - 2))


def _plane_numbers(where: torch.Tensor) -> torch.Tensor:
    samples = torch.arange(where.shape[0], device=where.device).view(-1, *[1] * (where.dim() - 1))
    return samples * where.shape[1] + _channels(where)
