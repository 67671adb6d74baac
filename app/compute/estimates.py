"""What a planned request takes, from above: time, memory, numbers to write."""

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
"""What describing a window takes, its text included."""
EXPLAIN_BYTES = 8
"""Explanations compute all again in float64."""
INDEX_BYTES = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """Computing time (ms), memory beside the request's own tensors (bytes), and the numbers of the
    answer. Estimates of several requests add up.
    """

    ms: float = 0.0
    bytes: int = 0
    numbers: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.ms + other.ms, self.bytes + other.bytes, self.numbers + other.numbers)


def elements_as_if(shape: Shape) -> int:
    """Elements, as if an empty axis had one: what is made for the others is no shorter for it."""
    return math.prod(max(length, 1) for length in shape)


def working_bytes(plan: Plan, call: ComputeCall) -> int:
    """Memory of the results and of what computes them."""
    itemsize = _itemsize(call)
    elements = plan.workspace
    for name, shape in plan.outputs.items():
        elements += elements_as_if(shape) * (INDEX_BYTES // itemsize if name == "indices" else 1)
    return elements * itemsize


def estimated(spec: LayerSpec, plan: Plan, call: ComputeCall) -> Estimate:
    """What the call takes by its plan, its gradients and explanation included."""
    inputs = sum(map(elements_as_if, plan.inputs.values()))
    outputs = sum(map(elements_as_if, plan.outputs.values()))
    differentiated = getattr(call, spec.gradient) is not None
    # Beside results: the inputs as they are worked on, their gradients and the outputs'.
    worked_on = inputs + differentiated * (inputs + outputs + plan.gradient_workspace)
    if plan.options.layout == "channels_last":  # copies in the layers' own order, and back
        worked_on += (inputs + outputs) * (1 + differentiated)
    numbers = outputs + differentiated * inputs
    dtype = DTYPES[call.dtype]
    explained = (inputs + outputs + plan.workspace) * EXPLAIN_BYTES
    explained += spec.described_windows(plan) * WINDOW_BYTES
    return Estimate(
        ms=_estimated_ms(spec, plan, call),
        bytes=working_bytes(plan, call)
        + worked_on * _itemsize(call)
        + numbers * dtype.itemsize * dtype.is_half  # results are rounded into copies
        + call.explain * explained,
        numbers=numbers,
    )


def _itemsize(call: ComputeCall) -> int:
    """Bytes of an element in the dtype that is computed in."""
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
    # Gradients go through the working memory again.
    moved_ns = elements * NS_PER_ELEMENT + plan.workspace * NS_PER_WORKING_ELEMENT
    computed_ns = plan.cost * plan.operation_ns + plan.overhead_ns
    spent_ns: float = factor * (computed_ns + moved_ns)
    return fixed + spent_ns / 1e6
