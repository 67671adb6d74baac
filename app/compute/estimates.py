"""Upper estimates of what a planned request costs: time, memory, and numbers to serialize."""

import math
from dataclasses import dataclass

from app.layers import LayerSpec, Plan
from app.schemas.calls import ComputeCall
from app.schemas.tensors import DTYPES, Shape

NS_PER_ELEMENT = 6
NS_PER_WORKING_ELEMENT = 3
BACKWARD_FACTOR = 3
EXPLAIN_FACTOR = 3
EXPLAIN_MS = 2
WINDOW_MS = 0.1
WINDOW_BYTES = 6144
"""Memory for the description of one window, including its text."""
EXPLAIN_BYTES = 8
"""Explanations repeat the computation in float64."""
INDEX_BYTES = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Compute time (ms), memory in addition to the request's own tensors (bytes), and the count of
    numbers in the answer. Estimates of several requests can be added.
    """

    ms: float = 0.0
    bytes: int = 0
    numbers: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.ms + other.ms, self.bytes + other.bytes, self.numbers + other.numbers)


def elements_as_if(shape: Shape) -> int:
    """Number of elements, with empty axes counted as 1.

    What is allocated for the other axes is no smaller when one axis is empty.
    """
    return math.prod(max(length, 1) for length in shape)


def working_bytes(plan: Plan, call: ComputeCall) -> int:
    """Memory for the results plus the plan's working memory."""
    itemsize = working_itemsize(call)
    elements = plan.workspace
    for name, shape in plan.outputs.items():
        elements += elements_as_if(shape) * (INDEX_BYTES // itemsize if name == "indices" else 1)
    return elements * itemsize


def estimated(spec: LayerSpec, plan: Plan, call: ComputeCall) -> Estimate:
    """Estimate the cost of a call from its plan, including gradients and explanation."""
    inputs = sum(map(elements_as_if, plan.inputs.values()))
    outputs = sum(map(elements_as_if, plan.outputs.values()))
    differentiated = getattr(call, spec.gradient) is not None
    # In addition to the results: converted inputs, and the gradients of inputs and outputs.
    worked_on = inputs + differentiated * (inputs + outputs + plan.gradient_workspace)
    if plan.options.layout == "channels_last":  # copied to channels first, and back
        worked_on += (inputs + outputs) * (1 + differentiated)
    numbers = outputs + differentiated * inputs
    dtype, itemsize = DTYPES[call.dtype], working_itemsize(call)
    explained = (inputs + outputs + plan.workspace) * EXPLAIN_BYTES
    explained += spec.described_windows(plan) * WINDOW_BYTES
    return Estimate(
        ms=_estimated_ms(spec, plan, call),
        bytes=working_bytes(plan, call)
        + worked_on * itemsize
        + numbers * dtype.itemsize * (dtype.itemsize < itemsize)  # results are copied when rounded
        + call.explain * explained,
        numbers=numbers,
    )


def working_itemsize(call: ComputeCall) -> int:
    """Bytes per element in the dtype used for computing."""
    return max(DTYPES[call.dtype].itemsize, 8 if call.compute_dtype == "float64" else 4)


def _estimated_ms(spec: LayerSpec, plan: Plan, call: ComputeCall) -> float:
    fixed = EXPLAIN_MS + WINDOW_MS * spec.described_windows(plan) if call.explain else 0
    factor: float = BACKWARD_FACTOR if getattr(call, spec.gradient) is not None else 1
    factor *= plan.time_factor
    if call.explain:
        factor += EXPLAIN_FACTOR
    elements = sum(
        elements_as_if(shape) for ports in (plan.inputs, plan.outputs) for shape in ports.values()
    )
    # Gradients pass over the working memory again.
    moved_ns = elements * NS_PER_ELEMENT + plan.workspace * NS_PER_WORKING_ELEMENT
    computed_ns = plan.cost * plan.operation_ns + plan.overhead_ns
    spent_ns: float = factor * (computed_ns + moved_ns)
    return fixed + spent_ns / 1e6
