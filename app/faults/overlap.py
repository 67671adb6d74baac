"""The fault of gradients that overwrite each other where windows overlap."""

import math

import torch

from app.faults._averages import divisors, is_average
from app.faults._axes import lasts
from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import with_gradients
from app.faults._maxima import image, is_max, maxima, room, source
from app.layers import LayerSpec, Plan, Tensors
from app.layers._windows import SlidingAxis


def overlap_overwritten(spec: LayerSpec) -> LayerSpec:
    """`=` in place of `+=`, over the windows in row-major order."""
    if not (is_max(spec) or is_average(spec)):
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        found = spec.run({"input": x.detach()}, plan)
        if 0 in found["output"].shape:
            return spec.run(tensors, plan)
        of = _of_max if is_max(spec) else _of_average
        return {**found, "output": of(spec, x, found["output"], plan)}

    return rebuilt(spec, run, room=room)


def _of_max(spec: LayerSpec, x: torch.Tensor, output: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Each element has the gradient of the last window that chose it."""
    compared = source(x, plan)
    _, where = maxima(spec, x.detach(), plan)
    where = where.flatten(2)
    windows = torch.arange(where.shape[2], device=x.device).expand_as(where)
    last = where.new_full((*x.shape[:2], math.prod(x.shape[2:])), -1)
    last.scatter_reduce_(2, where.clamp(min=0), torch.where(where < 0, -1, windows), "amax")

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
        chosen = grad.flatten(2).gather(2, last.clamp(min=0))
        return (torch.where(last < 0, 0, chosen).to(compared).view(compared.shape),)

    return with_gradients(output, (compared,), rule)


def _of_average(spec: LayerSpec, x: torch.Tensor, output: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Each element has its share of the last window that holds it."""
    last = [lasts(axis, x.device) for axis in plan.axes]
    divisor = divisors(spec, plan, x.device)

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
        share = grad / divisor
        for dim, windows in enumerate(last, start=2):
            share = share.index_select(dim, windows.clamp(min=0))
            held = (windows >= 0).view(-1, *[1] * (x.dim() - 1 - dim))
            share = torch.where(held, share, 0)
        return (share.to(x),)

    return with_gradients(output, (x,), rule)


def _overlapping(plan: Plan) -> bool:
    return any(
        axis.stride < axis.effective and axis.output > 1
        if isinstance(axis, SlidingAxis)
        else axis.output and axis.input % axis.output
        for axis in plan.axes
    )


FAULTS = (
    Fault(
        name="overlap-overwritten",
        families=frozenset({"max_pool", "avg_pool", "adaptive_pool"}),
        message="Where windows overlap, the gradient of the last one overwrites the others (`=`); "
        "an element's gradient is their sum (`+=`).",
        source="https://github.com/FluxML/NNlib.jl/issues/205",
        changes=GRADIENTS,
        layer=overlap_overwritten,
        applies=_overlapping,
    ),
)
