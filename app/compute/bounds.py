"""Checks that run in exact integer arithmetic before torch sees a request."""

from typing import Any

from app.compute._names import pointer, with_port
from app.compute.estimates import Estimate, elements_as_if, working_bytes
from app.errors import CostLimit, InvalidRequest, OutputTooLarge
from app.layers import LayerSpec, Plan
from app.limits import ResultLimits
from app.schemas.calls import ComputeCall
from app.schemas.options import Layout
from app.schemas.tensors import DTYPES, Shapes

EXTENTS = ("kernel_size", "stride", "dilation", "padding")
MAX_STRIDE = 2**48
"""Far below the limit of torch's 64-bit strides, to leave room for padding and kernels."""


def check_extents(options: Any, limit: int) -> None:
    """Check kernel sizes, strides, dilations, and paddings against the limit."""
    for field in EXTENTS:
        value = getattr(options, field, None)
        entries = value if isinstance(value, tuple) else (value,)
        for index, entry in enumerate(entries):
            largest = max(entry) if isinstance(entry, tuple) else entry
            if isinstance(largest, int) and largest > limit:
                pointer = f"{field}/{index}" if isinstance(value, tuple) else field
                detail = f"{pointer}: expected at most {limit}; got {largest}"
                raise InvalidRequest.at(pointer, "out-of-range", detail)


def check_dtypes(call: ComputeCall) -> None:
    """Refuse `compute_dtype` for integers, which are always computed in their own dtype."""
    if call.compute_dtype and not DTYPES[call.dtype].is_float:
        detail = f"compute_dtype: only for float dtypes; got dtype {call.dtype}. Omit it"
        raise InvalidRequest.at("compute_dtype", "conflict", detail)


def without_empty_axes(shapes: Shapes) -> Shapes:
    """Replace empty axes for cost estimates: costs are products, and an empty batch makes them 0.

    Empty axes get length 2, not 1, because training needs more than one value per channel.
    """
    return {name: tuple(length or 2 for length in shape) for name, shape in shapes.items()}


def check_strides(shapes: Shapes) -> None:
    """Refuse empty tensors whose other axes are so long that torch's strides overflow."""
    for name, shape in shapes.items():
        if elements_as_if(shape) >= MAX_STRIDE:
            detail = f"{name}: the non-zero axes of {list(shape)} have a product above 2^48"
            raise InvalidRequest.at(pointer(name), "out-of-range", detail)


def check_ranks(spec: LayerSpec, shapes: Shapes, layout: Layout, batched: bool) -> None:
    """Check that each tensor sent has a rank that its port accepts."""
    for (name, shape), port in with_port(spec.inputs, shapes):
        taken = [rank - (port.mapped and not batched) for rank in port.ranks]
        if len(shape) in taken:
            continue
        last = layout == "channels_last"
        detail = (
            f"{name}: expected {_spelled(taken)} axes, "
            f"{sent_axes(port.axes, last, batched) if port.mapped else port.axes}; "
            f"got {len(shape)}, shape {list(shape)}"
        )
        if port.mapped and batched and len(shape) + 1 in port.ranks:
            detail += ". For a single sample without a batch axis, add `batched: false`"
        raise InvalidRequest.at(pointer(name), "wrong-rank", detail)


def _spelled(ranks: list[int]) -> str:
    if len(ranks) > 3:
        return f"{ranks[0]} to {ranks[-1]}"
    return " or ".join(map(str, ranks))


def sent_axes(axes: str, channels_last: bool, batched: bool) -> str:
    """A port's axes in the layout in which they are sent."""
    if channels_last:
        axes = axes.replace("C, ", "", 1).replace(")", ", C)", 1) if "C, " in axes else axes
    return axes if batched else axes.replace("N, ", "")


def check_cost(
    spec: LayerSpec,
    plan: Plan,
    like: Plan,
    call: ComputeCall,
    estimate: Estimate,
    limits: ResultLimits,
) -> None:
    """Check the plan's memory and time; `like` is the same plan without empty axes."""
    needed = working_bytes(like, call)
    if needed > limits.max_output_bytes:
        detail = (
            f"the output {_listed(next(iter(plan.outputs.values())))} and its working memory need "
            f"{needed} bytes; the limit is {limits.max_output_bytes}. "
            "Use a larger stride, a smaller output or fewer samples"
        )
        raise OutputTooLarge(detail)
    if estimate.ms > limits.max_cost_ms:
        detail = (
            f"{spec.name} would take about {estimate.ms:.0f} ms for {like.cost} operations; the "
            f"limit is {limits.max_cost_ms} ms. Use a smaller window or fewer samples"
        )
        raise CostLimit(detail)


def check_gradient(spec: LayerSpec, call: ComputeCall, shapes: Any) -> None:
    """Check that the gradient has the output's shape and a float dtype.

    `shapes` is the shape of the output, or a list of shapes if there are several outputs.
    """
    name, grad = spec.gradient, getattr(call, spec.gradient)
    if grad is None:
        return
    if not DTYPES[call.dtype].is_float:
        detail = f"{name}: integer dtypes have no gradient; got dtype {call.dtype}"
        raise InvalidRequest.at(name, "no-gradient", detail)
    if grad == "ones":
        return
    came = [one.shape for one in grad] if spec.many else grad.shape
    if came != shapes:
        wanted = "the outputs' shapes" if spec.many else "the output's shape"
        detail = f"{name}: expected {wanted}, {_listed(shapes)}; got {_listed(came)}"
        raise InvalidRequest.at(name, "shape-mismatch", detail)


def _listed(shapes: Any) -> str:
    return str(shapes).replace("(", "[").replace(",)", "]").replace(")", "]")
