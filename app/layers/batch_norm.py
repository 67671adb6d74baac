"""Batch normalization: each channel to mean 0 and variance 1, then scaled and shifted."""

import math

from app.layers._accuracy import BATCH_NORM
from app.layers._batch_advice import advice_on
from app.layers._batch_statistics import (
    CHOICES,
    DIFFERENCES,
    FORMULA,
    PARAMETER_PORTS,
    PRESETS,
    STATISTICS_PORTS,
    BatchNormOptions,
    batch_terms,
    check_parameters,
    check_running,
    norm_plan,
    parameter_shapes,
    statistics_shapes,
    updated,
    with_batch,
    with_running,
)
from app.layers._cases import Case, image, numbers, with_options
from app.layers._spec import SPATIAL, SPATIAL_NAMES, LayerSpec, Notes, Plan, Port, Tensors
from app.layers._terms import Sums, Terms
from app.schemas.tensors import Shapes


def plan(shapes: Shapes, options: BatchNormOptions) -> Plan:
    """Check the request and compute its cost."""
    shape = shapes["input"]
    channels = shape[1]
    check_parameters(shapes, options, channels, shape[0] * math.prod(shape[2:]))
    statistics = statistics_shapes(channels) if options.training else {}
    return norm_plan(shapes, options, {"output": shape, **statistics}, channels, math.prod(shape))


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """`(N, C, *spatial) -> (N, C, *spatial)`; in training, also the updated statistics."""
    x, options = tensors["input"], plan.options
    check_running(tensors)
    if not options.training:
        return {"output": with_running(tensors, x, options.eps)}
    output, batch = with_batch(tensors, x, options.eps)
    return {
        "output": output,
        **updated(tensors, options, batch, x.numel() // x.shape[1]),
        **{f"batch_stats.{name}": value for name, value in batch.items()},
    }


def terms(sums: Sums) -> dict[str, Terms]:
    """The sums over each channel, and those of the updates."""
    return batch_terms(sums, sums.inputs["input"], sums.gradient)


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Advice on the batch and the options."""
    return Notes(advice=advice_on(tensors["input"], tensors, plan.options))


def _image(name: str, dims: int, *, differentiable: bool = False) -> Port:
    spatial = f"(N, C, {SPATIAL_NAMES[dims]})"
    axes, ranks = (f"(N, C) or {spatial}", (2, 3)) if dims == 1 else (spatial, (dims + 2,))
    return Port(name, axes, ranks, mapped=True, differentiable=differentiable)


def _example(dims: int) -> dict[str, object]:
    channel: object = [1, 2, 4, 5]
    for _ in range(dims - 1):
        channel = [channel]
    return {"input": [[channel, channel]], "training": True}


def _cases(dims: int) -> tuple[Case, ...]:
    others = ({"input": numbers(4, 2)},) if dims == 1 else ()
    base = {"input": image(dims), "training": True, "grad_output": "ones"}
    return with_options(base, *CHOICES, {"grad_output": image(dims, positive=True)}, *others)


SPECS = tuple(
    LayerSpec(
        name=f"batch_norm{dims}d",
        family="batch_norm",
        summary=f"Each channel to mean 0 and variance 1 over the batch and {SPATIAL[dims]}",
        options=BatchNormOptions,
        inputs=(_image("input", dims, differentiable=True), *PARAMETER_PORTS),
        outputs=(_image("output", dims), *STATISTICS_PORTS),
        plan=plan,
        run=run,
        explain=explain,
        presets=PRESETS,
        parameters=parameter_shapes,
        accuracy=BATCH_NORM,
        terms=terms,
        independent=frozenset({"channels"}),
        formula=FORMULA,
        differences=DIFFERENCES,
        example=_example(dims),
        own_cases=_cases(dims),
    )
    for dims in (1, 2, 3)
)
