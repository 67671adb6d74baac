"""Batch normalization over replicas, which each hold part of the batch and share its statistics."""

import math
from dataclasses import replace

import torch

from app.errors import InvalidRequest
from app.layers._accuracy import SYNC_BATCH_NORM
from app.layers._batch_advice import advice_on
from app.layers._batch_statistics import (
    CHOICES,
    DIFFERENCES,
    FORMULA,
    PARAMETER_PORTS,
    PRESETS,
    STATISTICS,
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
from app.layers._cases import Case, numbers, with_options
from app.layers._spec import LayerSpec, Notes, Plan, Port, Tensors
from app.layers._terms import Sums, Terms
from app.schemas.tensors import Shape, Shapes

IMAGE = ("(N, C) or (N, C, *spatial)", (2, 3, 4, 5))


def plan(shapes: Shapes, options: BatchNormOptions) -> Plan:
    """Check the request and compute its cost, which in training includes each replica alone."""
    inputs = [shape for name, shape in shapes.items() if name.startswith("inputs.")]
    channels = inputs[0][1]
    for index, shape in enumerate(inputs):
        if shape[1] != channels:
            detail = (
                f"inputs/{index}: expected {channels} channels, as inputs/0 has; "
                f"got the shape {list(shape)}"
            )
            raise InvalidRequest.at(f"inputs/{index}", "shape-mismatch", detail)
    check_parameters(shapes, options, channels, sum(map(_count, inputs)), image="inputs")
    outputs: dict[str, Shape] = {f"outputs.{i}": shape for i, shape in enumerate(inputs)}
    if options.training:
        outputs |= statistics_shapes(channels)
        for index, shape in enumerate(inputs):
            outputs[f"replicas.{index}.output"] = shape
            alone = {f"replicas.{index}.batch_stats.{name}": (channels,) for name in STATISTICS}
            outputs |= alone
    joined = sum(map(math.prod, inputs))
    plan = norm_plan(shapes, options, outputs, channels, joined)
    return replace(
        plan,
        cost=plan.cost * (2 if options.training else 1),
        workspace=plan.workspace + 2 * joined,
        gradient_workspace=plan.gradient_workspace + joined,
    )


def _count(shape: Shape) -> int:
    return shape[0] * math.prod(shape[2:])


def run(tensors: Tensors, plan: Plan) -> Tensors:
    """Each replica's `(N, C, *spatial) -> (N, C, *spatial)`; in training, also the updated joint
    statistics, and what each replica would have computed alone.
    """
    inputs, options = _inputs(tensors), plan.options
    check_running(tensors)
    joined = _joined(inputs)
    if not options.training:
        return _outputs(with_running(tensors, joined, options.eps), inputs)
    output, batch = with_batch(tensors, joined, options.eps)
    result = {
        **_outputs(output, inputs),
        **updated(tensors, options, batch, joined.shape[2]),
        **{f"batch_stats.{name}": value for name, value in batch.items()},
    }
    with torch.no_grad():
        for index, x in enumerate(inputs):
            alone, own = with_batch(tensors, x, options.eps)
            result[f"replicas.{index}.output"] = alone
            result |= {f"replicas.{index}.batch_stats.{n}": value for n, value in own.items()}
    return result


def _inputs(tensors: Tensors) -> list[torch.Tensor]:
    return [tensor for name, tensor in tensors.items() if name.startswith("inputs.")]


def _joined(inputs: list[torch.Tensor]) -> torch.Tensor:
    """Join the replicas to `(1, C, values)`, since their spatial sizes may differ too."""
    return torch.cat([x.transpose(0, 1).flatten(1) for x in inputs], dim=1).unsqueeze(0)


def _outputs(joined: torch.Tensor, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Split `(1, C, values)` back to each replica's own shape."""
    parts = joined[0].split([x.numel() // x.shape[1] for x in inputs], dim=1)
    return {
        f"outputs.{index}": part.view(x.transpose(0, 1).shape).transpose(0, 1)
        for index, (part, x) in enumerate(zip(parts, inputs, strict=True))
    }


def terms(sums: Sums) -> dict[str, Terms]:
    """The sums over all replicas, which bound those of each."""
    inputs = _inputs(sums.inputs)
    given = None if sums.gradients is None else _joined(list(sums.gradients.values()))
    found = batch_terms(sums, _joined(inputs), given)
    named: dict[str, Terms] = {}
    for name, (length, size) in found.items():
        if name in ("output", "gradients.input"):
            for path, part in _outputs(size, inputs).items():
                wanted = path if name == "output" else path.replace("outputs", "gradients.inputs")
                named[wanted] = Terms(length, part)
        else:
            named[name] = Terms(length, size)
    if sums.plan.options.training:
        for index in range(len(inputs)):
            named[f"replicas.{index}.output"] = named[f"outputs.{index}"]
            for statistic in ("mean", "var", "var_unbiased"):
                name = f"batch_stats.{statistic}"
                named[f"replicas.{index}.{name}"] = named[name]
    return named


def explain(tensors: Tensors, outputs: Tensors, plan: Plan) -> Notes:
    """Advice on the joined batch and the options."""
    return Notes(advice=advice_on(_joined(_inputs(tensors)), tensors, plan.options))


def _cases() -> tuple[Case, ...]:
    replicas = [numbers(2, 2, 3), numbers(1, 2, 4, positive=True)]
    base = {"inputs": replicas, "training": True, "grad_outputs": "ones"}
    flat = [numbers(4, 2), numbers(1, 2, positive=True)]
    return with_options(base, *CHOICES, {"grad_outputs": replicas}, {"inputs": flat})


SPECS = (
    LayerSpec(
        name="sync_batch_norm",
        family="sync_batch_norm",
        summary="Batch norm whose statistics span the batches of all replicas",
        options=BatchNormOptions,
        inputs=(
            Port("inputs", *IMAGE, mapped=True, differentiable=True, many=True),
            *PARAMETER_PORTS,
        ),
        outputs=(
            Port("outputs", *IMAGE, mapped=True, many=True),
            *STATISTICS_PORTS,
            Port("replicas.output", *IMAGE, required=False, mapped=True),
            *(Port(f"replicas.batch_stats.{n}", "(C)", (1,), required=False) for n in STATISTICS),
        ),
        plan=plan,
        run=run,
        explain=explain,
        presets=PRESETS,
        parameters=parameter_shapes,
        accuracy=SYNC_BATCH_NORM,
        terms=terms,
        formula=FORMULA + " The mean and variance are those of all replicas' values together.",
        differences=(
            *DIFFERENCES,
            "torch's SyncBatchNorm is ordinary batch norm on a CPU, and gives each replica the "
            "weight gradients of its own batch; here they are summed.",
        ),
        example={"inputs": [[[1, 2], [3, 5]], [[7, 4]]], "training": True},
        own_cases=_cases(),
    ),
)
