"""The fault of sums in half precision."""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce

import torch

from app.faults._averages import divisors, is_average
from app.faults._axes import extent
from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import with_gradients
from app.faults._norm import (
    NORMS,
    Rule,
    by_channel,
    groups,
    inverse_root,
    is_rms,
    is_training,
    normalized,
    running,
    summed_in_order,
    together,
)
from app.faults._norm import room as norm_room
from app.faults._walks import holders, most_holders, taps, walked
from app.faults._weights import ordered, ordered_shape
from app.layers import LayerSpec, Plan, Tensors

Sums = Callable[[LayerSpec, Tensors, Plan], Tensors]
POOLS = frozenset({"avg_pool", "adaptive_pool", "global_pool"})
HALVES = (torch.float16, torch.bfloat16)


def half_accumulation(spec: LayerSpec) -> LayerSpec:
    """Sums of one term after the other, row-major, rounded after each; the rest in float32."""
    own: Sums | None = None
    if spec.family == "conv":
        own = _convolution
    elif is_average(spec):
        own = _average
    elif spec.family in NORMS:
        own = _norm
    return _summing(spec, own)


def of_quotients(spec: LayerSpec) -> LayerSpec:
    """Averages as such sums of rounded quotients."""
    return _summing(spec, _average_of_quotients if is_average(spec) else None)


def of_gradients(spec: LayerSpec) -> LayerSpec:
    """Such sums in the gradients alone."""
    if is_average(spec) and spec.family != "global_pool":
        return _summing(spec, _gradients_of_average)
    if spec.family in NORMS - {"sync_batch_norm"}:
        return _summing(spec, partial(_gradients_of_norm, everywhere=True))
    return spec


def of_parameters(spec: LayerSpec) -> LayerSpec:
    """Such sums in the gradients of weight and bias alone."""
    return _summing(
        spec, _gradients_of_norm if spec.family in NORMS - {"sync_batch_norm"} else None
    )


def _summing(spec: LayerSpec, own: Sums | None) -> LayerSpec:
    if own is None:
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = next(iter(tensors.values()))
        if x.dtype not in HALVES or not x.numel() or 0 in next(iter(plan.outputs.values())):
            return spec.run(tensors, plan)
        return own(spec, tensors, plan)

    room = norm_room if spec.family in NORMS else _room
    return rebuilt(spec, run, room=room, calls=lambda plan: _terms(plan) + _gradient_terms(plan))


def _terms(plan: Plan) -> int:
    """How many terms the longest sum has, or at most may have."""
    if not plan.axes:
        return together(plan)
    reach: int = math.prod(map(extent, plan.axes))
    channels = ordered_shape(plan.inputs.get("weight", (1, 1)), plan.options)[1]
    return reach * channels


def _gradient_terms(plan: Plan) -> int:
    """The same of the gradients, of an average's input, or of a norm's parameters."""
    if plan.axes:
        return math.prod(map(most_holders, plan.axes))
    return math.prod(plan.inputs.get("input", (0,))) // max(math.prod(plan.inputs["weight"]), 1)


def _room(plan: Plan) -> int:
    """Working memory; of a convolution, the gradient keeps the factors of every term."""
    lead = math.prod(plan.inputs["input"][:2])
    padded: int = lead * math.prod(a.input + 2 * a.output + 1 for a in plan.axes)
    factors = _terms(plan) if "weight" in plan.inputs else 0
    return 2 * padded + math.prod(plan.outputs["output"]) * (4 + factors)


