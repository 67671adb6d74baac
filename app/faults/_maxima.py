"""Shared by the faults of max pooling: positions of maxima, and answers made from them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from app.faults._axes import along, exact, firsts, padded, with_axes
from app.layers import LayerSpec, Plan, Tensors
from app.layers._indices import numbered
from app.layers._windows import SlidingAxis

PLAIN = {"return_indices": True, "index_base": "plane", "storage_order": "row", "tie": "first"}
ROOM = 6
"""Elements of working memory per element of input and padding, and per window."""


def is_max(spec: LayerSpec) -> bool:
    """Whether the layer takes maxima."""
    return "max_pool" in spec.name


def image(tensors: Tensors) -> torch.Tensor:
    """The input, in row-major order."""
    return tensors["input"].contiguous()


def room(plan: Plan) -> int:
    """Working memory for positions and their coordinates."""
    lead = math.prod(plan.outputs["output"][:2])
    reached = math.prod(_reached(axis) for axis in plan.axes)
    return ROOM * (lead * reached + math.prod(plan.outputs["output"]))


def _reached(axis: Any) -> int:
    if not isinstance(axis, SlidingAxis):
        return int(axis.input)
    padded: int = axis.padded + axis.overhang
    return padded


def lowest(x: torch.Tensor) -> float:
    """What every element is at least."""
    return -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


def without_nan(x: torch.Tensor) -> torch.Tensor:
    """-Infinity in place of NaN, without a gradient."""
    return torch.where(x.isnan(), -math.inf, x) if x.is_floating_point() else x


def source(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    """The elements that are compared: all, or with `nan: ignore` all but NaN."""
    return without_nan(x) if getattr(plan.options, "nan", "propagate") == "ignore" else x


def maxima(spec: LayerSpec, x: torch.Tensor, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """The maxima, and their positions in their planes, `(N, C, *out)` both."""
    if spec.family == "global_pool":
        pool: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[
            x.dim() - 3
        ]
        output, where = pool(x, 1, return_indices=True)
        shape = plan.outputs["output"]
        return output.view(shape), where.view(shape)
    names = {name: value for name, value in PLAIN.items() if hasattr(plan.options, name)}
    options = plan.options.model_copy(update=names)
    found = spec.run({"input": x}, replace(plan, options=options))
    return found["output"], found["indices"]


def filling(x: torch.Tensor, plan: Plan) -> float:
    """The maximum of a window without elements."""
    return 0.0 if getattr(plan.options, "empty_window", None) == "zero" else lowest(x)


def taken(x: torch.Tensor, where: torch.Tensor, plan: Plan) -> torch.Tensor:
    """The elements at these positions of their planes; at -1, that of a window without any."""
    flat = where.clamp(min=0).reshape(*x.shape[:2], math.prod(where.shape[2:]))
    found = x.flatten(2).gather(2, flat).view(where.shape)
    return torch.where(where < 0, filling(x, plan), found)


def coordinates(where: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    """Positions in a plane of these lengths, split into one coordinate per axis."""
    found = []
    for length in reversed(lengths):
        found.append(where.remainder(length))
        where = where.div(length, rounding_mode="floor")
    return found[::-1]


def position(at: Sequence[torch.Tensor], lengths: Sequence[int]) -> torch.Tensor:
    """The inverse of `coordinates`."""
    where, *rest = at
    for coordinate, length in zip(rest, lengths[1:], strict=True):
        where = where * length + coordinate
    return where


def answer(
    output: torch.Tensor, where: torch.Tensor, lengths: Sequence[int], plan: Plan
) -> Tensors:
    """The layer's answer for maxima at these positions in planes of these lengths.

    A position of -1, in a window without elements, has the index -1.
    """
    options = plan.options
    if not getattr(options, "return_indices", False):
        return {"output": output}
    if not hasattr(options, "index_base"):
        return {"output": output, "indices": where}
    indices = numbered(where, lengths, options.index_base, options.storage_order)
    return {"output": output, "indices": torch.where(where == -1, -1, indices)}


def over_padded(
    spec: LayerSpec, x: torch.Tensor, plan: Plan, axes: Sequence[SlidingAxis], fill: float
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The maxima of windows over an input that `fill` was padded onto, and their coordinates in the
    input, which lie outside it where padding won.
    """
    ends = [exact(axis) for axis in axes]
    whole = padded(x, ends, fill)
    inner = [
        exact(axis, input=length, before=0)
        for axis, length in zip(ends, whole.shape[2:], strict=True)
    ]
    names = {**PLAIN, "tie": plan.options.tie}
    found = spec.run({"input": whole}, with_axes(plan, inner, **names))
    at = coordinates(found["indices"], whole.shape[2:])
    return found["output"], [
        coordinate - axis.before for coordinate, axis in zip(at, ends, strict=True)
    ]


def over(spec: LayerSpec, x: torch.Tensor, plan: Plan, axes: Sequence[SlidingAxis]) -> Tensors:
    """The layer's answer over other windows, of which some may hold no element: their maximum is
    what `empty_window` says, or the lowest value, and they have no gradient.
    """
    if not any(axis.empty_windows() for axis in axes):
        return spec.run({"input": x}, with_axes(plan, axes))
    lengths = x.shape[2:]
    output, at = over_padded(spec, x, plan, axes, lowest(x))
    inside = torch.ones_like(at[0], dtype=torch.bool)
    for coordinate, length in zip(at, lengths, strict=True):
        inside &= (coordinate >= 0) & (coordinate < length)
    # Padding wins in windows that hold nothing, or nothing above the lowest value.
    first = [f.expand(output.shape) for f in along([firsts(axis, x.device) for axis in axes])]
    is_empty = torch.stack([f < 0 for f in first]).any(0)
    where = torch.where(inside, position(at, lengths), position(first, lengths))
    where = torch.where(is_empty, -1, where)
    if plan.options.tie == "first":
        output = taken(source(x, plan), where, plan)
    else:
        output = torch.where(is_empty, filling(x, plan), output)
    return answer(output, where, lengths, plan)
