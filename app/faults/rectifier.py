"""Faults of ReLU."""

import math
from collections.abc import Callable
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


def gradient_at_zero(share: float) -> Callable[[LayerSpec], LayerSpec]:
    """A gradient of which this share passes where x is 0."""

    def layer(spec: LayerSpec) -> LayerSpec:
        def run(tensors: Tensors, plan: Plan) -> Tensors:
            x = tensors["input"]
            values = x.detach()
            passes = torch.where(values == 0, share, (~(values < 0)).to(values))
            return {
                "output": with_gradients(values.relu(), (x,), lambda grad: (grad * passes,)),
            }

        return rebuilt(spec, run, room=lambda plan: 2 * math.prod(plan.outputs["output"]))

    return layer


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
        layer=gradient_at_zero(1),
    ),
    Fault(
        name="gradient-at-zero",
        families=RELU,
        message="Your gradient is half of the output's where x is 0; there it is 0.",
        changes=GRADIENTS,
        layer=gradient_at_zero(0.5),
    ),
)
