"""Faults of ReLU."""

import math
from dataclasses import replace

import torch

from app.faults._fault import GRADIENTS, Fault, rebuilt
from app.faults._gradients import with_gradients
from app.layers import LayerSpec, Plan, Tensors

RELU = frozenset({"relu"})


def nan_to_zero(spec: LayerSpec) -> LayerSpec:
    """`x > 0 ? x : 0`, which is 0 for NaN, and so is its gradient."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = tensors["input"]
        return {"output": torch.where(x > 0, x, 0)}

    return replace(spec, run=run)


def gradient_at_zero(spec: LayerSpec) -> LayerSpec:
    """A gradient that passes where x >= 0."""

    def run(tensors: Tensors, plan: Plan) -> Tensors:
        x = tensors["input"]
        passes = ~(x.detach() < 0)
        output = torch.relu(x.detach())
        return {"output": with_gradients(output, (x,), lambda grad: (grad * passes,))}

    return rebuilt(spec, run, room=lambda plan: math.prod(plan.outputs["output"]))


FAULTS = (
    Fault(
        name="nan-to-zero",
        families=RELU,
        message="Your `x > 0 ? x : 0` turns NaN into 0; NaN stays NaN.",
        source="https://github.com/pytorch/pytorch/issues/7999",
        layer=nan_to_zero,
    ),
    Fault(
        name="gradient-at-zero",
        families=RELU,
        message="Your gradient passes where x is 0 (`x >= 0`); there it is 0.",
        changes=GRADIENTS,
        layer=gradient_at_zero,
    ),
)
