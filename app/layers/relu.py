"""Rectified linear unit."""

import math

import torch

from app.layers._accuracy import SELECTION
from app.layers._cases import numbers, with_options
from app.layers._spec import ANY_RANK, LayerSpec, Plan, Port, Tensors
from app.schemas.options import LayerOptions
from app.schemas.tensors import Shapes


class ReluOptions(LayerOptions):
    """ReLU has no options of its own."""


def plan(shapes: Shapes, options: ReluOptions) -> Plan:
    """Cost: one comparison per element."""
    shape = shapes["input"]
    return Plan(options, shapes, {"output": shape}, cost=math.prod(shape))


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """Works on any shape; the gradient at 0 is 0, and NaN stays NaN and passes the gradient."""
    return {"output": torch.relu(tensors["input"])}


SPECS = (
    LayerSpec(
        name="relu",
        family="relu",
        summary="Each element, or 0 where it is negative",
        options=ReluOptions,
        inputs=(Port("input", "any axes", ANY_RANK, differentiable=True),),
        outputs=(Port("output", "any axes", ANY_RANK),),
        plan=plan,
        run=run,
        accuracy=SELECTION,
        formula="y = max(x, 0); dy/dx = 0 where x <= 0, else 1",
        differences=(
            "The gradient at 0 is 0 in all of them.",
            "The gradient passes through NaN in torch and here, but not in TensorFlow and JAX.",
        ),
        example={"input": [-1, 0, 2]},
        own_cases=with_options(
            {"input": numbers(2, 3), "grad_output": "ones"},
            {"grad_output": numbers(2, 3), "explain": True},
            {"input": numbers(1, 2, 3, 2)},
        ),
    ),
)
