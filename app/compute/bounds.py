"""What is checked in exact integers before torch sees a request."""

import math
from typing import Any

from app.errors import CostLimit, InvalidRequest, OutputTooLarge
from app.layers import LayerSpec, Plan
from app.schemas.calls import ComputeCall
from app.schemas.tensors import DTYPES, Shapes, TensorPayload

EXTENTS = ("kernel_size", "stride", "dilation", "padding")
NS_PER_OPERATION = 1.5
BACKWARD_FACTOR = 3
EXPLAIN_FACTOR = 3
EXPLAIN_MS = 100
INDEX_BYTES = 8


def check_extents(options: Any, limit: int) -> None:
    """Bound kernels, strides, dilations and paddings."""
    for field in EXTENTS:
        value = getattr(options, field, None)
        entries = value if isinstance(value, tuple) else (value,)
        for index, entry in enumerate(entries):
            largest = max(entry) if isinstance(entry, tuple) else entry
            if isinstance(largest, int) and largest > limit:
                pointer = f"{field}/{index}" if isinstance(value, tuple) else field
                detail = f"{pointer}: expected at most {limit}; got {largest}"
                raise InvalidRequest.at(pointer, "out-of-range", detail)


def check_ranks(spec: LayerSpec, shapes: Shapes, *, channels_last: bool, batched: bool) -> None:
    """Every tensor that came has a rank that its port takes."""
    for port in spec.inputs:
        shape = shapes.get(port.name)
        taken = [rank - (port.mapped and not batched) for rank in port.ranks]
        if shape is None or len(shape) in taken:
            continue
        detail = (
            f"{port.name}: expected {' or '.join(map(str, taken))} axes, "
            f"{sent_axes(port.axes, channels_last, batched) if port.mapped else port.axes}; "
            f"got {len(shape)}, shape {list(shape)}"
        )
        if port.mapped and batched and len(shape) + 1 in port.ranks:
            detail += ". To send one sample without a batch axis add `batched: false`"
        raise InvalidRequest.at(port.name, "wrong-rank", detail)


def sent_axes(axes: str, channels_last: bool, batched: bool) -> str:
    """A port's axes in the layout they are sent in."""
    if channels_last:
        axes = axes.replace("C, ", "", 1).replace(")", ", C)", 1) if "C, " in axes else axes
    return axes if batched else axes.replace("N, ", "")


def check_plan(spec: LayerSpec, plan: Plan, call: ComputeCall, limits: dict[str, int]) -> None:
    """Bound the memory and the time that the plan will take."""
    itemsize = max(DTYPES[call.dtype].itemsize, 8 if call.compute_dtype == "float64" else 4)
    elements = plan.workspace
    for name, shape in plan.outputs.items():
        elements += math.prod(shape) * (INDEX_BYTES // itemsize if name == "indices" else 1)
    if elements * itemsize > limits["max_output_bytes"]:
        detail = (
            f"the output {list(plan.outputs['output'])} and its working memory need "
            f"{elements * itemsize} bytes; at most {limits['max_output_bytes']} are allowed. "
            "Use a larger stride or a smaller output, or fewer samples"
        )
        raise OutputTooLarge(detail)
    cost_ms = estimated_ms(plan, call)
    if cost_ms > limits["max_cost_ms"]:
        detail = (
            f"{spec.name} would take about {cost_ms:.0f} ms for {plan.cost} operations; at most "
            f"{limits['max_cost_ms']} ms are allowed. Use a smaller window or fewer samples"
        )
        raise CostLimit(detail)


def estimated_ms(plan: Plan, call: ComputeCall) -> float:
    """Computing time of the call from above, ms."""
    fixed = EXPLAIN_MS if call.explain else 0
    factor = BACKWARD_FACTOR if call.grad_output is not None else 1
    if getattr(plan.options, "tie", "first") != "first":
        factor *= 2
    if call.explain:
        factor += EXPLAIN_FACTOR
    return fixed + plan.cost * factor * NS_PER_OPERATION / 1e6


def check_gradient(call: ComputeCall, shape: tuple[int, ...]) -> None:
    """A gradient is of the output's shape, and of floats."""
    grad = call.grad_output
    if grad is not None and not DTYPES[call.dtype].is_float:
        detail = f"grad_output: integers have no gradient; got dtype {call.dtype}"
        raise InvalidRequest.at("grad_output", "no-gradient", detail)
    if isinstance(grad, TensorPayload) and grad.shape != shape:
        detail = f"grad_output: expected the output's shape, {list(shape)}; got {list(grad.shape)}"
        raise InvalidRequest.at("grad_output", "shape-mismatch", detail)
