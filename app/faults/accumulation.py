"""The fault of sums in half precision."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from app.faults._averages import divisors, is_average
from app.faults._axes import AnyAxis, extent, starts
from app.faults._fault import Fault, rebuilt
from app.faults._norm import NORMS, Rule, normalized
from app.faults._norm import room as norm_room
from app.faults._weights import ordered, ordered_shape
from app.layers import LayerSpec, Plan, Tensors
from app.layers._windows import SlidingAxis

HALVES = (torch.float16, torch.bfloat16)


def half_accumulation(spec: LayerSpec) -> LayerSpec:
    """Sums of one term after the other, row-major, rounded after each; the rest in float32."""
    if spec.family == "conv":
        own = _convolution
    elif is_average(spec):
        own = _average
    elif spec.family in NORMS:
        own = _norm
    else:
        return spec

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = next(iter(tensors.values()))
        if x.dtype not in HALVES or not x.numel() or 0 in next(iter(plan.outputs.values())):
            return spec.run(tensors, plan)
        return own(spec, tensors, plan)

    room = norm_room if spec.family in NORMS else _room
    return rebuilt(spec, run, room=room, calls=_terms)


def _terms(plan: Plan) -> int:
    """How many terms the longest sum has, or at most may have."""
    if not plan.axes:
        names = ("statistics.mean", "statistics.inv_rms")
        groups = [plan.outputs[name] for name in names if name in plan.outputs]
        images = [shape for name, shape in plan.inputs.items() if name.startswith("input")]
        each = math.prod(groups[0] if groups else plan.inputs["weight"])
        return sum(map(math.prod, images)) // max(each, 1)
    taps: int = math.prod(map(extent, plan.axes))
    channels = ordered_shape(plan.inputs.get("weight", (1, 1)), plan.options)[1]
    return taps * channels


def _room(plan: Plan) -> int:
    """Working memory; of a convolution, the gradient keeps the factors of every term."""
    lead = math.prod(plan.inputs["input"][:2])
    padded: int = lead * math.prod(a.input + 2 * a.output + 1 for a in plan.axes)
    factors = _terms(plan) if "weight" in plan.inputs else 0
    return 2 * padded + math.prod(plan.outputs["output"]) * (4 + factors)


def _taps(axis: AnyAxis, device: torch.device) -> list[torch.Tensor]:
    """`(out)` for each tap: the coordinates that the windows read; the input's length for none."""
    begins = starts(axis, device)
    if isinstance(axis, SlidingAxis):
        at = [begins + tap * axis.dilation for tap in range(axis.kernel)]
        return [torch.where((a < 0) | (a >= axis.input), axis.input, a) for a in at]
    ends = -(-(torch.arange(1, axis.output + 1, device=device) * axis.input) // axis.output)
    return [torch.where(begins + t < ends, begins + t, axis.input) for t in range(axis.largest)]


def _terms_of(x: torch.Tensor, taps: Sequence[Sequence[torch.Tensor]]) -> Iterator[torch.Tensor]:
    """`(N, C, *out)` for each tap of the windows, row-major."""
    first, *rest = taps
    for at in first:
        chosen = x.index_select(x.dim() - len(taps), at)
        if rest:
            yield from _terms_of(chosen, rest)
        else:
            yield chosen


def _padded(x: torch.Tensor, plan: Plan) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    taps = [_taps(axis, x.device) for axis in plan.axes]
    return F.pad(x, [0, 1] * len(taps)), taps


def _average(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    x, taps = _padded(tensors["input"].contiguous(), plan)
    total = None
    for term in _terms_of(x, taps):
        total = term if total is None else total + term
    assert total is not None
    divisor = divisors(spec, plan, x.device)
    output = (total.float() / divisor).to(x.dtype)
    return {"output": output.view(plan.outputs["output"])}


def _convolution(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    tensors, plan = ordered(tensors, plan)
    x, taps = _padded(tensors["input"].contiguous(), plan)
    weight, count = tensors["weight"], plan.options.groups
    out, channels = weight.shape[:2]
    images = x.view(x.shape[0], count, channels, *x.shape[2:])
    kernels = weight.view(count, out // count, channels, -1)
    total = x.new_zeros(())
    for channel in range(channels):
        for tap, term in enumerate(_terms_of(images[:, :, channel], taps)):
            factor = kernels[:, :, channel, tap].view(count, -1, *[1] * len(taps))
            total = total + term.unsqueeze(2) * factor
    bias = tensors["bias"].view(-1, *[1] * len(taps))
    return {"output": total.reshape(plan.outputs["output"]) + bias}


def _norm(spec: LayerSpec, tensors: Tensors, plan: Plan) -> Tensors:
    dtype = next(iter(tensors.values())).dtype

    def mean(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        total = _in_order(values.to(dtype), dims).float()
        return (total / math.prod(values.shape[dim] for dim in dims)).to(dtype).float()

    def variance(values: torch.Tensor, center: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        return mean((values - center).square(), dims)

    wide = {name: tensor.float() for name, tensor in tensors.items()}
    return normalized(spec, wide, plan, Rule(mean=mean, variance=variance))


def _in_order(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """Sums over `dims`, which remain with length 1."""
    rank = values.dim()
    reduced = sorted(dim % rank for dim in dims)
    others = [dim for dim in range(rank) if dim not in reduced]
    shape = [1 if dim in reduced else size for dim, size in enumerate(values.shape)]
    terms = values.permute(*others, *reduced).flatten(len(others)) if others else values.flatten()
    total, *rest = terms.unbind(-1)
    for term in rest:
        total = total + term
    return total.view(shape)


FAULTS = (
    Fault(
        name="half-accumulation",
        families=NORMS | {"avg_pool", "adaptive_pool", "global_pool", "conv"},
        message="You summed in half precision, rounding after each term; sum in float32, and round "
        "once.",
        source="https://github.com/pytorch/pytorch/issues/140696",
        layer=half_accumulation,
        in_dtype=True,
        only_halves=True,
    ),
)
