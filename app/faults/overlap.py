"""The fault of gradients that overwrite each other where windows overlap."""

import math
from collections.abc import Callable

import torch

from app.faults._averages import divisors, is_average, sums
from app.faults._axes import lasts
from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import with_gradients
from app.faults._maxima import image, is_max, maxima, room, source
from app.faults._walks import holders, most_holders, taps, walked
from app.layers import LayerSpec, Plan, Tensors
from app.layers._averages import Averages, window_elements
from app.layers._windows import SlidingAxis

Gradient = Callable[[LayerSpec, torch.Tensor, torch.Tensor, Plan], torch.Tensor]


def overlap_overwritten(spec: LayerSpec) -> LayerSpec:
    """`=` in place of `+=`, over the windows in row-major order."""
    if spec.family == "lp_pool":
        return _with_gradient(spec, _of_norm)
    if is_average(spec):
        return _with_gradient(spec, _of_average)
    return _with_gradient(spec, _of_max) if is_max(spec) else spec


def gate_overwritten(spec: LayerSpec) -> LayerSpec:
    """Whether an element is the maximum is kept of its last window alone, and the gradient of every
    window that holds it passes or not by that.
    """
    return _with_gradient(spec, _by_gate) if is_max(spec) else spec


def _with_gradient(spec: LayerSpec, of: Gradient) -> LayerSpec:
    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = image(tensors)
        found = spec.run({"input": x.detach()}, plan)
        if 0 in found["output"].shape:
            return spec.run(tensors, plan)
        return {**found, "output": of(spec, x, found["output"], plan)}

    return rebuilt(spec, run, room=room, calls=_steps)


def _steps(plan: Plan) -> int:
    """Of a walk over all windows of every element, which equal maxima need."""
    if getattr(plan.options, "tie", "first") == "first":
        return sum(map(most_holders, plan.axes))
    return 2 * math.prod(map(most_holders, plan.axes))


def _of_max(spec: LayerSpec, x: torch.Tensor, output: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Each element has the gradient of the last window that chose it."""
    if getattr(plan.options, "tie", "first") != "first":
        return _of_equal(spec, x, output, plan)
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
    divisor = divisors(spec, plan, x.device)
    return with_gradients(output, (x,), lambda grad: (_last(grad / divisor, plan, 0).to(x),))


def _of_norm(spec: LayerSpec, x: torch.Tensor, output: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Each element has what the last window that holds it passes, which is none of a sum of 0."""
    options, p = plan.options, plan.options.norm_type
    scale: torch.Tensor | float = 1.0
    if options.lp_partial == "scaled":
        counted = Averages(plan.axes, True, False, None).divisors().to(x.device)
        scale = window_elements(plan.axes) / counted
    passed = torch.where(output == 0, 0, scale * output.pow(1 - p))
    size = x.detach().abs() if options.lp_abs else x.detach()
    slope = size.pow(p - 1) * (x.detach().sign() if options.lp_abs else 1)

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
        share = _last(grad * passed, plan, 0)
        return (torch.where(share == 0, 0, share * slope).to(x),)

    return with_gradients(output, (x,), rule)


def _of_equal(spec: LayerSpec, x: torch.Tensor, output: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Each element has the gradient of the last window whose maximum it equals: all of it, or with
    `tie: split` its share.
    """
    compared = source(x, plan)
    values, device = compared.detach(), x.device
    counts = torch.ones_like(output)
    if plan.options.tie == "split":
        inside = torch.ones_like(values)
        walk = [taps(axis, device) for axis in plan.axes]
        pairs = zip(walked(values, walk), walked(inside, walk), strict=True)
        counts = torch.zeros_like(output)
        for value, is_inside in pairs:
            counts += _equal(value, output) & (is_inside > 0)

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
        walk = [holders(axis, device) for axis in plan.axes]
        inside = torch.ones_like(output)
        dx = torch.zeros_like(values)
        steps = (walked(one, walk) for one in (grad / counts, output, inside))
        for share, maximum, is_inside in zip(*steps, strict=True):
            dx = torch.where(_equal(values, maximum) & (is_inside > 0), share.to(dx), dx)
        return (dx,)

    return with_gradients(output, (compared,), rule)


def _equal(values: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    return (values == maximum) | (values.isnan() & maximum.isnan())


def _by_gate(spec: LayerSpec, x: torch.Tensor, output: torch.Tensor, plan: Plan) -> torch.Tensor:
    compared = source(x, plan)
    _, where = maxima(spec, x.detach(), plan)
    where = where.view(*x.shape[:2], *(axis.output for axis in plan.axes))
    own = torch.arange(math.prod(x.shape[2:]), device=x.device).view(x.shape[2:])
    gate = _last(where, plan, -1) == own
    walk = [torch.stack(holders(axis, x.device), 1) for axis in plan.axes]

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
        return ((sums(grad.view(where.shape), walk) * gate).to(compared),)

    return with_gradients(output, (compared,), rule)


def _last(found: torch.Tensor, plan: Plan, none: float) -> torch.Tensor:
    """`(N, C, *out) -> (N, C, *spatial)`: what the last window that holds each element has."""
    for dim, axis in enumerate(plan.axes, start=2):
        windows = lasts(axis, found.device)
        found = found.index_select(dim, windows.clamp(min=0))
        held = (windows >= 0).view(-1, *[1] * (found.dim() - 1 - dim))
        found = torch.where(held, found, none)
    return found


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
        families=frozenset({"max_pool", "avg_pool", "lp_pool", "adaptive_pool"}),
        message="Where windows overlap, the gradient of the last one overwrites the others (`=`); "
        "an element's gradient is their sum (`+=`).",
        source="https://github.com/FluxML/NNlib.jl/issues/205",
        changes=GRADIENTS,
        layer=overlap_overwritten,
        applies=_overlapping,
    ),
    Fault(
        name="gate-overwritten",
        families=frozenset({"max_pool", "adaptive_pool"}),
        message="You keep for each element whether the last of its windows chose it, and pass or "
        "stop the gradients of all its windows by that; each window has a choice of its own.",
        source="https://github.com/ahrefs/ocannl/issues/512",
        changes=GRADIENTS,
        layer=gate_overwritten,
        applies=_overlapping,
    ),
)
