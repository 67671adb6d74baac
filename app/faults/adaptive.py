"""Faults of adaptive pooling's windows."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from app.faults._fault import Fault, rebuilt
from app.faults._maxima import answer, coordinates, image, is_max, position, room, taken
from app.layers import LayerSpec, Plan, Tensors


def end_floored(spec: LayerSpec) -> LayerSpec:
    """Windows [floor(i * n / o), floor((i + 1) * n / o)), which never overlap."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        bounds = [[index * a.input // a.output for index in range(a.output + 1)] for a in plan.axes]
        return _over(spec, image(tensors), bounds, plan)

    return rebuilt(spec, run, room=_copied_room)


def fixed_stride(spec: LayerSpec) -> LayerSpec:
    """Windows of n - (o - 1) * (n // o) elements, n // o apart."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        stride = [axis.input // axis.output for axis in plan.axes]
        kernel = [
            axis.input - (axis.output - 1) * step
            for axis, step in zip(plan.axes, stride, strict=True)
        ]
        if not is_max(spec):
            average: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
            return {"output": average(x, kernel, stride)}
        output, where = _max_pool(x, kernel, stride)
        return answer(output, where, x.shape[2:], plan)

    return rebuilt(spec, run, room=room)


def _copied_room(plan: Plan) -> int:
    """The elements of the windows side by side."""
    lead = math.prod(plan.outputs["output"][:2])
    copied: int = math.prod(axis.output * axis.largest for axis in plan.axes)
    return room(plan) + 2 * lead * copied


def _max_pool(
    x: torch.Tensor, kernel: list[int], stride: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(kernel) - 1]
    output, where = pool(x, kernel, stride, return_indices=True)
    return output, where


def _over(spec: LayerSpec, x: torch.Tensor, bounds: list[list[int]], plan: Plan) -> Tensors:
    """Pooling over adjacent windows with these bounds, made equally long by repeating their last
    element, which changes no maximum.
    """
    edges = [torch.tensor(bound, device=x.device) for bound in bounds]
    lengths = [edge.diff() for edge in edges]
    if not is_max(spec):
        total = x
        for dim, length in enumerate(lengths, start=2):
            window = torch.repeat_interleave(length)
            shape = (*total.shape[:dim], len(length), *total.shape[dim + 1 :])
            total = total.new_zeros(shape).index_add(dim, window, total)
            total = total / length.view(-1, *[1] * (x.dim() - 1 - dim))
        return {"output": total}
    kernel = [int(length.max()) for length in lengths]
    taps, copied = [], x.detach()
    for dim, (edge, size) in enumerate(zip(edges, kernel, strict=True), start=2):
        at = edge[:-1, None] + torch.arange(size, device=x.device)
        taps.append(torch.minimum(at, edge[1:, None] - 1).flatten())
        copied = copied.index_select(dim, taps[-1])
    _, found = _max_pool(copied, kernel, kernel)
    at_copied = coordinates(found, copied.shape[2:])
    at_own = [own[at] for own, at in zip(taps, at_copied, strict=True)]
    where = position(at_own, x.shape[2:])
    return answer(taken(x, where, plan), where, x.shape[2:], plan)


def _unevenly(plan: Plan) -> bool:
    """Whether every window has elements, and some overlap."""
    axes = plan.axes
    return all(0 < axis.output <= axis.input for axis in axes) and any(
        axis.input % axis.output for axis in axes
    )


ADAPTIVE = frozenset({"adaptive_pool"})
FAULTS = (
    Fault(
        name="adaptive-end-floored",
        families=ADAPTIVE,
        message="Your windows end at floor((i + 1) * n / o); they end at ceil((i + 1) * n / o), "
        "and may overlap.",
        source="https://github.com/flagos-ai/FlagGems/issues/4915",
        layer=end_floored,
        applies=_unevenly,
    ),
    Fault(
        name="adaptive-fixed-stride",
        families=ADAPTIVE,
        message="You pool with a fixed stride n // o and kernel n - (o - 1) * (n // o); window i "
        "is [floor(i * n / o), ceil((i + 1) * n / o)), of varying length.",
        source="https://github.com/pytorch/pytorch/issues/74034",
        layer=fixed_stride,
        applies=_unevenly,
    ),
)
