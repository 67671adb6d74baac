"""Global pooling: one value per channel."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from app.layers._accuracy import AVERAGE, MAXIMUM
from app.layers._cases import Case, image, numbers, with_options
from app.layers._pooling import average_notes, max_notes
from app.layers._precision import WIDE
from app.layers._spec import (
    BATCH_AND_CHANNELS,
    LayerSpec,
    Notes,
    Plan,
    Port,
    Tensors,
    check_not_empty,
    presets,
)
from app.layers._terms import linear_in_window, selected_maximum
from app.layers._windows import SlidingAxis
from app.schemas.options import Flag, LayerOptions
from app.schemas.tensors import Shapes


class GlobalPoolOptions(LayerOptions):
    """Options of global pooling."""

    keepdims: Flag = True
    """Whether to keep the spatial axes, with length 1."""


def plan_max(shapes: Shapes, options: GlobalPoolOptions) -> Plan:
    """Output shape, and cost: one operation per element."""
    shape = shapes["input"]
    check_not_empty(shape)
    axes = tuple(SlidingAxis(n, n, n, 1, 0, 0, ceil=False, keep=False) for n in shape[2:])
    return Plan(
        options=options,
        inputs=shapes,
        outputs={"output": shape[:2] + (1,) * len(axes) * options.keepdims},
        cost=math.prod(shape),
        axes=axes,
    )


def plan_avg(shapes: Shapes, options: GlobalPoolOptions) -> Plan:
    """Same as `plan_max`, plus working memory for the input in float64."""
    return replace(plan_max(shapes, options), workspace=WIDE * math.prod(shapes["input"]))


def run_max(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, 1...)` or `(N, C)`; the gradient goes to the first maximum."""
    x = tensors["input"]
    pool: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[x.dim() - 3]
    return {"output": pool(x, 1).view(plan.outputs["output"])}


def run_avg(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, 1...)` or `(N, C)`."""
    x, keepdims = tensors["input"], plan.options.keepdims
    spatial = tuple(range(2, x.dim()))
    return {"output": x.mean(spatial, keepdim=keepdims, dtype=torch.float64)}


def explain_max(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Where each channel's maximum is."""
    return max_notes(tensors["input"], plan)


def explain_avg(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """The number of elements per channel."""
    return average_notes(tensors["input"], plan, is_global=True)


def _cases() -> tuple[Case, ...]:
    return with_options(
        {"input": image(2), "grad_output": "ones"},
        {"keepdims": True, "explain": True},
        {"keepdims": False},
        {"keepdims": False, "grad_output": numbers(2, 2)},
        {"input": image(1)},
        {"input": image(3)},
    )


SPECS = tuple(
    LayerSpec(
        name=f"global_{kind}_pool",
        family="global_pool",
        summary=f"{word} of each channel, whatever the spatial size",
        options=GlobalPoolOptions,
        inputs=(Port("input", "(N, C, *spatial)", (3, 4, 5), mapped=True, differentiable=True),),
        outputs=(Port("output", "(N, C, 1...) or (N, C)", (2, 3, 4, 5), mapped=True),),
        plan=plan,
        run=run,
        explain=explain,
        accuracy=MAXIMUM if kind == "max" else AVERAGE,
        terms=selected_maximum if kind == "max" else linear_in_window,
        independent=BATCH_AND_CHANNELS,
        formula=formula,
        differences=(
            "Keras and Flax drop the spatial axes; torch and ONNX keep them, with length 1.",
        ),
        presets=presets(keras={"keepdims": False}, flax={"keepdims": False}),
        example={"input": [[[[1, 3], [5, 7]], [[2, 2], [4, 4]]]]},
        own_cases=_cases(),
    )
    for kind, word, plan, run, explain, formula in (
        ("max", "Largest element", plan_max, run_max, explain_max, "y = max(x) of each channel"),
        ("avg", "Mean", plan_avg, run_avg, explain_avg, "y = mean(x) of each channel"),
    )
)
