"""One layer of a planned chain."""

from dataclasses import dataclass

from app.compute.estimates import Estimate
from app.layers import LayerSpec, Plan
from app.schemas.calls import ComputeCall
from app.schemas.tensors import Shape


@dataclass(frozen=True, slots=True)
class Link:
    """A layer, its request, and its plan. `output_shape` is laid out as sent; `is_kept` says that
    the answer has this layer's output.
    """

    spec: LayerSpec
    call: ComputeCall
    plan: Plan
    estimate: Estimate
    output_shape: Shape
    is_kept: bool