def _average(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    x = tensors["input"].contiguous()
    total = _added(walked(x, [taps(axis, x.device) for axis in plan.axes]))
    output = (total.float() / divisors(spec, plan, x.device)).to(x.dtype)
    return {"output": output.view(plan.outputs["output"])}


def _average_of_quotients(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    x = tensors["input"].contiguous()
    divisor = divisors(spec, plan, x.device)
    terms = walked(x, [taps(axis, x.device) for axis in plan.axes])
    output = _added((term.float() / divisor).to(x.dtype) for term in terms)
    return {"output": output.view(plan.outputs["output"])}


def _added(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, terms)


def _gradients_of_average(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    x = tensors["input"].contiguous()
    divisor = divisors(spec, plan, x.device)

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor]:
        share = (grad.float() / divisor).to(x.dtype)
        return (_added(walked(share, [holders(axis, x.device) for axis in plan.axes])),)

    output = spec.run({"input": x.detach()}, plan)["output"]
    return {"output": with_gradients(output, (x,), rule)}


def _convolution(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    tensors, plan = ordered(tensors, plan)
    x, dims = tensors["input"].contiguous(), len(plan.axes)
    walk = [taps(axis, x.device) for axis in plan.axes]
    weight, count = tensors["weight"], plan.options.groups
    out, channels = weight.shape[:2]
    images = x.view(x.shape[0], count, channels, *x.shape[2:])
    kernels = weight.view(count, out // count, channels, -1)
    total = x.new_zeros(())
    for channel in range(channels):
        for tap, term in enumerate(walked(images[:, :, channel], walk)):
            factor = kernels[:, :, channel, tap].view(count, -1, *[1] * dims)
            total = total + term.unsqueeze(2) * factor
    bias = tensors["bias"].view(-1, *[1] * dims)
    return {"output": total.reshape(plan.outputs["output"]) + bias}


def _norm(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    dtype = next(iter(tensors.values())).dtype

    def mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        total = summed_in_order(values.to(dtype), dims).float()
        return (total / math.prod(values.shape[dim] for dim in dims)).to(dtype).float()

    def variance(values: torch.Tensor, center: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        return mean((values - center).square(), dims)

    wide = {name: tensor.float() for name, tensor in tensors.items()}
    return normalized(spec, wide, plan, Rule(mean=mean, variance=variance))


def _gradients_of_norm(
    spec: LayerSpec, tensors: Tensors, plan: Plan, *, everywhere: bool = False
) -> Tensors:
    """The sums over positions in the gradients of weight and bias; `everywhere`, also those over
    what is normalized together in the input's.
    """
    names = [name for name in ("input", "weight", "bias") if name in tensors]
    sent = [tensors[name] for name in names]
    dtype, shape = sent[0].dtype, tuple(sent[0].shape)
    wide = {name: tensor.detach().float() for name, tensor in tensors.items()}
    own = groups(spec, wide, plan)
    values, dims = own.values, own.dims
    weight = wide["weight"] + getattr(plan.options, "weight_offset", 0)
    positions: tuple[int, ...] = tuple(range(len(shape) - weight.dim()))
    if spec.family != "layer_norm":
        weight, positions = by_channel(weight, sent[0]), (0, *range(2, len(shape)))
    mean, var = values.mean(dims, keepdim=True), values.var(dims, correction=0, keepdim=True)
    if is_rms(spec):
        mean, var = torch.zeros_like(mean), values.square().mean(dims, keepdim=True)
    elif not is_training(plan):
        mean, var = running(values, dims, wide)
    scale = inverse_root(var, plan.options.eps, own.count)
    normal = (values - mean) * scale

    def average(terms: torch.Tensor) -> torch.Tensor:
        if everywhere:
            return summed_in_order(terms.to(dtype), dims).float() / own.count
        return terms.mean(dims, keepdim=True)

    def rule(grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        grad = grad.float().view(shape)
        terms = {"weight": grad * normal.view(shape), "bias": grad}
        sums = [
            summed_in_order(terms[name].to(dtype), positions).view(tensors[name].shape)
            for name in names[1:]
        ]
        through = (grad * weight).view(values.shape)
        dx = through
        if is_training(plan):
            dx = dx - normal * average(through * normal)
            dx = dx if is_rms(spec) else dx - average(through)
        return ((dx * scale).view(shape).to(dtype), *sums)

    with torch.no_grad():
        found = spec.run({name: tensor.detach() for name, tensor in tensors.items()}, plan)
    return {**found, "output": with_gradients(found["output"], sent, rule)}


FAULTS = (
    Fault(
        name="half-accumulation",
        families=NORMS | POOLS | {"conv"},
        message="You summed in half precision, rounding after each term; sum in float32, and round "
        "once.",
        source="https://github.com/pytorch/pytorch/issues/140696",
        layer=half_accumulation,
        in_dtype=True,
        only_halves=True,
    ),
    Fault(
        name="half-accumulation",
        families=POOLS,
        message="You divided each term and summed the quotients in half precision, rounding after "
        "each; sum in float32, divide, and round once.",
        source="https://github.com/pytorch/pytorch/issues/140696",
        layer=of_quotients,
        in_dtype=True,
        only_halves=True,
    ),
    Fault(
        name="half-accumulation",
        families=NORMS | POOLS,
        message="You summed your gradients in half precision, rounding after each term; sum in "
        "float32, and round once.",
        source="https://github.com/tracel-ai/cubek/pull/639",
        changes=GRADIENTS,
        layer=of_gradients,
        in_dtype=True,
        only_halves=True,
    ),
    Fault(
        name="half-accumulation",
        families=NORMS,
        message="You summed the gradients of weight and bias in half precision, rounding after "
        "each term; sum in float32, and round once.",
        source="https://github.com/tracel-ai/cubek/pull/639",
        changes=GRADIENTS,
        layer=of_parameters,
        in_dtype=True,
        only_halves=True,
    ),
)
